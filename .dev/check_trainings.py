"""Kill training runs at random moments, and train on several processes.

    python .dev/check_trainings.py kill [--kills 20]   # killed, resumed, compared
    python .dev/check_trainings.py ranks               # 2 and 4 processes, resumed on 1

Trains the demo's classifier and a detector with sparsification on part of the demo's
images (generated if missing), with one thread per process. ``kill`` compares the final
checkpoints of the killed and of an uninterrupted run bit for bit; ``ranks`` compares
the masks of all ranks at each stage.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, List

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'tests'))

from training_jobs import differences, train, train_and_kill, write_config  # noqa: E402

EPOCHS = 8
# When training runs are killed.
KINDS = ('start', 'iteration', 'writing')
# The config of a model, and its batch size.
MODELS = dict(
    classifier=('cdnv2_a_digits.py', 32),
    detector=('faster_rcnn_cdnv2_a_fpn_sparsify_digits.py', 8),
)
# Per epoch, with one process.
BATCHES = 8
Moment = Callable[[], bool]
console = Console()


def config_of(model: str, folder: Path, *hooks: str) -> str:
    """Write the config of a short training run."""
    name, batch_size = MODELS[model]
    return write_config(
        folder / f'{model}.py',
        ROOT / 'configs' / 'demo' / name,
        hooks,
        train_dataloader=dict(dataset=dict(indices=BATCHES * batch_size)),
        val_dataloader=dict(dataset=dict(indices=16)),
        train_cfg=dict(max_epochs=EPOCHS, val_interval=EPOCHS),
        default_hooks=dict(checkpoint=dict(max_keep_ckpts=2), logger=dict(interval=1)),
    )


def finish(config: str, folder: Path, *options: str) -> float:
    """Train to the end and return the seconds."""
    began = time.time()
    status, output = train(config, folder, *options, timeout=3600)
    if status:
        sys.exit(f'The training run failed:\n{output[-2000:]}')
    return time.time() - began


def iterations_in(log: Path, begin: int) -> int:
    """Count the iterations in a log after a position."""
    with log.open() as file:
        file.seek(begin)
        return file.read().count('Epoch(train)')


def moment_of(kind: str, numbers: random.Random, folder: Path, log: Path) -> Moment:
    """Choose when to kill a training run.

    Args:
        kind (str): 'start': while the process starts; 'iteration': between or in
            iterations; 'writing': while a checkpoint is written.
        numbers (Random): Random numbers for the delay.
        folder (Path): Folder of the run.
        log (Path): Output of this and earlier runs.

    Returns:
        callable: Returns whether the moment has come.
    """
    began, size = time.time(), log.stat().st_size
    if kind == 'start':
        delay = numbers.uniform(0, 15)
        return lambda: time.time() > began + delay
    if kind == 'writing':
        return lambda: any(folder.glob('.*.partial'))
    batches = numbers.uniform(0, 1.5) * BATCHES
    pause = numbers.uniform(0, 0.5)
    reached: List[float] = []

    def is_in_iteration() -> bool:
        if not reached and iterations_in(log, size) > batches:
            reached.append(time.time())
        return bool(reached) and time.time() > reached[0] + pause

    return is_in_iteration


def kill(folder: Path, kills: int, seed: int) -> bool:
    """Kill and resume training runs and compare them with an uninterrupted one."""
    numbers = random.Random(seed)
    table = Table(title=f'Training runs of {EPOCHS} epochs, killed and resumed')
    for column in ('', *KINDS, 'resumed from epoch', 'runs', 'differences'):
        table.add_column(column)
    equal = True
    last = f'epoch_{EPOCHS}.pth'
    for model in MODELS:
        config = config_of(model, folder)
        straight = folder / f'{model}_straight'
        finish(config, straight)
        log = folder / f'{model}.log'
        log.touch()
        counts = dict.fromkeys(KINDS, 0)
        different: List[str] = []
        runs = 1
        killed = 0
        while killed < kills // len(MODELS):
            kind = KINDS[killed % len(KINDS)]
            broken = folder / f'{model}_{runs}'
            moment = moment_of(kind, numbers, broken, log)
            if train_and_kill(moment, config, broken, '--resume', log=log):
                counts[kind] += 1
                killed += 1
                print(f'{model}: killed {killed} times', flush=True)
            else:
                different += differences(straight / last, broken / last)
                runs += 1
        broken = folder / f'{model}_{runs}'
        finish(config, broken, '--resume')
        different += differences(straight / last, broken / last)
        resumed = re.findall(r'resumed epoch: (\d+)', log.read_text())
        cells = [*map(str, counts.values()), ' '.join(resumed), str(runs)]
        table.add_row(model, *cells, ', '.join(different[:3]) or 'none')
        equal &= not different
    console.print(table)
    return equal


def ranks(folder: Path) -> bool:
    """Train on several processes, kill one of them, resume on one."""
    table = Table(title='Masks of all ranks')
    for column in ('', 'processes', 'stages', 'equal', 'data differ', 'after a kill'):
        table.add_column(column)
    passed = True
    for model in MODELS:
        for count in (2, 4):
            work_dir = folder / f'{model}_{count}'
            recorder = "dict(type='MaskRecorder')"
            killer = "dict(type='KilledRank', rank=1, iteration={})"
            # In the second-to-last epoch, after the sparsification.
            iterations = (EPOCHS - 2) * BATCHES // count
            config = config_of(model, folder, recorder, killer.format(iterations))
            began = time.time()
            status, _ = train(config, work_dir, processes=count, timeout=3600)
            ended = f'exit {status} after {time.time() - began:.0f} s'
            files = [work_dir / f'rank{rank}.json' for rank in range(count)]
            records = [json.loads(file.read_text()) for file in files]
            stages = [record['stages'] for record in records]
            seen = {tuple(record['seen']) for record in records}
            finish(config_of(model, folder, recorder), work_dir, '--resume')
            alone = json.loads(files[0].read_text())
            resumed = alone['stages'] == stages[0][-1:] and alone['world_size'] == 1
            equal = all(each == stages[0] for each in stages)
            table.add_row(
                model,
                str(count),
                str(len(stages[0])),
                str(equal),
                str(len(seen) == count),
                f'{ended}; resumed on one: {resumed}',
            )
            passed &= equal and resumed and status == 1 and len(seen) == count
    console.print(table)
    return passed


def main() -> None:
    """Run the chosen check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['kill', 'ranks'])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    data = ROOT / 'work_dirs' / 'demo' / 'data'
    if not data.exists():
        script = ROOT / 'tools' / 'analysis_tools' / 'digits.py'
        subprocess.run([sys.executable, str(script), str(data)], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.what == 'kill':
            passed = kill(folder, args.kills, args.seed)
        else:
            passed = ranks(folder)
    sys.exit(not passed)


if __name__ == '__main__':
    main()
