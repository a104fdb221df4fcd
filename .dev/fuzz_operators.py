"""Fuzz the kernels' operators with random wrong arguments.

    python .dev/fuzz_operators.py --minutes 5              # under the sanitizers
    python .dev/fuzz_operators.py --plain --minutes 1      # the users' library
    python .dev/fuzz_operators.py --large                  # more than 2^31 elements

The operators must raise, and never crash, read out of bounds or allocate memory that no
argument asks for. Accepted calls must return an output. A crash ends the process; the
--log file then has the call. --host onnxruntime does the same with ONNX nodes.
"""

import argparse
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

ROOT = Path(__file__).parent.parent
SANITIZERS = '-fsanitize=address,undefined -fno-sanitize-recover=all -g'
# Replacements for integers.
NUMBERS = (
    -(2**63),
    -(2**31) - 1,
    -1,
    0,
    1,
    2,
    3,
    7,
    2**31 - 1,
    2**31,
    2**40,
    2**63 - 1,
)
Call = Tuple[str, List[Any]]


def valid_calls() -> List[Call]:
    """Return valid calls of all operators."""
    import torch
    from conftest import randomise
    from kernel_networks import ARCHS, condensed

    from mmcdnv2.layers import LGCModule, SFRModule
    from mmcdnv2.necks import SEGlobalAveragePooling

    calls: List[Call] = []

    def add(name: str, module: Any, *inputs: Any) -> None:
        args = module.kernel_args(*inputs)
        if args is not None:
            calls.append((name, [*inputs, *args]))

    for arch in ARCHS:
        backbone = condensed(arch)
        x = torch.rand(2, 3, 33, 48)
        add('backbone', backbone, x)
        add('stem', backbone.stem, x)
        x = backbone.stem(x)
        for block in backbone.blocks:
            add('dense_block', block, x)
            x = block(x)
    for order in (('norm', 'act', 'conv'), ('conv', 'norm', 'act')):
        sfr = SFRModule(12, 20, groups=4, sparse_factor=3, order=order, deploy=True)
        randomise(sfr)
        add('reactivate', sfr.eval(), torch.rand(2, 20, 5, 7), torch.rand(2, 12, 5, 7))
        lgc = LGCModule(40, 24, 4, order=order, act_cfg=None, deploy=True)
        add('learned_group_conv', lgc.eval(), torch.rand(2, 40, 5, 7))
    neck = SEGlobalAveragePooling(40, ratio=4).eval()
    add('pool_excite', neck, torch.rand(3, 40, 5, 7))
    return calls


def has_memory(tensor: Any) -> bool:
    """Return whether a tensor's storage is complete."""
    return not tensor.is_meta and tensor.untyped_storage().nbytes() >= tensor.nbytes


