"""What an exported file says of itself."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple, Union

import onnx

from ..errors import InputError
from ..version import __version__

PREFIX = 'mmcdnv2.'
CHECKSUM = f'{PREFIX}checksum'
# A reader refuses files of a later one.
FORMAT = 1
_DIGITS = 64
_UNCLEAR = '{} has metadata that are not understood: export it again.'
# What a step must tell, by its operation and mode.
_NEEDED: Dict[Any, Set[str]] = {
    ('resize', 'stretch'): {'size'},
    ('resize', 'fit'): {'long', 'short'},
    ('resize', 'short_side'): {'size'},
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


def read_metadata(path: Union[str, Path]) -> Metadata:
    """Read what a file says of itself, after a look at its checksum.

    Args:
        path (str | Path): A file that :func:`write_model` wrote.

    Returns:
        Metadata: What it says.

    Raises:
        InputError: If it is missing, damaged, changed, from elsewhere, of another
            format, or says what cannot be understood.
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
    checksum = found.pop(CHECKSUM, None)
    if checksum is None:
        raise InputError(
            f'{path} has no metadata of mmcdnv2: a file that this package exported '
            'was expected.'
        )
    blank = content[:-_DIGITS] + b'0' * _DIGITS
    if hashlib.sha256(blank).hexdigest() != checksum:
        raise InputError(
            f'{path} was changed since it was exported: its checksum differs. Export '
            'it again.'
        )
    try:
        written = int(found[f'{PREFIX}format'])
        if written == FORMAT:
            return _understood(found)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(_UNCLEAR.format(path)) from error
    if written < FORMAT:
        raise InputError(_UNCLEAR.format(path))
    raise InputError(
        f'{path} has metadata of format {written}, this version of mmcdnv2 reads '
        f'{FORMAT}: install a later one.'
    )


def _understood(found: Dict[str, str]) -> Metadata:
    """Turn texts into metadata; raise a KeyError, TypeError or ValueError if odd."""
    values: Dict[str, Any] = {}
    for each in fields(Metadata):
        text = found[f'{PREFIX}{each.name}']
        values[each.name] = text if each.type in (str, 'str') else json.loads(text)
    given, steps = values['input'], values['preprocess']
    if not (
        isinstance(values['raw'], bool)
        and _are(str, values['classes'])
        and _are(dict, steps)
        and all(_NEEDED[step['op'], step.get('mode')] <= set(step) for step in steps)
        and _are(int, given['size'])
        and len(given['size']) == 2
        and _are(str, given['dynamic'])
    ):
        raise ValueError('Something has another type.')
    values['input'] = Input(
        **dict(given, size=tuple(given['size']), dynamic=tuple(given['dynamic']))
    )
    values['classes'] = tuple(values['classes'])
    return Metadata(**values)


def _are(kind: type, values: Any) -> bool:
    """Tell whether something is a list of values of a type."""
    return isinstance(values, list) and all(isinstance(each, kind) for each in values)
