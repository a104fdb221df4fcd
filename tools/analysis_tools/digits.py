"""Generate the demo's dataset: handwritten digits on photographs."""

import argparse

import clone  # noqa: F401

from lab.digits import make_digits
from mmcdnv2.cli import command_line


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out_dir', help='folder to create')
    parser.add_argument('--num-train', type=int, default=1600)
    parser.add_argument('--num-val', type=int, default=200)
    parser.add_argument('--num-classification', type=int, default=6000)
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Generate the dataset."""
    make_digits(**vars(args))


if __name__ == '__main__':
    main()
