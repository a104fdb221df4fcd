"""Profile the kernels in CondenseNetV2, block by block.

    python .dev/profile_kernels.py                        # C at 224x224
    taskset -c 1 python .dev/profile_kernels.py --arch a --size 640 640

The kernels' core runs without a backend, in one thread on the first core that the
process may use. The weights are random with a fixed seed. Needs a C++ compiler.

MFLOP: all convolutions, two operations per multiply-add. MB: weights, indices, input
and output, moved once, four bytes per number. Times are medians. 'rest' is the time
outside the kernels, for example copies and new memory; as a difference, it may be
negative. 'of product' is relative to the fastest float32 matrix product of PyTorch in
one thread, which uses the processor's best instructions regardless of --kernels.
"""

import argparse
import json
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Dict, List, Tuple

import torch
from kernel_program import build_program
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.benchmark.latency import best_product_gflops, matrix_products, pinned
from lab.benchmark.networks import randomise
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.backbones.dense_block import DenseBlock, DenseLayer
from mmcdnv2.cli import command_line, report_console
from mmcdnv2.complexity import count_params, time_rounds
from mmcdnv2.errors import InputError
from mmcdnv2.layers import condense_layers
from mmcdnv2.machine import processor_name
from mmcdnv2.ops.compiler import BuildError, find_compiler, instruction_sets

SOURCE = Path(__file__).with_suffix('.cpp')
# Kinds of work and the kernels' names in the program's output.
KINDS = {
    'LGC': ('lgc',),
    '3x3': ('conv3x3',),
    'SFR': ('sfr',),
    'stem': ('stem',),
    'norm, gate': ('affine', 'mean', 'linear'),
    'pooling': ('pool',),
}
COUNTED = ('LGC', '3x3', 'SFR', 'stem')
PRODUCT_ROUNDS = 5


@dataclass
class Part:
    """The stem, a block, or the whole network.

    Attributes:
        name (str): Its name.
        size (str): Height and width of its map.
        flop (dict[str, float]): Operations by kind of work.
        moved (float): Bytes of weights, indices, input and output.
        ms (float): Latency in milliseconds.
        kinds (dict[str, float]): Milliseconds by kind of work.
    """

    name: str
    size: str
    flop: Dict[str, float]
    moved: float
    ms: float = 0.0
    kinds: Dict[str, float] = field(default_factory=dict)

    @property
    def rest(self) -> float:
        """float: Milliseconds outside the kernels."""
        return self.ms - sum(self.kinds.values())


def build_network(arch: str) -> CondenseNetV2:
    """Build a condensed backbone with random weights."""
    torch.manual_seed(0)
    network = CondenseNetV2(arch)
    randomise(network, lambda: network(torch.randn(4, 3, 64, 64)))
    # Evaluation mode would also compile the kernels for PyTorch.
    network.train()
    condense_layers(network)
    return network


def count_parts(network: CondenseNetV2, height: int, width: int) -> List[Part]:
    """Count the work of the stem and of each block.

    Args:
        network (CondenseNetV2): A condensed network.
        height (int): Height of the input in pixels.
        width (int): Width of the input in pixels.

    Returns:
        list[Part]: The parts without times.
    """
    stem = network.stem.conv.weight
    floats = stem.size(1) * height * width
    height, width = (height + 1) // 2, (width + 1) // 2
    channels = stem.size(0)
    parts = []
    for number, operator in enumerate([network.stem, *network.blocks]):
        macs = {}
        if number:
            pool, new_channels = operator._kernel_arguments().options
            if pool:
                height, width = height // 2, width // 2
            channels += new_channels
            macs = _macs_of_block(operator, height * width)
        else:
            macs['stem'] = stem.numel() * height * width
        written = channels * height * width
        held = count_params(operator) + sum(
            buffer.numel()
            for name, buffer in operator.named_buffers()
            if name.endswith('.index')
        )
        parts.append(
            Part(
                f'block {number}' if number else 'stem',
                f'{height}x{width}',
                {kind: 2 * count for kind, count in macs.items()},
                4 * (held + floats + written),
            )
        )
        floats = written
    return parts


