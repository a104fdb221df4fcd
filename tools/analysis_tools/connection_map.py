"""Draw what the sparse layers of a checkpoint connect, and how strongly."""

import argparse

from mmcdnv2.analysis.connection_plot import draw_connection_maps
from mmcdnv2.cli import add_trust_argument, command_line


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of the model')
    parser.add_argument('checkpoint', help='its checkpoint, sparse or condensed')
    parser.add_argument('--out', required=True, help='picture to write')
    parser.add_argument(
        '--compare',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='draw a second model next to it',
    )
    add_trust_argument(parser)
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Draw."""
    models = [(args.config, args.checkpoint)]
    if args.compare:
        models.append(tuple(args.compare))
    draw_connection_maps(models, args.out, args.trust_checkpoint)


if __name__ == '__main__':
    main()
