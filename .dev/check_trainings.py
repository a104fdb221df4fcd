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
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'tests'))

from training_jobs import differences, train, train_and_kill, write_config  # noqa: E402

EPOCHS = 8
# When it is killed, in parts of the time of a whole training.
SPAN = (0.1, 0.6)
# The config of a model and how many of the demo's images it is trained on.
MODELS = dict(
    classifier=('cdnv2_a_digits.py', 320),
    detector=('faster_rcnn_cdnv2_a_fpn_sparsify_digits.py', 64),
)
BATCH_SIZES = dict(classifier=32, detector=8)
console = Console()


def config_of(model: str, folder: Path, *hooks: str) -> str:
    """Write the config of a short training."""
    name, images = MODELS[model]
    return write_config(
        folder / f'{model}.py',
        ROOT / 'configs' / 'demo' / name,
        hooks,
        train_dataloader=dict(dataset=dict(indices=images)),
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


def has_partial(folder: Path) -> bool:
    """Whether a checkpoint is being written there."""
    return any(folder.glob('.*.partial'))


def has_passed(moment: float) -> bool:
    """Whether it is later than that."""
    return time.time() > moment


def kill(folder: Path, kills: int, seed: int) -> bool:
    """Kill trainings, resume them, and compare them with one that ran through."""
    numbers = random.Random(seed)
    table = Table(title=f'{EPOCHS} epochs; epochs resumed from, and when it was killed')
    for column in ('', 'killed', 'while it wrote', 'resumed from', 'differences'):
        table.add_column(column)
    equal = True
    for model in MODELS:
        config = config_of(model, folder)
        straight, broken = folder / f'{model}_straight', folder / f'{model}_broken'
        seconds = finish(config, straight)
        log = folder / f'{model}.log'
        killed = writing = 0
        for i in track(range(kills // len(MODELS)), f'Killing the {model}'):
            # Every third time while a checkpoint is written; else anywhere from the
            # start of the process to some epochs further.
            is_writing = partial(has_partial, broken)
            is_time = partial(
                has_passed, time.time() + numbers.uniform(*SPAN) * seconds
            )
            moment = is_writing if i % 3 == 2 else is_time
            hit = train_and_kill(moment, config, broken, '--resume', log=log)
            writing += hit and i % 3 == 2
            killed += hit
        finish(config, broken, '--resume')
        last = f'epoch_{EPOCHS}.pth'
        different = differences(straight / last, broken / last)
        resumed = re.findall(r'resumed epoch: (\d+)', log.read_text())
        table.add_row(
            model,
            str(killed),
            str(writing),
            ' '.join(resumed),
            ', '.join(different[:3]) or 'none',
        )
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
            iterations = (EPOCHS - 2) * -(
                -MODELS[model][1] // (count * BATCH_SIZES[model])
            )
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