def mutate_tensor(tensor: Any, dice: random.Random) -> Any:
    """Return a random mutation of a tensor."""
    import torch

    if not has_memory(tensor):
        return tensor
    values = tensor.clone()
    dims = list(values.shape)
    kind = dice.randrange(14)
    if kind == 0:
        return values.to(dice.choice([torch.float64, torch.int64, torch.bfloat16]))
    if kind == 1 and dims:
        at = dice.randrange(len(dims))
        return values.narrow(at, 0, dice.randrange(dims[at] + 1))
    if kind == 2:
        return values.flatten()[: dice.randrange(values.numel() + 1)]
    if kind == 3:
        return values.unsqueeze(dice.randrange(len(dims) + 1))
    if kind == 4 and dims:
        return torch.cat([values, values], dice.randrange(len(dims)))
    if kind == 5 and values.numel():
        flat = values.reshape(-1)
        at = dice.randrange(len(flat))
        if values.is_floating_point():
            flat[at] = dice.choice([float('nan'), float('inf'), -1e38, 0.0])
        else:
            flat[at] = dice.choice(NUMBERS)
        return flat.view(dims)
    if kind == 6 and len(dims) > 1:
        return values.transpose(0, dice.randrange(len(dims)))
    if kind == 7:
        # Huge sizes without memory, because one size is zero.
        sizes = [dice.choice([0, 1, 2, 2**20, 2**31, 2**40]) for _ in range(4)]
        sizes[dice.randrange(4)] = 0
        return torch.empty(sizes, dtype=values.dtype)
    if kind == 8:
        return torch.empty(0, dtype=values.dtype)
    if kind == 9 and len(dims) == 4:
        return values[:1, :, :1, :1].expand(
            -1, -1, dice.choice([1, 2, 300]), dice.choice([1, 5, 300])
        )
    if kind == 10:
        return (
            values.to(memory_format=torch.channels_last) if len(dims) == 4 else values
        )
    if kind == 11:
        values.untyped_storage().resize_(dice.randrange(2) * values.nbytes // 2)
        return values
    if kind == 12:
        return values.to('meta')
    return values.detach().requires_grad_() if values.is_floating_point() else values


def mutate(value: Any, dice: random.Random) -> Any:
    """Return a random mutation of an argument."""
    import torch

    if isinstance(value, torch.Tensor):
        try:
            return mutate_tensor(value, dice)
        except RuntimeError:  # not a valid tensor in PyTorch
            return value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return dice.choice([value + 1, value - 1, *NUMBERS])
    if isinstance(value, float):
        return dice.choice([0.0, -1.0, 1e308, float('nan'), float('inf')])
    value = list(value)
    kind = dice.randrange(5)
    if kind == 0 and value:
        del value[dice.randrange(len(value))]
    elif kind == 1 and value:
        value.insert(dice.randrange(len(value)), dice.choice(value))
    elif kind == 2 and len(value) > 1:
        i, j = dice.sample(range(len(value)), 2)
        value[i], value[j] = value[j], value[i]
    elif kind == 3:
        del value[dice.randrange(len(value) + 1) :]
    elif value:
        at = dice.randrange(len(value))
        value[at] = mutate(value[at], dice)
    return value


def describe(value: Any) -> str:
    """Describe an argument, to reproduce a crash."""
    import torch

    if isinstance(value, torch.Tensor):
        return f'{tuple(value.shape)}:{value.dtype}'
    if isinstance(value, list):
        return '[' + ', '.join(map(describe, value)) + ']'
    return repr(value)


def fuzz_torch(dice: random.Random, log: Callable[[str], None]) -> Callable[[], str]:
    """Return a function that calls a PyTorch operator and returns the outcome."""
    import torch

    from mmcdnv2.ops import library

    torch.set_grad_enabled(False)
    if not library.load():
        sys.exit(library.describe())
    calls = valid_calls()
    names = torch.ops.mmcdnv2.kernel_names()

    def step() -> str:
        name, args = dice.choice(calls)
        args = list(args)
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            at = dice.randrange(len(args))
            args[at] = mutate(args[at], dice)
        torch.ops.mmcdnv2.choose_kernels(dice.choice(names))
        log(f'{name} {describe(args)}')
        try:
            out = getattr(torch.ops.mmcdnv2, name)(*args)
        # PyTorch raises various exceptions; only crashes matter.
        except Exception as error:
            return type(error).__name__
        for tensor in out if isinstance(out, list) else [out]:
            tensor.sum()
        return 'taken'

    return step


def fuzz_onnxruntime(
    dice: random.Random, log: Callable[[str], None]
) -> Callable[[], str]:
    """Return a function that runs an ONNX Runtime node and returns the outcome."""
    import numpy as np
    import torch
    from test_onnxruntime_library import NODES, run

    torch.set_grad_enabled(False)
    makers = list(NODES.values())

    def step() -> str:
        node = dice.choice(makers)()
        inputs = node.inputs(1, 12, 9)
        for _ in range(dice.choice([1, 1, 2, 3])):
            if dice.randrange(2) and node.params:
                at = dice.randrange(len(node.params))
                tensor = torch.from_numpy(np.ascontiguousarray(node.params[at]))
                tensor = mutate(tensor, dice)
                if not has_memory(tensor):
                    continue
                # NumPy has no bfloat16.
                if tensor.dtype != torch.bfloat16 and max(tensor.shape, default=0) < 99:
                    node.params[at] = tensor.detach().contiguous().numpy()
            elif dice.randrange(4):
                at = dice.choice(sorted(node.attributes))
                node.attributes[at] = mutate(node.attributes[at], dice)
            else:
                at = dice.randrange(len(inputs))
                tensor = mutate(inputs[at], dice)
                if has_memory(tensor):
                    inputs[at] = tensor.detach().contiguous()
        log(f'{node.kind} {node.attributes} {[p.shape for p in node.params]}')
        try:
            run(node.session(threads=dice.choice([1, 2])), inputs)
        except Exception as error:
            return type(error).__name__
        return 'taken'

    return step


def fuzz(backend: str, minutes: float, seed: int, log: str) -> None:
    """Call operators for some minutes and print the counts of outcomes."""
    dice = random.Random(seed)
    found: Dict[str, int] = {}
    with open(log, 'w') as last:

        def log_call(text: str) -> None:
            last.seek(0)
            last.truncate()
            last.write(text)
            last.flush()

        step = (fuzz_torch if backend == 'torch' else fuzz_onnxruntime)(dice, log_call)
        if 'LD_PRELOAD' not in os.environ:
            # Small inputs must not need much memory. Sanitizers need their own.
            used = int(Path('/proc/self/statm').read_text().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, used + 2**32))
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            outcome = step()
            found[outcome] = found.get(outcome, 0) + 1
    total = sum(found.values())
    print(
        f'{backend}: {total} calls, no crash: {dict(sorted(found.items()))}', flush=True
    )


