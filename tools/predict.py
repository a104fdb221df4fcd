"""Predict on images with a classifier or a detector, in PyTorch or exported."""

import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional, Sequence, Union

# OpenMP reads this when PyTorch is loaded. By default its threads wait actively for
# each other, which takes many times as long where another process needs a core.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from rich.markup import escape
from rich.table import Table

from mmcdnv2.cli import (
    add_engine_arguments,
    add_trust_argument,
    command_line,
    engine_options,
    report_console,
    track_progress,
)
from mmcdnv2.errors import InputError
from mmcdnv2.inference import (
    Failure,
    Found,
    Prediction,
    find_images,
    open_checkpoint,
    open_exported_file,
    predict_images,
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage='%(prog)s IMAGES... (CONFIG CHECKPOINT | MODEL.onnx) [options]',
    )
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='IMAGES... MODEL',
        help='images, folders of images or globs; then a config and its checkpoint, '
        'sparse or condensed, or an exported .onnx file',
    )
    parser.add_argument('--out', help='folder for pictures and predictions.json')
    parser.add_argument('--json', help='file to write the predictions to as well')
    parser.add_argument(
        '--score-threshold',
        type=float,
        help='least score of what is shown (default: 0.3 for objects, 0 for classes)',
    )
    parser.add_argument(
        '--top',
        type=int,
        help='most objects or classes of an image (default: all objects, 5 classes)',
    )
    parser.add_argument(
        '--device', help='where a checkpoint runs (default: a GPU if there is one)'
    )
    add_engine_arguments(parser)
    add_trust_argument(parser)
    return parser.parse_args()


def show(results: Sequence[Union[Prediction, Failure]], with_boxes: bool) -> None:
    """Print the results as a table."""
    table = Table('image', 'class')
    for column in ('score', *(['box'] * with_boxes), 'ms'):
        table.add_column(column, justify='right')
    for result in results:
        if isinstance(result, Failure):
            continue
        # Once for each image.
        first = [result.image, f'{result.milliseconds:.1f}']
        shown: List[Optional[Found]] = [*result.found] or [None]
        for each in shown:
            cells = [first[0], *_cells(each, with_boxes), first[1]]
            table.add_row(*map(escape, cells))
            first = ['', '']
        table.add_section()
    report_console(160).print(table)


def _cells(found: Optional[Found], with_boxes: bool) -> List[str]:
    if found is None:
        return ['nothing', '', *([''] * with_boxes)]
    corners = [f'{each:.1f}' for each in found.box or ()]
    return [found.name, f'{found.score:.3f}', *([' '.join(corners)] * with_boxes)]


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Predict."""
    is_exported = args.paths[-1].endswith('.onnx')
    engine = engine_options(args, is_exported)
    model = args.paths[-1:] if is_exported else args.paths[-2:]
    patterns: List[str] = args.paths[: -len(model)]
    if not is_exported and (len(model) < 2 or not model[0].endswith('.py')):
        raise InputError(
            'The model comes last: an exported .onnx file, or a config (.py) and then '
            f'its checkpoint, got {" ".join(model)}.'
        )
    if not patterns:
        raise InputError('There are no images: they come before the model.')
    if args.top is not None and args.top < 1:
        raise InputError(f'--top must be 1 or more, got {args.top}.')
    images = find_images(patterns)
    if is_exported:
        if args.device is not None:
            raise InputError(
                '--device is for checkpoints; an exported file has --engine.'
            )
        predictor = open_exported_file(model[0], verify=args.verify, **engine)
    else:
        config, checkpoint = model
        predictor = open_checkpoint(
            config, checkpoint, args.device, args.trust_checkpoint
        )
    if args.score_threshold is not None:
        predictor.score_threshold = args.score_threshold
    if args.top is not None:
        predictor.top = args.top
    results = predict_images(
        predictor,
        images,
        args.out,
        args.json,
        lambda items: track_progress(items, 'Predicting'),
        model=[Path(path).name for path in model],
        **engine,
    )
    show(results, with_boxes=predictor.task == 'detection')
    failures = [each for each in results if isinstance(each, Failure)]
    if failures:
        sys.exit('\n'.join(f'error: {each.image}: {each.error}' for each in failures))


if __name__ == '__main__':
    main()
