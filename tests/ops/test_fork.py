"""Forking processes while other threads run kernels."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from mmcdnv2 import ops

pytestmark = pytest.mark.skipif(
    not ops.load() or not hasattr(os, 'fork'),
    reason=f'no kernels or no fork: {ops.describe()}',
)

# For both backends, each with its own memory pool. Children compute on one thread,
# because OpenMP's and ONNX Runtime's threads do not survive a fork.
FORKS = """
import os, signal, sys, threading
import torch
sys.path.insert(0, sys.argv[1])
from kernel_networks import condensed
from mmcdnv2.ops import library

torch.set_num_threads(1)
torch.set_grad_enabled(False)
backbone, x = condensed('wide'), torch.rand(1, 3, 160, 160)
expected = backbone(x)[0]
weight = backbone.stem.conv.weight
calls = [lambda: backbone(x)[0]]
if sys.argv[2] == 'onnxruntime':
    from test_onnxruntime_library import block, run
    node = block(0, 'wide')
    session, inputs = node.session(), [torch.rand(1, 32, 128, 128)]
    calls = [lambda: torch.from_numpy(run(session, inputs))]
    expected = calls[0]()
stop = threading.Event()

def infer():
    while not stop.is_set():
        calls[0]()
        library.forget(weight)  # forces packing

threads = [threading.Thread(target=infer, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for i in range(int(sys.argv[3])):
    child = os.fork()
    if not child:
        signal.alarm(20)
        same = torch.equal(calls[0](), expected) and not library._lock.locked()
        os._exit(0 if same else 1)
    status = os.waitpid(child, 0)[1]
    if status:
        print(f'child {i}: status {status}', flush=True)
        os._exit(1)
stop.set()
for thread in threads:
    thread.join()
print('all the same')
"""


@pytest.mark.parametrize('backend', ['torch', 'onnxruntime'])
def test_forks(backend, tmp_path):
    if backend == 'onnxruntime':
        pytest.importorskip('onnxruntime')
    script = tmp_path / 'forks.py'
    script.write_text(FORKS)
    paths = f'{ROOT}{os.pathsep}{ROOT / "tests" / "ops"}'
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', script, ROOT / 'tests', backend, '12'],
        env=dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert result.stdout.splitlines()[-1:] == ['all the same']
