"""Trainings in processes of their own: killed, resumed, and on several ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook

from mmcdnv2.layers import sparse_layers
from mmcdnv2.registry import register_hook

ROOT = Path(__file__).parent.parent


@register_hook
class MaskRecorder(Hook):
    """Write the masks of each stage, by rank, and what data the rank was given."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.stages = {}
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = runner.model
        layers = sparse_layers(getattr(model, 'module', model))
        masks = {name: layer.mask.int().tolist() for name, layer in layers.items()}
        kept = sum(layer.kept for layer in layers.values())
        self.stages.setdefault(kept, masks)
        self.seen += [sample.img_path for sample in data_batch['data_samples']]

    def after_train_epoch(self, runner):
        content = dict(
            stages=list(self.stages.values()),
            seen=self.seen,
            world_size=get_world_size(),
        )
        path = Path(runner.work_dir) / f'rank{get_rank()}.json'
        path.write_text(json.dumps(content))


@register_hook
class KilledWhileWriting(Hook):
    """Kill the training when half of a checkpoint is written."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_save_checkpoint(self, runner, checkpoint):
        if checkpoint['meta']['epoch'] == self.epoch:
            LocalBackend.put = self._put_half

    @staticmethod
    def _put_half(backend, content, path):
        Path(path).write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


@register_hook
class KilledRank(Hook):
    """Kill one rank in the middle of a training."""

    def __init__(self, rank, iteration):
        self.rank, self.iteration = rank, iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == self.rank and runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def write_config(path, base, hooks=(), **settings):
    """Write a config that trains repeatably and has more hooks.

    Args:
        path (Path): The config to write.
        base (str): The config that it extends; its own hooks are replaced.
        hooks (Sequence[str]): The custom hooks, as code.
        **settings: What it sets besides.

    Returns:
        str: The path.
    """
    hooks = ["dict(type='SparsificationHook')", "dict(type='RepeatableHook')", *hooks]
    lines = [
        f'_base_ = {str(base)!r}',
        "custom_imports = dict(imports=['mmcdnv2', 'training_jobs'])",
        f'custom_hooks = [{", ".join(hooks)}]',
        *(f'{name} = {value!r}' for name, value in settings.items()),
    ]
    path.write_text('\n'.join(lines) + '\n')
    return str(path)


def command(config, work_dir, *options, processes=0):
    """The command of a training, by ``dist_train.sh`` if on several processes."""
    options = ['--work-dir', str(work_dir), *options]
    if processes:
        script = str(ROOT / 'tools' / 'dist_train.sh')
        return ['bash', script, config, str(processes), *options]
    return [sys.executable, str(ROOT / 'tools' / 'train.py'), config, *options]


def environment():
    """The environment of the trainings: one thread, and this module at hand."""
    path = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    # torchrun is started as "python".
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ['PATH']))
    return dict(
        os.environ,
        PYTHONPATH=path,
        PATH=programs,
        OMP_NUM_THREADS='1',
        PYTHONWARNINGS='ignore',
        PORT=str(20000 + os.getpid() % 20000),
    )


def train(*args, timeout=600, **kwargs):
    """Run a training to its end; return its exit status and what it printed."""
    done = subprocess.run(
        command(*args, **kwargs),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout


def train_and_kill(moment, *args, log, **kwargs):
    """Run a training and kill it.

    Args:
        moment (callable): Called again and again; the training is killed when it
            returns True.
        log (Path): What the training prints is added to it.

    Returns:
        bool: Whether it was killed; it may have come to its end before.
    """
    with log.open('a') as output:
        process = subprocess.Popen(
            command(*args, **kwargs),
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while process.poll() is None:
        if moment():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0002)
    if process.returncode:
        raise RuntimeError(f'The training failed, see {log}.')
    return False


def differences(one, other):
    """Names of the weights, masks and optimizer's values that two files differ in."""
    first, second = (
        torch.load(path, map_location='cpu', weights_only=False)
        for path in (one, other)
    )
    different = [
        name
        for name, value in first['state_dict'].items()
        if not torch.equal(value, second['state_dict'][name])
    ]
    states = [file['optimizer']['state'] for file in (first, second)]
    for key, values in states[0].items():
        for name, value in values.items():
            value, other_value = map(torch.as_tensor, (value, states[1][key][name]))
            if not torch.equal(value, other_value):
                different.append(f'optimizer {key} {name}')
    return different