def check_large() -> None:
    """Run each operator on more than 2^31 elements and check the last pixels."""
    import torch
    from conftest import randomise
    from kernel_networks import ARCHS, condensed

    from mmcdnv2.layers import LGCModule, SFRModule
    from mmcdnv2.necks import SEGlobalAveragePooling

    torch.set_grad_enabled(False)
    ARCHS['small'] = dict(
        depths=(1, 1),
        growth_rates=(4, 4),
        groups=1,
        condense_factor=4,
        sparse_factor=4,
        se_from=None,
    )
    backbone = condensed('small', out_indices=(1,))

    def check(
        name: str, call: Callable[..., Any], *channels: int, largest: int = 0
    ) -> None:
        # A multiple of 32 by 32 pixels, the largest map just over 2^31 elements. Zero
        # pages that are only read need no memory.
        width = 2**14
        height = (2**31 // (largest or channels[0]) // width // 32 + 1) * 32
        inputs = [torch.zeros(1, count, height, width) for count in channels]
        for x in inputs:
            x[..., -32:, -32:] = torch.randn(x.size(1), 32, 32)
        begin = time.monotonic()
        out = call(*inputs)
        seconds = time.monotonic() - begin
        assert max(inputs[0].numel(), out.numel()) > 2**31
        last = call(*(x[..., -32:, -32:].clone() for x in inputs))
        # The receptive field of the last pixels is within the crop.
        actual, expected = out[..., -2:, -2:], last[..., -2:, -2:]
        assert expected.std() > 0.01
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f'{name}: {tuple(inputs[0].shape)} to {tuple(out.shape)} in {seconds:.0f} '
            f's, the last pixels are correct, {used:.1f} GiB so far',
            flush=True,
        )

    lgc = LGCModule(512, 4, 1, 128, order=('norm', 'act', 'conv'), deploy=True).eval()
    check('LGC', lgc, 512)
    check('backbone', lambda x: backbone(x)[0], 3)
    check('block that pools', backbone.blocks[1], 12)
    check('stem', backbone.stem, 3)
    sfr = SFRModule(4, 16, groups=1, sparse_factor=1, deploy=True).eval()
    randomise(sfr)
    check('SFR', sfr, 16, 4)
    check('block', backbone.blocks[0], 8, largest=12)
    neck = SEGlobalAveragePooling(16, ratio=4).eval()
    x = torch.zeros(1, 16, 2**13, 2**14 + 1)
    x[0, :, -1, -1] = 2**27 * torch.arange(1.0, 17.0)
    means = (torch.arange(1.0, 17.0) * 2**27 / (x.numel() // 16)).view(1, 16, 1, 1)
    torch.testing.assert_close(neck((x,)), neck((means,)))
    print(f'pooling: {tuple(x.shape)}, the last pixel is counted', flush=True)


def under_sanitizers(backend: str, arguments: List[str]) -> int:
    """Run this script with libraries compiled with the sanitizers."""
    libraries = [
        subprocess.check_output(['g++', f'-print-file-name={name}'], text=True).strip()
        for name in ('libasan.so', 'libubsan.so', 'libstdc++.so')
    ]
    with tempfile.TemporaryDirectory() as cache:
        variables = dict(
            CXX=f'g++ {SANITIZERS}',
            LD_PRELOAD=' '.join(libraries),
            # Python leaks memory at exit. No call may allocate more than this at once.
            ASAN_OPTIONS='detect_leaks=0:halt_on_error=1:allocator_may_return_null=1:'
            'max_allocation_size_mb=2048:detect_container_overflow=0',
            UBSAN_OPTIONS='print_stacktrace=1',
            XDG_CACHE_HOME=cache,
        )
        if backend == 'onnxruntime':
            variables['MMCDNV2_KERNELS'] = '0'  # do not compile the PyTorch library
        command = [sys.executable, '-W', 'ignore', __file__, '--plain', *arguments]
        return subprocess.call(command, env=dict(os.environ, **variables))


def main() -> None:
    """Fuzz, or check large inputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=5)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--host', choices=['torch', 'onnxruntime'], default='torch')
    parser.add_argument('--log', default=os.devnull)
    parser.add_argument('--plain', action='store_true', help='without sanitizers')
    parser.add_argument(
        '--large', action='store_true', help='2^31 elements, up to 20 GiB'
    )
    args = parser.parse_args()
    if platform.system() != 'Linux':
        sys.exit('The kernels are for Linux.')
    sys.path += [str(ROOT / 'tests'), str(ROOT / 'tests' / 'ops')]
    if args.large:
        check_large()
    elif args.plain:
        fuzz(args.host, args.minutes, args.seed, args.log)
    else:
        sys.exit(under_sanitizers(args.host, sys.argv[1:]))


if __name__ == '__main__':
    main()
