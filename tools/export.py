"""Export a trained classifier, detector or backbone to ONNX, and prove it."""

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from mmcdnv2.cli import (
    add_cfg_options_argument,
    add_input_shape_argument,
    add_trust_argument,
    command_line,
)
from mmcdnv2.export import ExportReport, export_checkpoint
from mmcdnv2.export.export import DIMENSIONS, DTYPES, ENGINES, OPERATORS, PARTS
from mmcdnv2.files import check_writable, replace_when_done


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='its checkpoint, sparse or condensed')
    parser.add_argument('out', help='file to write, OUT.onnx')
    parser.add_argument(
        '--operators',
        choices=OPERATORS,
        default='native',
        help='native runs on the native kernels, in ONNX Runtime with our library; '
        'standard in other engines (default: native)',
    )
    parser.add_argument(
        '--no-gather',
        action='store_true',
        help='standard operators without copies of channels by an index, for ncnn',
    )
    parser.add_argument(
        '--engine',
        choices=ENGINES,
        default='onnxruntime',
        help='what runs the file to compare it (default: onnxruntime)',
    )
    parser.add_argument(
        '--part', choices=PARTS, default='model', help='what to export (default: model)'
    )
    parser.add_argument(
        '--raw',
        action='store_true',
        help="return the heads' outputs, without likelihoods or box selection",
    )
    parser.add_argument(
        '--dtype', choices=DTYPES, default='uint8', help='of the input (default: uint8)'
    )
    parser.add_argument(
        '--dynamic',
        nargs='*',
        choices=DIMENSIONS,
        help='dimensions that may be others (default: batch, and all where the test '
        'pipeline leaves the size to the image)',
    )
    parser.add_argument('--image', nargs='+', default=(), help='images to compare on')
    add_input_shape_argument(
        parser, "input size in pixels (default: that of the config's test data)"
    )
    parser.add_argument('--json', help='file to write the report to as well')
    add_cfg_options_argument(parser)
    add_trust_argument(parser)
    return parser.parse_args()


def show(report: ExportReport) -> None:
    """Print the report as a table."""
    before, after = report.latency
    open_sides = ', '.join(report.dynamic) or 'none'
    table = Table(title=str(report.path), show_header=False)
    rows = [
        ('Task', report.task),
        ('Operators', report.operators),
        ('Input', f'{report.size[0]}x{report.size[1]}, dynamic: {open_sides}'),
        ('File (MB)', f'{report.megabytes:.2f}'),
        ('Compared on', ', '.join(report.images)),
        ('Largest relative difference', f'{report.difference:.1e} in {report.part}'),
    ]
    if report.boxes:
        rows.append(('Boxes, all of them matched', str(report.boxes)))
    rows += [
        ('PyTorch, one thread (ms)', f'{before:.1f}'),
        (f'{report.engine}, one thread (ms)', f'{after:.1f}'),
    ]
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Export."""
    if args.json:
        check_writable(args.json)
    report = export_checkpoint(
        args.config,
        args.checkpoint,
        args.out,
        operators=args.operators,
        gather=not args.no_gather,
        engine=args.engine,
        part=args.part,
        raw=args.raw,
        dtype=args.dtype,
        input_shape=args.input_shape and tuple(args.input_shape),
        dynamic=args.dynamic,
        images=args.image,
        trust=args.trust_checkpoint,
        cfg_options=args.cfg_options,
    )
    show(report)
    if args.json:
        with replace_when_done(args.json) as path:
            path.write_text(json.dumps(asdict(report), indent=2, default=str) + '\n')


if __name__ == '__main__':
    main()
