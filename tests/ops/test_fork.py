"""Forking processes while other threads run kernels."""

import os
import subprocess
import sys

import pytest
from conftest import HANG, ROOT

from mmcdnv2 import ops
from mmcdnv2.ops.build import build
from mmcdnv2.ops.onnxruntime_library import library_path

pytestmark = pytest.mark.skipif(
    not ops.load() or not hasattr(os, 'fork'),
    reason=f'no kernels or no fork: {ops.describe()}',
)

# In both backends, each of which has its own memory pool. Children compute on one
# thread, since OpenMP and ONNX Runtime have no others there.
#
# A child may wait forever in a function that PyTorch calls for the first time: such a
# call registers a destructor, and a fork meanwhile leaves glibc's lock for that locked.
# So the parent first makes all calls of threads and children, and the threads, whose
# gradient mode is their own, run kernels only.
FORKS = """
import os, signal, sys, threading
import torch
sys.path.insert(0, sys.argv[1])
from kernel_networks import condensed, uses_kernels
from mmcdnv2.ops import library

torch.set_num_threads(1)
torch.set_grad_enabled(False)
# So small that a good part of the time is spent under the cache's lock.
backbone, x = condensed('wide'), torch.rand(1, 3, 32, 32)
expected = backbone(x)[0]
weight = backbone.stem.conv.weight
calls = [lambda: backbone(x)[0]]
if sys.argv[2] == 'onnxruntime':
    from test_onnxruntime_library import block, run
    node = block(0, 'wide')
    session, inputs = node.session(), [torch.rand(1, 32, 128, 128)]
    calls = [lambda: torch.from_numpy(run(session, inputs))]
    expected = calls[0]()
assert torch.equal(calls[0](), expected)
stop = threading.Event()

@torch.no_grad()
def infer():
    assert uses_kernels(backbone, x)
    while not stop.is_set():
        calls[0]()
        library.forget(weight)  # forces packing

threads = [threading.Thread(target=infer, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for i in range(int(sys.argv[3])):
    child = os.fork()
    if not child:
        signal.alarm(int(sys.argv[4]))
        same = torch.equal(calls[0](), expected) and not library._lock.locked()
        os._exit(0 if same else 1)
    status = os.waitpid(child, 0)[1]
    if status:
        print(f'child {i}: status {status}', flush=True)
        os._exit(1)
assert all(thread.is_alive() for thread in threads)
stop.set()
for thread in threads:
    thread.join()
print('all the same')
"""


@pytest.mark.parametrize(('host', 'forks'), [('torch', 40), ('onnxruntime', 12)])
def test_forks(host, forks, tmp_path):
    if host == 'onnxruntime':
        pytest.importorskip('onnxruntime')
    script = tmp_path / 'forks.py'
    script.write_text(FORKS)
    paths = f'{ROOT}{os.pathsep}{ROOT / "tests" / "ops"}'
    command = [sys.executable, '-W', 'ignore', script]
    result = subprocess.run(
        [*command, ROOT / 'tests', host, str(forks), str(HANG)],
        env=dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        text=True,
        timeout=2 * HANG,
    )
    assert result.stdout.splitlines()[-1:] == ['all the same']


def test_no_static_object_is_created_by_a_call():
    """A child that is forked during the call would wait forever for its end."""
    # Named so are the locks of static objects inside of functions of our namespace.
    lock = b'_ZGVZN7mmcdnv2'
    assert lock not in build().read_bytes()
    assert lock not in library_path().read_bytes()
