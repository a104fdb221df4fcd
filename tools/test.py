"""Test a classifier or a detector: sparse, condensed or exported."""

import argparse
import os

# OpenMP reads this when PyTorch is loaded. By default its threads wait actively for
# each other, which takes many times as long where another process needs a core.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from mmengine.evaluator import DumpResults

from mmcdnv2.cli import (
    add_engine_arguments,
    add_runner_arguments,
    apply_runner_arguments,
    command_line,
    engine_options,
)
from mmcdnv2.config import load_config
from mmcdnv2.engine import ExactRunner, build_runner
from mmcdnv2.errors import InputError
from mmcdnv2.export.exported_models import use_exported_file


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or an exported .onnx file')
    parser.add_argument('--out', help='pickle file to dump the predictions to')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation by the config's tta_model and tta_pipeline",
    )
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', help='folder to draw the predictions into')
    add_engine_arguments(parser)
    add_runner_arguments(parser)
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Test."""
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise InputError(f'--out expects a .pkl or .pickle file, got {args.out}.')
    is_exported = args.checkpoint.endswith('.onnx')
    engine = engine_options(args, is_exported)
    cfg = load_config(args.config, args.cfg_options)
    # The checkpoint on the command line is the one to test, whatever a config
    # saved by a training says.
    cfg.load_from, cfg.resume = args.checkpoint, False
    if is_exported:
        if args.launcher != 'none':
            raise InputError(
                'An exported file is tested by one process: no --launcher.'
            )
        use_exported_file(cfg, args.checkpoint, verify=args.verify, **engine)
    if args.tta:
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg or is_exported:
            raise InputError(
                '--tta needs a checkpoint and a config with tta_model and tta_pipeline.'
            )
        cfg.model = dict(cfg.tta_model, module=cfg.model)
        dataset = cfg.test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        dataset.pipeline = cfg.tta_pipeline
    if args.show or args.show_dir:
        # mmpretrain's hook has `enable`, mmdet's `draw`; names differ too.
        cfg.default_hooks.visualization.update(
            show=args.show,
            **(
                dict(enable=True, out_dir=args.show_dir)
                if cfg.default_scope == 'mmpretrain'
                else dict(draw=True, test_out_dir=args.show_dir)
            ),
        )
    options = apply_runner_arguments(args)
    runner = build_runner(cfg, ('test_dataloader',), runner_type=ExactRunner, **options)
    if is_exported:
        runner.model.check_classes(runner.test_dataloader.dataset.metainfo)
    if args.out:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    runner.test()


if __name__ == '__main__':
    main()
