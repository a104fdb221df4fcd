"""Wrong arguments raise an exception and never crash. For more: make kernels-fuzz."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from kernel_networks import condensed

from mmcdnv2 import ops
from mmcdnv2.layers import LGCModule, SFRModule

pytestmark = pytest.mark.skipif(not ops.load(), reason=f'no kernels: {ops.describe()}')


@pytest.mark.parametrize('backend', ['torch', 'onnxruntime'])
def test_wrong_arguments(backend, tmp_path):
    if backend == 'onnxruntime':
        pytest.importorskip('onnx')
        pytest.importorskip('onnxruntime')
    script, log = ROOT / '.dev' / 'fuzz_operators.py', tmp_path / 'log'
    options = ['--plain', '--minutes', '0.05', '--host', backend, '--log', log]
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', script, *options],
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert not result.returncode, f'{result.stdout}\n{log.read_text()}'
    assert 'no crash' in result.stdout
    assert "'RuntimeE" in result.stdout and "'taken'" in result.stdout


@torch.no_grad()
def test_huge_empty_shapes():
    # These tensors are empty: a kernel must not allocate memory for their shape.
    many = 2**40
    lgc = LGCModule(40, 24, 4, order=('conv', 'norm', 'act'), deploy=True).eval()
    args = lgc.kernel_args(torch.rand(1, 40, 2, 2))
    with pytest.raises(RuntimeError, match=f'{many} channels are too many'):
        torch.ops.mmcdnv2.learned_group_conv(torch.empty(1, many, 0, 1), *args)
    assert lgc(torch.empty(0, 40, many, 2)).shape == (0, 24, many, 2)
    sfr = SFRModule(12, 20, groups=4, sparse_factor=3, deploy=True).eval()
    old, new = torch.empty(0, 20, many, 1), torch.empty(0, 12, many, 1)
    assert sfr(old, new).shape == old.shape
    block = condensed('wide').blocks[0]
    *args, added = block.kernel_args(torch.rand(1, 32, 2, 2))
    for wrong in (2**63 - 1, -(2**63), -1):
        with pytest.raises(RuntimeError, match=f'do not give {wrong} new channels'):
            torch.ops.mmcdnv2.dense_block(torch.rand(1, 32, 2, 2), *args, wrong)


@torch.no_grad()
def test_tensors_without_memory():
    backbone, x = condensed('wide'), torch.rand(1, 3, 32, 32)
    expected = backbone(x)
    weight = backbone.blocks[1][1].lgc.conv._parameters
    kept = weight['weight']
    weight['weight'] = torch.nn.Parameter(kept.to('meta'))
    with pytest.raises(RuntimeError, match='on the meta device, the input is on cpu'):
        backbone(x)
    emptied = kept.clone()
    emptied.untyped_storage().resize_(8)
    weight['weight'] = torch.nn.Parameter(emptied)
    with pytest.raises(RuntimeError, match="a tensor's storage is too small for it"):
        backbone(x)
    weight['weight'] = kept
    assert torch.equal(backbone(x)[0], expected[0])
    x.untyped_storage().resize_(8)
    with pytest.raises(RuntimeError, match="a tensor's storage is too small for it"):
        backbone(x)
