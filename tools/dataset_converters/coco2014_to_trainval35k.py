"""Build trainval35k and minival from the COCO 2014 annotations.

See docs/detection.md for training and testing on them.
"""

import argparse

from mmcdnv2.cli import command_line
from mmcdnv2.datasets.coco2014 import make_trainval35k


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('ann_dir', help='folder with instances_{train,val}2014.json')
    parser.add_argument(
        'minival',
        help="minival's images: instances_val2017.json (the same images) or a text "
        'file with an id or file name on each line',
    )
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Write and check the two files."""
    for name, count in make_trainval35k(args.ann_dir, args.minival).items():
        print(f'{name}: {count.images} images, {count.annotations} annotations')


if __name__ == '__main__':
    main()
