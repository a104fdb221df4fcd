"""The kernel profile of .dev/profile_kernels.py."""

import importlib
import platform
import sys

import pytest
import torch
from conftest import ROOT

from mmcdnv2.complexity import count_macs
from mmcdnv2.errors import InputError
from mmcdnv2.ops.compiler import find_compiler


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / '.dev')
    return importlib.import_module('profile_kernels')


def test_profile(tool, tmp_path, capsys):
    network = tool.build_network('a')
    size = (70, 97)
    parts = tool.count_parts(network, *size)
    maps = ['35x49', '35x49', '17x24', '8x12', '4x6', '2x3']
    assert [part.size for part in parts] == maps
    macs = count_macs(network, torch.rand(1, 3, *size))
    assert sum(sum(part.flop.values()) for part in parts) == 2 * macs
    # Compiles faster without optimisation.
    program = tool.build_program(
        tool.SOURCE, tmp_path, find_compiler(), platform.machine(), '-O0'
    )
    path = tmp_path / 'network'
    with path.open('wb') as file:
        tool.write_network(network, file)
    times = tool.run_program(program, path, size, rounds=3, kernels='baseline')
    assert times[-1]['kernels'] == 'baseline'
    *parts, whole = tool.add_times(parts, times)
    for part in (*parts, whole):
        assert part.ms == pytest.approx(sum(part.kinds.values()) + part.rest)
    spent = {part.name: {k for k, ms in part.kinds.items() if ms} for part in parts}
    convolutions = {'LGC', '3x3', 'SFR'}
    assert spent.pop('stem') == {'stem'}
    assert spent.pop('block 1') == convolutions
    pooled = convolutions | {'pooling'}
    gated = pooled | {'norm, gate'}
    assert list(spent.values()) == [pooled, pooled, gated, gated]

    rows = tool.times_table([whole], product=whole.ms)
    assert rows[1][:3] == ['whole', '', f'{2 * macs / 1e6:.1f}']
    tool.show(rows, markdown=True)
    header, line, row, end = capsys.readouterr().out.split('\n', 3)
    assert header.startswith('|  | map | MFLOP | MB | ms | GFLOP/s | of product |')
    assert header.count('|') == line.count('|') == row.count('|')
    assert row == f'| {" | ".join(rows[1])} |'

    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match='The network could not be timed: .*stream'):
        tool.run_program(program, path, size, rounds=1)
    with pytest.raises(InputError, match='processor has no kernels called mmx.$'):
        tool.run_program(program, path, size, rounds=1, kernels='mmx')


def test_moved_bytes(tool):
    network = tool.build_network('a')
    stem, block = tool.count_parts(network, 64, 96)[:2]
    # Weights, 3 input channels, 16 output channels.
    assert stem.moved == 4 * (16 * 27 + 3 * 64 * 96 + 16 * 32 * 48)
    # LGC 16 -> 32 in 8 groups, 3x3 32 -> 8, SFR 8 -> 16 with 2 kept; norms; indices.
    weights = 32 * 2 + 8 * 4 * 9 + 8 * 2 * 1 + (16 + 16)
    norms = 2 * (16 + 32 + 8)
    assert block.moved == 4 * (weights + norms + (16 + 24) * 32 * 48)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (('--size', '16', '64'), 'must be at least 32 pixels high and wide'),
        (('--rounds', '0'), 'rounds must be at least 1'),
    ],
)
def test_rejects_bad_options(tool, monkeypatch, options, sentence):
    monkeypatch.setattr(sys, 'argv', ['profile_kernels.py', *options])
    with pytest.raises(SystemExit, match=f'^error: .*{sentence}'):
        tool.main()


def test_without_a_compiler(tool, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['profile_kernels.py', '--arch', 'a'])
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(SystemExit, match='compiled: there is no C.. compiler'):
        tool.main()
