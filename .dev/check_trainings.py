"""Kill trainings at random moments, and train on several processes.

    python .dev/check_trainings.py kill [--kills 20]   # killed, resumed, compared
    python .dev/check_trainings.py ranks               # 2 and 4 processes, resumed on 1

Trains the demo's classifier and a detector that sparsifies itself, on a part of the
demo's images (made first, if they are not there), each process on one thread. The
first compares what the killed training and one that nobody killed end in, bit for
bit; the second the masks of all ranks at each stage.
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
# When trainings are killed.
KINDS = ('start', 'iteration', 'writing')
# The config of a model, and its batch size.
MODELS = dict(
    classifier=('cdnv2_a_digits.py', 32),
    detector=('faster_rcnn_cdnv2_a_fpn_sparsify_digits.py', 8),
)
# In an epoch, on one process.
BATCHES = 8
Moment = Callable[[], bool]
console = Console()


def config_of(model: str, folder: Path, *hooks: str) -> str:
    """Write the config of a short training."""
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
    """Train to the end; return the seconds that it took."""
    began = time.time()
    status, output = train(config, folder, *options, timeout=3600)
    if status:
        sys.exit(f'The training failed:\n{output[-2000:]}')
    return time.time() - began


def iterations_in(log: Path, begin: int) -> int:
    """Count the iterations that a log tells of."""
    with log.open() as file:
        file.seek(begin)
        return file.read().count('Epoch(train)')


def moment_of(kind: str, numbers: random.Random, folder: Path, log: Path) -> Moment:
    """Choose when a training is killed.

    Args:
        kind (str): While the process starts, between two iterations or in one, or
            while a checkpoint is written.
        numbers (Random): What decides how long after.
        folder (Path): Of the training.
        log (Path): What it prints, after what earlier ones printed.

    Returns:
        callable: Whether it is that moment.
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
    """Kill trainings, resume them, and compare them with one that ran through."""
    numbers = random.Random(seed)
    table = Table(title=f'Trainings of {EPOCHS} epochs, killed and resumed')
    for column in ('', *KINDS, 'resumed from epoch', 'trainings', 'differences'):
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
        trainings = 1
        killed = 0
        while killed < kills // len(MODELS):
            kind = KINDS[killed % len(KINDS)]
            broken = folder / f'{model}_{trainings}'
            moment = moment_of(kind, numbers, broken, log)
            if train_and_kill(moment, config, broken, '--resume', log=log):
                counts[kind] += 1
                killed += 1
                print(f'{model}: killed {killed} times', flush=True)
            else:
                different += differences(straight / last, broken / last)
                trainings += 1
        broken = folder / f'{model}_{trainings}'
        finish(config, broken, '--resume')
        different += differences(straight / last, broken / last)
        resumed = re.findall(r'resumed epoch: (\d+)', log.read_text())
        cells = [*map(str, counts.values()), ' '.join(resumed), str(trainings)]
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
            # In the last epoch but one, when the sparsification is over.
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
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['kill', 'ranks'])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    data = ROOT / 'work_dirs' / 'demo' / 'data'
    if not data.exists():
        script = ROOT / 'tools' / 'dataset_converters' / 'digits.py'
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
