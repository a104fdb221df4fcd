"""What an exported file says of itself."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple, Union

import onnx
from google.protobuf.message import Message

from ..errors import ChangedFileError, InputError
from ..version import __version__

PREFIX = 'mmcdnv2.'
CHECKSUM = f'{PREFIX}checksum'
# A reader refuses files of a later one.
FORMAT = 1
# In pixels. What is larger is a mistake, and would fill the memory.
LARGEST_SIDE = 1 << 15
_DIGITS = 64
_UNCLEAR = '{} has metadata that are not understood: export it again.'
# What a step must tell, by its operation and mode.
_NEEDED: Dict[Any, Set[str]] = {
    ('resize', 'stretch'): {'size', 'interpolation', 'antialias'},
    ('resize', 'fit'): {'long', 'short', 'interpolation', 'antialias'},
    ('resize', 'short_side'): {'size', 'interpolation', 'antialias'},
    ('crop', None): {'size'},
    ('pad', None): {'size', 'value'},
}


@dataclass(frozen=True)
class Input:
    """What goes in.

    Attributes:
        dtype (str): 'uint8' or 'float32'.
        layout (str): 'NCHW'.
        channel_order (str): 'BGR' or 'RGB'.
        size (tuple[int]): Height and width in pixels, of the tests.
        dynamic (tuple[str]): Which of 'batch', 'height' and 'width' may be others.
    """

    dtype: str
    layout: str
    channel_order: str
    size: Tuple[int, int]
    dynamic: Tuple[str, ...]


@dataclass(frozen=True)
class Metadata:
    """What an exported file says of itself; docs/export.md has the keys.

    Attributes:
        task (str): 'classification', 'detection' or 'features'.
        raw (bool): Whether it returns what the heads return.
        operators (str): 'native' or 'standard'.
        config (str): Name of the config.
        weights_sha256 (str): Checksum of the condensed weights.
        classes (tuple[str]): Their names, none where they are not known.
        input (Input): What goes in.
        preprocess (list[dict]): What is done to an image before; see
            :mod:`~mmcdnv2.export.pipeline`.
        mask_threshold (float): From which probability on a pixel belongs to an
            object's mask.
        version (str): Of this package.
        format (int): Of the metadata.
    """

    task: str
    raw: bool
    operators: str
    config: str
    weights_sha256: str
    classes: Tuple[str, ...]
    input: Input
    preprocess: List[Dict[str, Any]]
    mask_threshold: float = 0.5
    version: str = __version__
    format: int = FORMAT


def write_model(
    model: onnx.ModelProto, metadata: Metadata, path: Union[str, Path]
) -> None:
    """Write a file with its metadata and, at its very end, its checksum.

    The checksum is SHA-256 of the file with zeros for the checksum's digits.

    Args:
        model (onnx.ModelProto): The graph; gets the metadata.
        metadata (Metadata): What to say of it.
        path (str | Path): The file.
    """
    del model.metadata_props[:]
    values = {
        f'{PREFIX}{key}': value if isinstance(value, str) else json.dumps(value)
        for key, value in asdict(metadata).items()
    }
    for key, value in {**values, CHECKSUM: '0' * _DIGITS}.items():
        model.metadata_props.add(key=key, value=value)
    content = bytearray(model.SerializeToString(deterministic=True))
    # Fields are written in the order of their numbers, and none that we write has a
    # higher one than the metadata.
    assert content.endswith(b'0' * _DIGITS)
    content[-_DIGITS:] = hashlib.sha256(content).hexdigest().encode()
    Path(path).write_bytes(content)


def read_metadata(path: Union[str, Path], verify: bool = True) -> Metadata:
    """Read a file's metadata.

    Args:
        path (str | Path): A file that :func:`write_model` wrote.
        verify (bool): Whether to compare the file with its checksum. False accepts
            a file that was changed on purpose, as long as the metadata are still
            there. Defaults to True.

    Returns:
        Metadata: The metadata.

    Raises:
        ChangedFileError: If its checksum differs.
        InputError: If the file is missing, damaged, from elsewhere or of another
            format, or its metadata are not understood.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror}.') from error
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:
        # protobuf has its own kinds of errors.
        raise InputError(f'{path} is damaged or not an ONNX file.') from error
    found = {each.key: each.value for each in model.metadata_props}
    if not any(key.startswith(PREFIX) for key in found):
        raise InputError(
            f'{path} has no metadata of mmcdnv2: a file that this package exported '
            'was expected.'
        )
    blank = content[:-_DIGITS] + b'0' * _DIGITS
    if verify and hashlib.sha256(blank).hexdigest() != found.get(CHECKSUM):
        raise ChangedFileError(
            f'{path} was changed since it was exported (its checksum differs); if by '
            'accident, such as a failed copy, copy or export it again; if on purpose, '
            'such as by a quantiser, pass verify=False.'
        )
    if next(_external(model), None) is not None:
        # The checksum does not cover them, and they may be anyone's.
        raise InputError(
            f'{path} takes weights from other files: save them all in one file, or '
            'export it again.'
        )
    try:
        written = int(found[f'{PREFIX}format'])
        if written == FORMAT:
            return _understood(found)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(_UNCLEAR.format(path)) from error
    if written < FORMAT:
        raise InputError(_UNCLEAR.format(path))
    raise InputError(
        f'{path} has metadata of format {written}, this version of mmcdnv2 reads '
        f'{FORMAT}: install a later one.'
    )


