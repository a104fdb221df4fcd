"""Train, sparsify, condense, export and test a detector on real images, from nothing.

Every step is a command of this repository; steps that were done before with
the same code are not done again.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Callable, Dict

# OpenMP reads this when PyTorch is loaded. By default its threads wait actively for
# each other, which takes many times as long where another process needs a core.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from rich.console import Console
from rich.table import Table

import mmcdnv2
from mmcdnv2.cli import command_line
from mmcdnv2.files import check_writable, replace_when_done

# The clone, or the folder .mim of an installed package.
ROOT = Path(os.path.relpath(Path(__file__).resolve().parent.parent))
CLASSIFIER = str(ROOT / 'configs/demo/cdnv2_a_digits.py')
DETECTOR = str(ROOT / 'configs/demo/faster_rcnn_cdnv2_a_fpn_digits.py')
# The configs look for the data here.
WORK_DIR = Path('work_dirs/demo')
# Results of steps that name what later steps, or the user, need.
FILES = {'checkpoint', 'config', 'path'}

console = Console()


class Steps:
    """Run steps once; remember their results and how long they took."""

    def __init__(self) -> None:
        self.record = WORK_DIR / 'steps.json'
        self.done: Dict[str, Dict] = {}
        # What cannot be read, or was removed, is made again.
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            content = json.loads(self.record.read_text())
            if content['code'] == self._code():
                self.done = {
                    name: results
                    for name, results in content['steps'].items()
                    if all(Path(results[key]).exists() for key in FILES & set(results))
                }

    def run(self, name: str, step: Callable[[Path], Dict]) -> Dict:
        """Run a step in a folder of its own unless it was done before.

        Args:
            name (str): Name of the step and its folder.
            step (Callable): Takes the folder, returns its results.

        Returns:
            dict: The results, with ``seconds``.
        """
        if name not in self.done:
            console.rule(name)
            check_writable(self.record)
            folder = WORK_DIR / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            began = time.time()
            results = step(folder)
            self.done[name] = dict(results, seconds=round(time.time() - began, 1))
            content = dict(code=self._code(), steps=self.done)
            with replace_when_done(self.record) as path:
                path.write_text(json.dumps(content, indent=2))
        return self.done[name]

    @staticmethod
    def _code() -> str:
        files = sorted(
            path
            for folder in (mmcdnv2.__path__[0], ROOT / 'configs', ROOT / 'tools')
            for path in Path(folder).rglob('*.py')
        )
        return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()


def call(script: str, *arguments: object) -> None:
    """Run a tool of this repository and show what it prints."""
    command = [str(ROOT / 'tools' / script), *map(str, arguments)]
    console.print('$ python ' + ' '.join(command), style='bold', soft_wrap=True)
    status = subprocess.run([sys.executable, '-W', 'ignore', *command])
    if status.returncode:
        sys.exit(f'The demo stopped: {command[0]} failed.')


def make_data(folder: Path) -> Dict:
    """Make the data set."""
    call('analysis_tools/digits.py', folder)
    return dict(path=str(folder))


def train(config: str, folder: Path, *options: str) -> Dict:
    """Train and return the last validation's metrics and the checkpoint."""
    call('train.py', config, '--work-dir', folder, *options)
    scalars = max(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return dict(
        json.loads(scalars[-1]),
        checkpoint=(folder / 'last_checkpoint').read_text().strip(),
    )


def test(config: str, checkpoint: str, folder: Path) -> Dict:
    """Test and return the metrics."""
    call('test.py', config, checkpoint, '--work-dir', folder)
    return json.loads(max(folder.glob('*/*.json')).read_text())


def condense(checkpoint: str, folder: Path) -> Dict:
    """Condense the detector and return the report."""
    report = folder / 'report.json'
    image = WORK_DIR / 'data' / 'val' / '000001.png'
    options = ['--image', image, '--input-shape', 192, 192, '--json', report]
    call('condense.py', DETECTOR, checkpoint, folder, *options)
    return json.loads(report.read_text())


def export(config: str, checkpoint: str, folder: Path) -> Dict:
    """Export the detector with the native operators and return the report."""
    report = folder / 'report.json'
    file = folder / 'detector.onnx'
    call('export.py', config, checkpoint, file, '--json', report)
    return json.loads(report.read_text())


def draw(config: str, checkpoint: str, folder: Path) -> Dict:
    """Draw ground truth next to detections."""
    from mmcdnv2.inference.detections import draw_detections

    picture = WORK_DIR / 'detections.png'
    draw_detections(config, checkpoint, picture)
    return dict(path=str(picture))


def show(summary: Dict) -> None:
    """Print the summary as a table."""
    table = Table(title='CondenseNetV2-A, Faster R-CNN + FPN, 192x192, batch 1')
    for column in ('', 'sparse', 'condensed', 'ONNX Runtime'):
        table.add_column(column, justify='right' if column else 'left')
    for name, key, unit, spec in (
        ('bbox mAP', 'bbox_mAP', 1, '.3f'),
        ('bbox AP50', 'bbox_AP50', 1, '.3f'),
        ('Parameters (M)', 'params', 1e6, '.3f'),
        ('MACs (M)', 'macs', 1e6, '.1f'),
        ('Backbone MACs (M)', 'backbone_macs', 1e6, '.1f'),
        ('Latency (ms)', 'latency_ms', 1, '.1f'),
        ('Backbone latency (ms)', 'backbone_latency_ms', 1, '.1f'),
        ('Latency, one thread (ms)', 'one_thread_ms', 1, '.1f'),
    ):
        forms = summary[key]
        cells = (forms.get(form) for form in ('sparse', 'condensed', 'exported'))
        table.add_row(
            name, *('' if cell is None else format(cell / unit, spec) for cell in cells)
        )
    console.print(table)
    seconds = summary['seconds']
    console.print(
        f'Classifier accuracy {summary["classifier_accuracy"]:.1f} %, '
        f"{summary['kept_fraction']:.3f} of the sparse layers' weights kept.\n"
        f'{sum(seconds.values()):.0f} s in all: '
        + ', '.join(f'{name} {value:.0f}' for name, value in seconds.items())
        + f'.\nSee {WORK_DIR}/summary.json and {WORK_DIR}/detections.png.'
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line, which has no options."""
    return argparse.ArgumentParser(description=__doc__).parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the demo."""
    steps = Steps()
    steps.run('data', make_data)
    classifier = steps.run('classifier', partial(train, CLASSIFIER))
    init = f'model.backbone.init_cfg.checkpoint={classifier["checkpoint"]}'
    detector = steps.run(
        'detector', lambda folder: train(DETECTOR, folder, '--cfg-options', init)
    )
    sparse = steps.run('test_sparse', partial(test, DETECTOR, detector['checkpoint']))
    report = steps.run('condensed', partial(condense, detector['checkpoint']))
    deployed = report['config'], report['checkpoint']
    condensed = steps.run('test_condensed', partial(test, *deployed))
    file = steps.run('exported', partial(export, *deployed))
    exported = steps.run('test_exported', partial(test, deployed[0], file['path']))
    steps.run('picture', partial(draw, *deployed))

    def pair(before: float, after: float) -> Dict[str, float]:
        return dict(sparse=before, condensed=after)

    def metric(name: str) -> Dict[str, float]:
        results = dict(sparse=sparse, condensed=condensed, exported=exported)
        return {form: result[f'coco/{name}'] for form, result in results.items()}

    summary = dict(
        classifier_accuracy=classifier['accuracy/top1'],
        bbox_mAP=metric('bbox_mAP'),
        bbox_AP50=metric('bbox_mAP_50'),
        kept_fraction=report['kept_fraction'],
        params=pair(*report['params']),
        macs=pair(*report['macs']),
        backbone_macs=pair(*report['backbone_macs']),
        latency_ms=pair(*report['latency']),
        backbone_latency_ms=pair(*report['backbone_latency']),
        one_thread_ms=dict(zip(('condensed', 'exported'), file['latency'])),
        seconds={name: results['seconds'] for name, results in steps.done.items()},
    )
    with replace_when_done(WORK_DIR / 'summary.json') as path:
        path.write_text(json.dumps(summary, indent=2) + '\n')
    show(summary)


if __name__ == '__main__':
    main()
