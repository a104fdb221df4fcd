"""Train a classifier or a detector from a config."""

import argparse
import os

# OpenMP reads this when PyTorch is loaded. By default its threads wait actively for
# each other, which takes many times as long where another process needs a core.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from mmengine.device import get_device

from mmcdnv2.cli import (
    add_runner_arguments,
    apply_runner_arguments,
    command_line,
)
from mmcdnv2.config import load_config
from mmcdnv2.engine import build_runner
from mmcdnv2.errors import InputError


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or from the latest in the work dir',
    )
    parser.add_argument(
        '--amp', action='store_true', help='use automatic mixed precision'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size in use',
    )
    add_runner_arguments(parser)
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Train."""
    cfg = load_config(args.config, args.cfg_options)
    if args.amp:
        # AmpOptimWrapper refuses every other device, for bfloat16 too.
        if get_device() not in ('cuda', 'npu', 'mlu', 'musa'):
            raise InputError(
                '--amp needs a GPU that MMEngine supports, and there is none here: '
                'train without it.'
            )
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise InputError(
                f'{args.config} does not say which batch size its learning rate is '
                'for: set auto_scale_lr.base_batch_size with --cfg-options, or train '
                'without --auto-scale-lr.'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    loaders = ('train_dataloader', 'val_dataloader')
    runner = build_runner(cfg, loaders, **apply_runner_arguments(args))
    runner.train()


if __name__ == '__main__':
    main()