def _external(message: Message) -> Iterator[onnx.TensorProto]:
    """Find the tensors of a model, wherever they are, that lie in other files."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        # Single messages have no len.
        for each in value if hasattr(value, '__len__') else [value]:
            yield from _external(each)


def _understood(found: Dict[str, str]) -> Metadata:
    """Turn texts into metadata; raise a KeyError, TypeError or ValueError if odd."""
    values: Dict[str, Any] = {}
    for each in fields(Metadata):
        if each.name == 'mask_threshold' and f'{PREFIX}{each.name}' not in found:
            # Files of earlier versions do not have it.
            continue
        text = found[f'{PREFIX}{each.name}']
        values[each.name] = text if each.type in (str, 'str') else json.loads(text)
    given, steps = values['input'], values['preprocess']
    if not (
        isinstance(values['raw'], bool)
        and isinstance(values.get('mask_threshold', 0.5), (int, float))
        and _are(str, values['classes'])
        and _are(dict, steps)
        and all(_is_step(step) for step in steps)
        and _are_sizes(given['size'], 2)
        and _are(str, given['dynamic'])
    ):
        raise ValueError('Something has another type.')
    values['input'] = Input(
        **dict(given, size=tuple(given['size']), dynamic=tuple(given['dynamic']))
    )
    values['classes'] = tuple(values['classes'])
    return Metadata(**values)


def _is_step(step: Dict[str, Any]) -> bool:
    """Tell whether a step of the preprocessing is one that can be done."""
    kind = (step['op'], step.get('mode'))
    if not _NEEDED[kind] <= set(step):
        return False
    if kind[0] == 'resize' and step['interpolation'] not in ('bilinear', 'bicubic'):
        return False
    if kind == ('resize', 'fit'):
        # How long the longer side may be, is often not limited.
        return type(step['long']) is int and _are_sizes([step['short']], 1)
    if kind == ('resize', 'short_side'):
        return _are_sizes([step['size']], 1)
    if kind[0] == 'pad':
        value = step['value']
        if not (isinstance(value, list) and len(value) == 3):
            return False
        if not all(0 <= each < 256 for each in value):
            return False
    return _are_sizes(step['size'], 2)


def _are_sizes(values: Any, count: int) -> bool:
    """Tell whether something is a list of numbers of pixels."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(each) is int and 0 < each <= LARGEST_SIDE for each in values)
    )


def _are(kind: type, values: Any) -> bool:
    """Tell whether something is a list of values of a type."""
    return isinstance(values, list) and all(isinstance(each, kind) for each in values)