def _macs_of_block(block: DenseBlock, pixels: int) -> Dict[str, int]:
    macs = dict.fromkeys(('LGC', '3x3', 'SFR', 'norm, gate'), 0)
    for layer in block.children():
        if not isinstance(layer, DenseLayer):
            continue
        macs['LGC'] += pixels * layer.lgc.conv.weight.numel()
        macs['3x3'] += pixels * layer.conv.conv.weight.numel()
        macs['SFR'] += pixels * layer.sfr.conv.weight.numel()
        # Squeeze-and-excite works on means over all pixels.
        convs = (m for m in layer.se.modules() if isinstance(m, nn.Conv2d))
        macs['norm, gate'] += sum(conv.weight.numel() for conv in convs)
    return macs


def write_network(network: CondenseNetV2, file: BinaryIO) -> None:
    """Write the operators' arguments in the program's input format."""

    def write(*numbers: int) -> None:
        file.write(struct.pack(f'={len(numbers)}q', *numbers))

    operators = [network.stem, *network.blocks]
    write(len(operators))
    for operator in operators:
        arguments = operator._kernel_arguments()
        write(operator is not network.stem and arguments.options[0])
        write(len(arguments.spec), *arguments.spec)
        eps = [norm.eps for norm in arguments.norms]
        write(len(eps))
        file.write(struct.pack(f'={len(eps)}d', *eps))
        tensors = arguments.tensors()
        write(len(tensors))
        for tensor in tensors:
            write(tensor.is_floating_point(), tensor.dim(), *tensor.shape)
            file.write(tensor.detach().contiguous().numpy().tobytes())


def run_program(
    program: Path,
    network: Path,
    size: Tuple[int, int],
    rounds: int,
    best: bool = False,
    kernels: str = '',
) -> List[dict]:
    """Run the compiled program.

    Args:
        program (Path): The program.
        network (Path): A file from :func:`write_network`.
        size (tuple[int]): Height and width of the input.
        rounds (int): Number of timings.
        best (bool): Whether to return minima instead of medians.
        kernels (str): Instruction set, '' for the processor's best.

    Returns:
        list[dict]: Times of the operators and, last, of the network.

    Raises:
        InputError: If it fails; the message has its output.
    """
    command = [program, network, *size, rounds, int(best), kernels]
    result = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True
    )
    if result.returncode:
        reason = result.stderr.strip() or f'it ended with status {result.returncode}'
        raise InputError(f'The network could not be timed: {reason}.')
    return [json.loads(line) for line in result.stdout.splitlines()]


def add_times(parts: List[Part], times: List[dict]) -> List[Part]:
    """Add measured times to the parts.

    Args:
        parts (list[Part]): The stem and the blocks; changed in place.
        times (list[dict]): Times of each part and, last, of the network.

    Returns:
        list[Part]: The parts and the network.
    """
    for part, spent in zip(parts, times):
        part.ms = spent['ms']
        for kind, timers in KINDS.items():
            part.kinds[kind] = sum(spent[timer] for timer in timers)
    whole = Part(
        'whole',
        '',
        {kind: sum(part.flop.get(kind, 0) for part in parts) for kind in KINDS},
        sum(part.moved for part in parts),
        times[-1]['ms'],
        {kind: sum(part.kinds[kind] for part in parts) for kind in KINDS},
    )
    return [*parts, whole]


