"""Break the code in many small ways and see whether a test notices.

    python .dev/mutations.py [--jobs 2] [--only 3 17]

Each mutation is made in a copy of the repository, and the tests named beside it are
run there until one fails. They are a part of `make test`, so what they catch it
catches. Survivors are listed at the end.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, NamedTuple, Tuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent


class Mutation(NamedTuple):
    """A way to break the code.

    Attributes:
        file (str): What is broken, below ``mmcdnv2/``.
        old (str): What stands there, once.
        new (str): What it becomes.
        tests (str): Tests that might notice, below ``tests/``.
    """

    file: str
    old: str
    new: str
    tests: str


LAYERS, ENGINE = 'layers', 'engine'
MUTATIONS = (
    # Layers: stages, ranking, masks, the matrix view.
    Mutation(
        'layers/grouping.py',
        'return -(-columns * (factor - stage) // factor)',
        'return columns * (factor - stage) // factor',
        LAYERS,
    ),
    Mutation(
        'layers/grouping.py',
        'return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)',
        'return x.unflatten(1, (-1, groups)).transpose(1, 2).flatten(1, 2)',
        LAYERS,
    ),
    Mutation(
        'layers/grouping.py',
        'index = kept_first[:, :kept].sort(dim=1).values',
        'index = kept_first[:, :kept].flip(1)',
        LAYERS,
    ),
    Mutation(
        'layers/grouping.py',
        'matrix.reshape(-1, groups, columns).masked_fill(~mask, 0).transpose(0, 1)',
        'matrix.reshape(-1, groups, columns).transpose(0, 1)',
        LAYERS,
    ),
    Mutation(
        'layers/grouping.py',
        'return next(g for g in range(min(groups, rows), 0, -1) if rows % g == 0)',
        'return next(g for g in range(min(groups, rows), 0, -1) if rows % g != 1)',
        LAYERS,
    ),
    Mutation(
        'layers/sparse_conv.py',
        'return min(int(done * (factor - 1) + 1e-9), factor - 1)',
        'return min(int(done * (factor - 1)), factor - 1)',
        f'{LAYERS} {ENGINE}/test_sparsification_hook.py',
    ),
    Mutation(
        'layers/sparse_conv.py',
        'done = max(progress - begin, 0) / (end - begin)',
        'done = max(progress - begin, 0) / end',
        f'{LAYERS} {ENGINE}/test_sparsification_hook.py',
    ),
    Mutation(
        'layers/sparse_conv.py',
        'norms = self._group_norms(1).masked_fill(~self.mask, -1)',
        'norms = self._group_norms(2).masked_fill(~self.mask, -1)',
        LAYERS,
    ),
    Mutation(
        'layers/sparse_conv.py',
        'norms = self._group_norms(1).masked_fill(~self.mask, -1)',
        'norms = self._group_norms(1)',
        LAYERS,
    ),
    Mutation(
        'layers/sparse_conv.py',
        'order = norms.sort(dim=1, descending=True, stable=True).indices',
        'order = norms.sort(dim=1, descending=False, stable=True).indices',
        LAYERS,
    ),
    Mutation(
        'layers/sparse_conv.py',
        'if self.kept <= kept:\n            return False',
        'if self.kept < kept:\n            return False',
        LAYERS,
    ),
    Mutation(
        'layers/sparse_conv.py',
        'return int(self.mask.sum(1).max())',
        'return int(self.mask.sum(1).min())',
        LAYERS,
    ),
    Mutation(
        'layers/sparse_conv.py',
        'return self._group_norms(2)[self.mask].sum()',
        'return self._group_norms(2).sum()',
        f'{LAYERS} {ENGINE}/test_sparsification_hook.py',
    ),
    Mutation(
        'layers/sparse_conv.py',
        'zeroed = members.masked_fill(~self.mask, 0)',
        'zeroed = members * self.mask',
        f'{LAYERS} {ENGINE}/test_sparsification_hook.py',
    ),
    Mutation(
        'layers/sparse_conv.py',
        'if self.bias is not None:\n            condensed.bias.copy_(self.bias)',
        'if self.bias is None:\n            condensed.bias.copy_(self.bias)',
        LAYERS,
    ),
    Mutation(
        'layers/condensed_conv.py',
        'return out if self.bias is None else out + self.bias[:, None, None]',
        'return out',
        LAYERS,
    ),
    Mutation(
        'layers/condensed_conv.py',
        'if (mask.sum(1) > kept).any():',
        'if (mask.sum(1) > kept).all():',
        f'{LAYERS} deploy',
    ),
    Mutation(
        'layers/sfr_module.py',
        'return old + super().forward(new)',
        'return super().forward(new)',
        f'{LAYERS} backbones ops/test_kernels.py',
    ),
    Mutation(
        'layers/sfr_module.py',
        'nn.init.constant_(self.norm.weight, 0.1 if norm_first else 0.01)',
        'nn.init.constant_(self.norm.weight, 0.01 if norm_first else 0.1)',
        f'{LAYERS} backbones',
    ),
    # The hook: when, on which layers, for whom.
    Mutation(
        'engine/sparsification_hook.py',
        'epochs = loop.epoch + batch_idx / len(loop.dataloader)',
        'epochs = loop.iter / len(loop.dataloader)',
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        'return min(progress, 1.0)',
        'return progress',
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        'if stage > self._stages.get(name, -1):',
        'if stage > self._stages.get(name, 0):',
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        'broadcast(layer.mask)',
        'pass',
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        'average.mask.copy_(original.mask)',
        'pass',
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        'averaged.get_submodule(name).mask.copy_(layer.mask)',
        'pass',
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        "if kwargs.get('mode') == 'loss' and self._unfinished:",
        "if kwargs.get('mode') == 'loss':",
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        '                _zero_pruned(layer, runner.optim_wrapper)\n',
        '                pass\n',
        ENGINE,
    ),
    Mutation(
        'engine/sparsification_hook.py',
        'if layer not in self._originals\n',
        '',
        ENGINE,
    ),
    Mutation(
        'engine/resume.py',
        'key=lambda path: path.stat().st_mtime, reverse=True',
        'key=lambda path: path.stat().st_mtime',
        ENGINE,
    ),
    Mutation(
        'engine/runner.py',
        "partial = os.path.join(out_dir, f'.{filename}.partial')",
        'partial = os.path.join(out_dir, filename)',
        ENGINE,
    ),
    Mutation(
        'engine/optimizer_order.py',
        "if _fits(saved['state'], current) or not _fits(saved['state'], parameters):",
        "if not _fits(saved['state'], parameters):",
        f'{ENGINE}/test_optimizer_order.py',
    ),
    # Condensing and its proof.
    Mutation(
        'deploy/condense.py',
        '        if difference > TOLERANCE:',
        '        if difference > TOLERANCE * 1e9:',
        'deploy',
    ),
    Mutation(
        'deploy/condense.py',
        '    check_finished(sparse, checkpoint)\n',
        '',
        'deploy tools/test_tools.py',
    ),
    Mutation(
        'deploy/condense.py',
        "part.pop('init_cfg', None)",
        'pass',
        'deploy',
    ),
    Mutation(
        'deploy/condense.py',
        "if type_of(hook) not in ('SparsificationHook', 'EMAHook')",
        "if type_of(hook) not in ('SparsificationHook',)",
        'deploy',
    ),
    Mutation(
        'deploy/proof.py',
        'return all(bool(tensor.isfinite().all()) for tensor in tensors)',
        'return all(bool(tensor.isfinite().any()) for tensor in tensors)',
        'deploy',
    ),
    Mutation(
        'deploy/proof.py',
        'differences.append(difference / largest if largest else math.inf)',
        'differences.append(difference / largest if largest else 0.0)',
        'deploy',
    ),
    Mutation(
        'deploy/proof.py',
        'call.outputs = [output.clone() for output in outputs]',
        'call.outputs = outputs',
        'deploy',
    ),
    Mutation(
        'deploy/norms.py',
        'bad = int((variance < 0).sum())',
        'bad = int((variance < -1e-3).sum())',
        'deploy',
    ),
    # Converters.
    Mutation(
        'converters/official.py',
        'kept = layer.to_matrix(mask) > 0.5',
        'kept = layer.to_matrix(mask) > 0',
        'converters',
    ),
    Mutation(
        'converters/official.py',
        "checkpoint.get('state_dict_ema') or checkpoint.get('state_dict')",
        "checkpoint.get('state_dict') or checkpoint.get('state_dict_ema')",
        'converters',
    ),
    Mutation(
        'converters/official.py',
        'full[index] = gathered',
        'full = gathered',
        'converters',
    ),
    Mutation(
        'converters/official.py',
        "rest.replace('fc.0.', 'conv1.conv.').replace('fc.2.', 'conv2.conv.')",
        "rest.replace('fc.0.', 'conv2.conv.').replace('fc.2.', 'conv1.conv.')",
        'converters',
    ),
    # Export.
    Mutation(
        'export/comparison.py',
        'excused += more',
        'pass',
        'export/test_comparison.py',
    ),
    Mutation(
        'export/comparison.py',
        'free[fits.argmax()] = False',
        'pass',
        'export/test_comparison.py',
    ),
    Mutation(
        'export/comparison.py',
        'if not (np.isfinite(actual).all() and np.isfinite(expected).all()):',
        'if not np.isfinite(expected).all():',
        'export/test_comparison.py',
    ),
    Mutation(
        'export/preparation.py',
        "name = add('Concat', *parts[::-1], axis=1)",
        "name = add('Concat', *parts, axis=1)",
        'export/test_export.py export/test_exported_models.py',
    ),
    Mutation(
        'export/preparation.py',
        'height, width = (-(-side // self.divisor) * self.divisor for side in size)',
        'height, width = (side // self.divisor * self.divisor for side in size)',
        'export/test_preparation.py export/test_export.py',
    ),
    Mutation(
        'export/standard_form.py',
        'scale = (norm.running_var.double() + norm.eps).rsqrt()',
        'scale = norm.running_var.double().rsqrt()',
        'export/test_standard_form.py',
    ),
    Mutation(
        'export/standard_form.py',
        'bias = shift if bias is None else bias * scale + shift',
        'bias = shift if bias is None else bias + shift',
        'export/test_standard_form.py',
    ),
    Mutation(
        'export/functions.py',
        'index = label * op.Shape(boxes, start=1, end=2) + box',
        'index = box',
        'export/test_operators.py export/test_detectors.py',
    ),
    # When kernels may not run, and PyTorch does.
    Mutation(
        'ops/kernel_module.py',
        "if any(self.hooks):\n            return 'a module inside it has a hook'",
        'if False:\n            return None',
        'ops/test_kernels.py ops/test_changes.py',
    ),
    Mutation(
        'ops/kernel_module.py',
        'if not x.is_cpu or x.dtype != torch.float32 or x.dim() != 4:',
        'if not x.is_cpu or x.dim() != 4:',
        'ops/test_kernels.py ops/test_changes.py',
    ),
    Mutation(
        'ops/kernel_module.py',
        'if any(tensor.requires_grad for tensor in tensors):',
        'if any(tensor.requires_grad for tensor in inputs):',
        'ops/test_kernels.py ops/test_changes.py',
    ),
    Mutation(
        'ops/kernel_module.py',
        'if forward_ad._current_level >= 0 or _active_functorch() is not None:',
        'if False:',
        'ops/test_kernels.py ops/test_changes.py',
    ),
    Mutation(
        'ops/kernel_arguments.py',
        'if not norm.affine or not norm.track_running_stats:',
        'if not norm.affine:',
        'ops/test_kernels.py ops/test_changes.py',
    ),
    Mutation(
        'backbones/dense_block.py',
        'if lgc.groups != conv.groups:',
        'if False:',
        'ops/test_kernels.py ops/test_changes.py backbones',
    ),
)


def run(number: int) -> Tuple[int, str, str, float]:
    """Make a mutation in a copy and run its tests.

    Args:
        number (int): Which one, from 1.

    Returns:
        tuple[int, str, str, float]: The number, what came of it, the test that
        noticed, and the seconds.
    """
    mutation = MUTATIONS[number - 1]
    began = time.time()
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / 'copy'
        tracked = subprocess.check_output(['git', 'ls-files', '-z'], cwd=ROOT)
        for file in filter(None, tracked.decode().split('\0')):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
        path = copy / 'mmcdnv2' / mutation.file
        code = path.read_text()
        if code.count(mutation.old) != 1:
            return number, 'stale', f'{code.count(mutation.old)} places', 0
        path.write_text(code.replace(mutation.old, mutation.new))
        tests = [f'tests/{test}' for test in mutation.tests.split()]
        done = subprocess.run(
            [sys.executable, '-m', 'pytest', '-x', '-q', '-W', 'ignore', *tests],
            cwd=copy,
            env=dict(os.environ, PYTHONPATH=str(copy), OMP_NUM_THREADS='1'),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    failed = [line for line in done.stdout.splitlines() if line.startswith('FAILED')]
    # A failing test ends with 1; errors of another kind would notice nothing.
    outcome = {0: 'survived', 1: 'caught'}.get(done.returncode, 'broken')
    noticed = failed[0].split()[1] if failed else done.stdout[-200:]
    return number, outcome, noticed, time.time() - began


def main() -> None:
    """Make the mutations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--only', type=int, nargs='+', help='numbers, from 1')
    args = parser.parse_args()
    numbers: List[int] = args.only or list(range(1, len(MUTATIONS) + 1))
    table = Table(title='Mutations')
    for column in ('', 'file', 'instead of', 'came', 'outcome', 'noticed by'):
        table.add_column(column)
    outcomes = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for number, outcome, noticed, seconds in pool.map(run, numbers):
            mutation = MUTATIONS[number - 1]
            print(f'{number} {mutation.file} {outcome} {seconds:.0f} s', flush=True)
            texts = [' '.join(t.split()) for t in (mutation.old, mutation.new)]
            shown = '' if outcome == 'survived' else noticed
            table.add_row(str(number), mutation.file, *texts, outcome, shown)
            outcomes.append(outcome)
    console = Console(width=None if sys.stdout.isatty() else 220)
    console.print(table)
    caught = outcomes.count('caught')
    console.print(f'{caught} of {len(outcomes)} caught.')
    sys.exit(outcomes.count('stale') + outcomes.count('broken') > 0)


if __name__ == '__main__':
    main()
