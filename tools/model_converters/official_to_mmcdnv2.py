"""Convert a checkpoint of the authors' release to mmcdnv2."""

import argparse

from mmengine.runner import save_checkpoint

from mmcdnv2.checkpoint import load_checkpoint
from mmcdnv2.cli import add_trust_argument, command_line
from mmcdnv2.converters import convert_official
from mmcdnv2.files import replace_when_done


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help="the authors' .pth.tar file, sparse or converted")
    parser.add_argument('dst', help='output checkpoint')
    add_trust_argument(parser)
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Convert the checkpoint and print how to test it."""
    arch, condensed, state_dict = convert_official(
        load_checkpoint(args.src, args.trust_checkpoint)
    )
    with replace_when_done(args.dst) as path:
        save_checkpoint(dict(meta={}, state_dict=state_dict), str(path))
    options = []
    if condensed:
        options.append('model.backbone.deploy=True')
    classes = state_dict['head.layers.1.fc.bias'].numel()
    if classes != 1000:
        options.append(f'model.head.num_classes={classes}')
    overrides = f' --cfg-options {" ".join(options)}' if options else ''
    form = 'condensed' if condensed else 'sparse'
    config = f'configs/cdnv2_{arch}_8xb128_in1k.py'
    print(
        f'Wrote CondenseNetV2-{arch.upper()} ({form}) to {args.dst}. Test it with\n'
        f'  python tools/test.py {config} {args.dst}{overrides}'
    )


if __name__ == '__main__':
    main()
