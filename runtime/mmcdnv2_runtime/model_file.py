"""What an exported file says of itself, and whether it is as it was written.

ONNX Runtime would tell the metadata only of a file that it has loaded. They are
read here before, in a few steps from field to field of the file, so that a file
that cannot be run is refused with a sentence of its own.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Tuple, Union

from .errors import ModelError, first_line

FORMAT = 1
# In pixels. What is larger is a mistake, and would fill the memory.
LARGEST_SIDE = 1 << 15
# Of SHA-256 in hexadecimal.
_DIGITS = 64
_CHUNK = 1 << 20
# ModelProto.metadata_props, and key and value of its StringStringEntryProto.
_METADATA, _KEY, _VALUE = 14, 1, 2
# TensorProto.external_data.
_EXTERNAL = 13
# Fields that lead to tensors, by the message's kind, and the kind that they are of.
_FIELDS: Dict[str, Dict[int, str]] = {
    'model': {7: 'graph', 20: 'training', 25: 'function'},
    'training': {1: 'graph', 2: 'graph'},
    'function': {7: 'node', 11: 'attribute'},
    'graph': {1: 'node', 5: 'tensor', 15: 'sparse'},
    'node': {5: 'attribute'},
    'attribute': {
        5: 'tensor',
        10: 'tensor',
        22: 'sparse',
        23: 'sparse',
        6: 'graph',
        11: 'graph',
    },
    'sparse': {1: 'tensor', 2: 'tensor'},
    'tensor': {},
}


class ModelFile(NamedTuple):
    """An exported file's metadata.

    Attributes:
        path (Path): The file.
        version (str): The version of mmcdnv2 that wrote it.
        task (str): 'classification', 'detection' or 'features'.
        raw (bool): Whether its outputs are those of the network's heads.
        native (bool): Whether it needs this package's operators.
        classes (list[str]): Their names, empty if unknown.
        dtype (str): Of the input, 'uint8' or 'float32'.
        channel_order (str): Of the input, 'BGR' or 'RGB'.
        size (tuple[int]): Height and width of the input, those of the test.
        dynamic (list[str]): What may differ from them: 'batch', 'height', 'width'.
        steps (list[dict]): The preprocessing.
        mask_threshold (float): From which probability on a pixel belongs to an
            object's mask.
    """

    path: Path
    version: str
    task: str
    raw: bool
    native: bool
    classes: List[str]
    dtype: str
    channel_order: str
    size: Tuple[int, int]
    dynamic: List[str]
    steps: List[Dict[str, Any]]
    mask_threshold: float


def read_model_file(path: Union[str, Path], verify: bool = True) -> ModelFile:
    """Read an exported file's metadata.

    Args:
        path (str | Path): The file.
        verify (bool): Whether to compare its bytes with its checksum, piece by
            piece. False accepts a file that was changed on purpose, as long as
            the metadata are still there. Defaults to True.

    Returns:
        ModelFile: The metadata.

    Raises:
        ModelError: If it is no such file, or not as it was written.
    """
    path = Path(path)
    try:
        with path.open('rb') as stream:
            metadata = _read_metadata(path, stream)
            _check_format(path, metadata)
            if verify:
                _check_checksum(path, stream)
            _check_whole(path, stream)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ModelError(f'{path} cannot be read: {reason}.') from error
    try:
        spec = json.loads(metadata['mmcdnv2.input'])
        height, width = map(side, spec['size'])
        return ModelFile(
            path,
            metadata['mmcdnv2.version'],
            metadata['mmcdnv2.task'],
            _one_of(metadata['mmcdnv2.raw'], 'false', 'true') == 'true',
            _one_of(metadata['mmcdnv2.operators'], 'native', 'standard') == 'native',
            [str(name) for name in _list(metadata['mmcdnv2.classes'])],
            _one_of(spec['dtype'], 'uint8', 'float32'),
            _one_of(spec['channel_order'], 'BGR', 'RGB'),
            (height, width),
            list(spec['dynamic']),
            [dict(step) for step in _list(metadata['mmcdnv2.preprocess'])],
            # Files of earlier versions do not have it.
            float(metadata.get('mmcdnv2.mask_threshold', 0.5)),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f'{path} has metadata that are not understood ({first_line(error)}); '
            'export it again.'
        ) from error


def _list(text: str) -> List[Any]:
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError(f'{text:.40} is no list')
    return values


def side(value: Any) -> int:
    """Return a number of pixels, if it is one.

    Args:
        value (Any): What a file's metadata say.

    Returns:
        int: The same.

    Raises:
        ValueError: If it is something else, or would fill the memory.
    """
    if type(value) is not int or not 0 < value <= LARGEST_SIDE:
        raise ValueError(f'{value!r:.40} is no number of pixels')
    return value


def _one_of(value: str, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f'{value!r:.40} is none of {", ".join(choices)}')
    return value


def _read_metadata(path: Path, stream: BinaryIO) -> Dict[str, str]:
    metadata = {}
    try:
        for number, length in _fields(stream, os.fstat(stream.fileno()).st_size):
            if number == _METADATA:
                content = stream.read(length)
                entry = io.BytesIO(content)
                texts = {
                    number: entry.read(length).decode()
                    for number, length in _fields(entry, len(content))
                }
                metadata[texts.get(_KEY, '')] = texts.get(_VALUE, '')
    except ValueError as error:
        raise ModelError(
            f'{path} is no ONNX file or is damaged ({first_line(error)}); '
            'copy or export it again.'
        ) from error
    return metadata


def _fields(stream: BinaryIO, size: int) -> Iterator[Tuple[int, int]]:
    """Walk through a Protocol Buffers message.

    Args:
        stream (BinaryIO): At the message's start.
        size (int): Where the message ends.

    Yields:
        tuple[int]: A field's number and its length, if it has one; the stream
        is at its content. Numbers are passed over.
    """
    while stream.tell() < size:
        number, kind = divmod(_varint(stream), 8)
        if kind == 0:
            _varint(stream)
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f'a field of unknown kind {kind}')
        length = {1: 8, 5: 4}.get(kind) or _varint(stream)
        end = stream.tell() + length
        if end > size:
            raise ValueError('it ends too early')
        if kind == 2:
            yield number, length
        stream.seek(end)


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise ValueError('it ends too early')
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError('a number of more than 64 bits')


def _check_format(path: Path, metadata: Dict[str, str]) -> None:
    if 'mmcdnv2.format' not in metadata:
        raise ModelError(
            f'{path} has no metadata of mmcdnv2; export the model with its '
            'tools/export.py.'
        )
    number = metadata['mmcdnv2.format']
    if number != str(FORMAT):
        writer = metadata.get('mmcdnv2.version', 'unknown')
        raise ModelError(
            f'{path} has format {number:.20}, written by mmcdnv2 {writer:.20}, but '
            f'format {FORMAT} is what is understood here; update mmcdnv2-runtime.'
        )


def _check_whole(path: Path, stream: BinaryIO) -> None:
    """Refuse weights in other files, which no checksum covers."""
    try:
        stream.seek(0)
        size = os.fstat(stream.fileno()).st_size
        is_whole = not _has_external(stream, size, 'model')
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f'{path} is no ONNX file or is damaged ({first_line(error)}); '
            'copy or export it again.'
        ) from error
    if not is_whole:
        raise ModelError(
            f'{path} takes weights from other files; save them all in one file, or '
            'export it again.'
        )


def _has_external(stream: BinaryIO, size: int, kind: str) -> bool:
    """Tell whether a message of a kind, up to a place, has such a tensor."""
    for number, length in _fields(stream, size):
        if kind == 'tensor' and number == _EXTERNAL:
            return True
        inner = _FIELDS[kind].get(number)
        if inner and _has_external(stream, stream.tell() + length, inner):
            return True
    return False


def _check_checksum(path: Path, stream: BinaryIO) -> None:
    """Compare the bytes before the digits at the file's end with these digits."""
    digest = hashlib.sha256()
    remaining = stream.seek(-_DIGITS, os.SEEK_END)
    stored = stream.read(_DIGITS)
    stream.seek(0)
    while remaining:
        chunk = stream.read(min(_CHUNK, remaining))
        if not chunk:
            break
        digest.update(chunk)
        remaining -= len(chunk)
    digest.update(b'0' * _DIGITS)
    if digest.hexdigest().encode() != stored:
        raise ModelError(
            f'{path} was changed since it was exported (its checksum differs); if by '
            'accident, such as a failed copy, copy or export it again; if on purpose, '
            'such as by a quantiser, pass --no-verify, or verify=False in Python.'
        )
