"""The command mmcdnv2-run."""

import argparse
import errno
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np

from .drawing import draw
from .errors import ImageError, ModelError
from .images import load_image
from .model import Classifier, Detector
from .model_file import read_model_file

_TOP_CLASSES = 5


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Run the command.

    Args:
        arguments (Sequence[str], optional): Its arguments. Defaults to None,
            those of the process.
    """
    # Names of files and classes may have letters that the terminal has not.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    args = _parse_args(arguments)
    try:
        failures = _run(args)
        sys.stdout.flush()
    except ModelError as error:
        sys.exit(f'error: {error}')
    except BrokenPipeError:
        # Nobody reads any more; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if failures:
        sys.exit(1)


def _parse_args(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='mmcdnv2-run',
        description='Run an exported classifier or detector on images.',
    )
    parser.add_argument('images', nargs='+', metavar='IMAGE')
    parser.add_argument('model', metavar='MODEL.onnx')
    parser.add_argument(
        '--threads',
        type=_positive,
        help='how many threads run it (default: one for each core)',
    )
    parser.add_argument(
        '--score-threshold',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='leave out boxes of lower scores (default: 0.3)',
    )
    parser.add_argument(
        '--top',
        type=_positive,
        help='how many classes or boxes of an image at most '
        f'(default: {_TOP_CLASSES} classes, all boxes)',
    )
    parser.add_argument(
        '--no-verify',
        dest='verify',
        action='store_false',
        help='accept a file that was changed since it was exported',
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the results to this file'
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='draw the boxes, into this folder'
    )
    return parser.parse_intermixed_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _run(args: argparse.Namespace) -> int:
    """Run the model on all images.

    Args:
        args (argparse.Namespace): The options.

    Returns:
        int: How many images could not be used.
    """
    model: Union[Classifier, Detector]
    # What is neither of them gets the detector's sentence.
    if read_model_file(args.model, verify=False).task == 'classification':
        if args.out:
            raise ModelError(
                f'{args.model} is a classifier, which has no boxes to draw; leave '
                'out --out.'
            )
        model = Classifier(args.model, args.threads, args.verify)
    else:
        model = Detector(args.model, args.threads, args.verify)
    pictures = _picture_paths(args.images, args.out)
    results: List[Dict[str, Any]] = []
    failures = 0
    for name, picture in zip(args.images, pictures):
        try:
            image = load_image(name)
            if isinstance(model, Classifier):
                result = _classify(model, image, args.top or _TOP_CLASSES)
            else:
                result = _detect(model, image, args, picture)
        except ImageError as error:
            failures += 1
            sentence = str(error) if name in str(error) else f'{name}: {error}'
            results.append({'image': name, 'error': sentence})
            # Where both go to one place, they stay in order.
            sys.stdout.flush()
            print(f'error: {sentence}', file=sys.stderr)
            continue
        results.append({'image': name, **result})
        height, width = image.shape[:2]
        print(f'{name} ({width}x{height})')
        (found,) = result.values()
        print(_table(found))
    if args.json:
        content = {'model': args.model, 'images': results}
        with _replace_when_done(args.json) as partial:
            partial.write_text(json.dumps(content, indent=1) + '\n')
    return failures


def _classify(model: Classifier, image: np.ndarray, top: int) -> Dict[str, Any]:
    found = model(image, 'RGB').top(top)
    return {
        'classes': [
            {'name': item.name, 'label': item.label, 'score': round(item.score, 4)}
            for item in found
        ]
    }


def _detect(
    model: Detector,
    image: np.ndarray,
    args: argparse.Namespace,
    picture: Optional[Path],
) -> Dict[str, Any]:
    found = model(image, 'RGB', args.score_threshold).select(slice(args.top))
    if picture:
        with _replace_when_done(picture) as partial:
            draw(image, found).save(partial, 'JPEG', quality=90)
    return {
        'boxes': [
            {
                'name': item.name,
                'label': item.label,
                'score': round(item.score, 4),
                'box': [round(side, 1) for side in item.box],
            }
            for item in found
        ]
    }


def _table(found: List[Dict[str, Any]]) -> str:
    """Align what was found in columns.

    Args:
        found (list[dict]): Classes or boxes.

    Returns:
        str: A line with the columns' names and one for each.
    """
    if not found:
        return '  nothing found\n'
    rows = [['class', 'score', 'left', 'top', 'right', 'bottom']]
    for item in found:
        sides = [f'{side:.1f}' for side in item.get('box', ())]
        rows.append([item['name'], f'{item["score"]:.4f}', *sides])
    # Classes have no boxes.
    columns = list(zip(*rows))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append('  ' + '  '.join(cells) + '\n')
    return ''.join(lines)


def _picture_paths(
    images: Sequence[str], folder: Optional[Path]
) -> List[Optional[Path]]:
    """Choose where to draw, each to a place of its own and over no image.

    Args:
        images (Sequence[str]): The images.
        folder (Path, optional): Where the pictures go, if anywhere.

    Returns:
        list[Path | None]: One for each image.
    """
    if folder is None:
        return [None] * len(images)
    taken = {Path(image).resolve() for image in images}
    paths: List[Optional[Path]] = []
    for image in images:
        stem = Path(image).stem
        path, number = folder / f'{stem}.jpg', 1
        while path.resolve() in taken:
            number += 1
            path = folder / f'{stem}_{number}.jpg'
        taken.add(path.resolve())
        paths.append(path)
    return paths


@contextmanager
def _replace_when_done(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; rename it if all went well.

    Args:
        path (Path): The final name.

    Yields:
        Path: A name in the same folder.
    """
    partial = path.parent / f'.{path.name}.{os.getpid()}'
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        sys.exit(f'error: {path} cannot be written: {error.strerror}.')
    finally:
        if partial.exists():
            partial.unlink()