def times_table(parts: List[Part], product: float) -> List[List[str]]:
    """Tabulate work and times.

    Args:
        parts (list[Part]): The rows.
        product (float): GFLOP/s of the fastest matrix product.

    Returns:
        list[list[str]]: A header and a row for each part.
    """
    titles = ['', 'map', 'MFLOP', 'MB', 'ms', 'GFLOP/s', 'of product']
    rows = [[*titles, *KINDS, 'rest']]
    for part in parts:
        flop = sum(part.flop.values())
        gflops = flop / part.ms / 1e6
        row = [part.name, part.size, f'{flop / 1e6:.1f}', f'{part.moved / 1e6:.2f}']
        row += [f'{part.ms:.3f}', f'{gflops:.1f}', f'{gflops / product:.0%}']
        spent = (*part.kinds.values(), part.rest)
        rows.append(row + [f'{ms:.3f}' if ms else '' for ms in spent])
    return rows


def rates_table(parts: List[Part]) -> List[List[str]]:
    """Tabulate GFLOP/s by kind of work.

    Args:
        parts (list[Part]): The rows.

    Returns:
        list[list[str]]: A header and a row for each part.
    """
    rows = [['GFLOP/s', *COUNTED]]
    for part in parts:
        rates = (
            part.flop.get(kind, 0) / part.kinds[kind] / 1e6 if part.kinds[kind] else 0
            for kind in COUNTED
        )
        rows.append([part.name, *(f'{rate:.1f}' if rate else '' for rate in rates)])
    return rows


def show(rows: List[List[str]], markdown: bool) -> None:
    """Print a table whose first row is the header."""
    header, *rest = rows
    if markdown:
        for row in (header, ['---', *['---:'] * (len(header) - 1)], *rest):
            print(f'| {" | ".join(row)} |')
        print()
        return
    table = Table()
    for title in header:
        table.add_column(title, justify='right' if title else 'left')
    for number, row in enumerate(rest, 1):
        table.add_row(*row, end_section=number == len(rest) - 1)
    report_console(140).print(table)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--arch', choices=['a', 'b', 'c'], default='c', help='arch (default: c)'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(224, 224),
        metavar=('HEIGHT', 'WIDTH'),
        help='input size in pixels (default: 224 224)',
    )
    parser.add_argument(
        '--rounds', type=int, default=50, help='number of timings (default: 50)'
    )
    parser.add_argument(
        '--kernels',
        choices=[isa.name for isa in instruction_sets(platform.machine())],
        default='',
        help="instruction set (default: the processor's best)",
    )
    parser.add_argument(
        '--best',
        action='store_true',
        help='print minima instead of medians, for a busy machine',
    )
    parser.add_argument(
        '--markdown', action='store_true', help='print the tables as Markdown'
    )
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Compile, count, time and print."""
    if min(args.size) < 32:
        raise InputError('The input must be at least 32 pixels high and wide.')
    if args.rounds < 1:
        raise InputError('--rounds must be at least 1.')
    network = build_network(args.arch)
    parts = count_parts(network, *args.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            program = build_program(SOURCE, folder, find_compiler(), platform.machine())
        except BuildError as error:
            raise InputError(f'The kernels cannot be compiled: {error}') from error
        path = folder / 'network'
        with path.open('wb') as file:
            write_network(network, file)
        with pinned(1) as cores:
            products = matrix_products()
            # Before and after, in case the load changes.
            before = time_rounds([*products.values()], range(PRODUCT_ROUNDS))
            times = run_program(
                program, path, args.size, args.rounds, args.best, args.kernels
            )
            after = time_rounds([*products.values()], range(PRODUCT_ROUNDS))
    typical = min if args.best else statistics.median
    product = best_product_gflops(
        products, (typical(a + b) for a, b in zip(before, after))
    )
    parts = add_times(parts, times)
    print(
        f'CondenseNetV2-{args.arch.upper()}, backbone, '
        f'{args.size[0]}x{args.size[1]}, one thread, {times[-1]["kernels"]} kernels, '
        f'{"best" if args.best else "median"} of {args.rounds} rounds\n'
        f'{processor_name()}, {cores}; fastest matrix product: {product:.1f} GFLOP/s\n'
    )
    show(times_table(parts, product), args.markdown)
    show(rates_table(parts), args.markdown)


if __name__ == '__main__':
    main()
