"""Predicts on images and writes what was found."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, List, Optional, Sequence, Union

import mmcv

from ..errors import InputError, in_one_line
from ..files import check_writable, replace_when_done
from .images import picture_names
from .predictors import Found, Predictor

# Beside the pictures.
JSON_NAME = 'predictions.json'


@dataclass(frozen=True)
class Prediction:
    """What was found in an image.

    Attributes:
        image (str): Its path.
        found (list[Found]): The best first.
        milliseconds (float): What the model took, without reading and scaling.
        picture (str, optional): Path of the picture, if one was drawn.
    """

    image: str
    found: List[Found]
    milliseconds: float
    picture: Optional[str] = None


@dataclass(frozen=True)
class Failure:
    """An image on which nothing could be predicted.

    Attributes:
        image (str): Its path.
        error (str): Why, in one sentence.
    """

    image: str
    error: str


Result = Union[Prediction, Failure]


def predict_images(
    predictor: Predictor,
    images: Sequence[str],
    out: Union[str, Path, None] = None,
    json_file: Union[str, Path, None] = None,
    track: Callable[[Iterable], Iterable] = iter,
    **about: Any,
) -> List[Result]:
    """Predict on images, one after the other, and write what is found.

    Args:
        predictor (Predictor): The model.
        images (Sequence[str]): Paths of the images.
        out (str | Path, optional): Folder for pictures and ``predictions.json``.
            Defaults to none: nothing is drawn.
        json_file (str | Path, optional): File for the same JSON. Defaults to none.
        track (Callable): Passes the images on and may show the progress. Defaults to
            no progress.
        **about (Any): What to say of the model in JSON, plain data.

    Returns:
        list[Prediction | Failure]: What was found, or why nothing could be, for each
        image.

    Raises:
        InputError: If no image can be used, or what is to be written cannot be.
            Nothing is written then.
    """
    json_files = [Path(json_file)] if json_file is not None else []
    pictures: List[Optional[str]] = [None] * len(images)
    if out is not None:
        json_files.append(Path(out) / JSON_NAME)
        pictures = _picture_paths(images, out)
    for target in (*json_files, *pictures):
        if target is not None:
            check_writable(target)
    results: List[Result] = []
    for image, picture in track(list(zip(images, pictures))):
        results.append(_predict(predictor, image, picture))
    failures = [each for each in results if isinstance(each, Failure)]
    if len(failures) == len(results):
        first = f'{failures[0].image}: {failures[0].error}'
        several = f'None of {len(images)} images can be used. The first one is '
        raise InputError((several if len(images) > 1 else '') + first)
    content = dict(
        task=predictor.task,
        classes=predictor.classes,
        **about,
        images=[asdict(each) for each in results],
    )
    for path in json_files:
        with replace_when_done(path) as partial:
            partial.write_text(json.dumps(content, indent=2) + '\n')
    return results


def _predict(predictor: Predictor, image: str, picture: Optional[str]) -> Result:
    """Predict on an image, and draw it if the picture has a path."""
    try:
        if not os.path.isfile(image):
            return Failure(image, 'There is no such file.')
        if not _is_readable(image):
            return Failure(image, 'It is not an image that can be read.')
        sample, seconds = predictor.predict(image)
        found = predictor.found(sample)
        pixels = predictor.draw(image, sample) if picture is not None else None
    except InputError as error:
        return Failure(image, str(error))
    except Exception as error:
        # As when nothing is left of a small image on its way through the network.
        return Failure(image, f'It cannot be predicted on: {in_one_line(error)}')
    if pixels is not None:
        with replace_when_done(str(picture)) as path:
            mmcv.imwrite(pixels[..., ::-1], str(path))
    return Prediction(image, found, 1e3 * seconds, picture)


def _is_readable(image: str) -> bool:
    try:
        return mmcv.imread(image) is not None
    except Exception:
        # A damaged file may make a decoder raise anything.
        return False


def _picture_paths(images: Sequence[str], out: Union[str, Path]) -> List[Optional[str]]:
    """Paths of the pictures, none of which is an image's own."""
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError(f'{out} is not a folder: the pictures need one.')
    paths = [os.path.join(out, name) for name in picture_names(images)]
    originals = {os.path.realpath(image) for image in images}
    for path in paths:
        if os.path.realpath(path) in originals:
            raise InputError(
                f'The image {path} would be replaced by its picture: choose another '
                'folder for the pictures.'
            )
    return list(paths)
