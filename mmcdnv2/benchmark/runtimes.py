"""One network in several runtimes, each with the same threads and input."""

import inspect
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import Tensor, nn

from .. import ops

Call = Callable[[], Any]


@dataclass(frozen=True)
class Job:
    """A network, its input and its settings for a runtime.

    Attributes:
        network (nn.Module): Called as ``network(inputs)``.
        inputs (Tensor): Images, shape (N, 3, H, W).
        threads (int): Number of threads, which PyTorch has been told already.
        kernels (bool): Whether to use the native kernels.
    """

    network: nn.Module
    inputs: Tensor
    threads: int
    kernels: bool

    @cached_property
    def onnx(self) -> bytes:
        """bytes: The network as an ONNX file."""
        options = {}
        if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
            options = dict(dynamo=True, external_data=False, verbose=False)
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            # Of shapes that are taken for constants, which here they are.
            warnings.simplefilter('ignore')
            path = Path(folder) / 'network.onnx'
            with ops.use_kernels(False):
                torch.onnx.export(
                    self.network,
                    (self.inputs,),
                    str(path),
                    input_names=['images'],
                    **options,
                )
            return path.read_bytes()


def _eager(job: Job) -> Call:
    def call() -> object:
        with ops.use_kernels(job.kernels):
            return job.network(job.inputs)

    return call


def _compile(job: Job) -> Call:
    compiled = torch.compile(job.network, dynamic=False)

    def call() -> object:
        with ops.use_kernels(job.kernels):
            return compiled(job.inputs)

    # Compiled networks share the code that calls them, and beyond a few of them
    # PyTorch would run the rest in eager mode.
    with torch._dynamo.config.patch(cache_size_limit=1000):
        call()
    return call


def _onnxruntime(job: Job) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        job.onnx, options, providers=['CPUExecutionProvider']
    )
    images = dict(images=job.inputs.numpy())
    return lambda: session.run(None, images)


def _openvino(job: Job) -> Call:
    import openvino

    core = openvino.Core()
    options = dict(
        PERFORMANCE_HINT='LATENCY',
        INFERENCE_NUM_THREADS=job.threads,
        # Some processors would calculate in bfloat16.
        INFERENCE_PRECISION_HINT='f32',
        # The process is pinned as a whole.
        ENABLE_CPU_PINNING=False,
    )
    network = core.compile_model(core.read_model(job.onnx), 'CPU', options)
    images = job.inputs.numpy()
    share = dict(share_inputs=True, share_outputs=True)
    return lambda: network(images, **share).to_tuple()


@dataclass(frozen=True)
class Runtime:
    """Something that runs networks.

    Attributes:
        prepare (Callable): Gets a job ready: returns a function that does it.
        packages (tuple[str]): What it needs besides PyTorch.
    """

    prepare: Callable[[Job], Call]
    packages: Tuple[str, ...] = ()

    @property
    def is_pytorch(self) -> bool:
        """bool: Whether the network runs in PyTorch."""
        return not self.packages


# PyTorch's exporter needs onnxscript, which brings onnx.
RUNTIMES: Dict[str, Runtime] = {
    'eager': Runtime(_eager),
    'compile': Runtime(_compile),
    'onnxruntime': Runtime(_onnxruntime, ('onnxruntime', 'onnxscript')),
    'openvino': Runtime(_openvino, ('openvino', 'onnxscript')),
}


def as_tensors(outputs: Any) -> List[Tensor]:
    """Turn what a network or a runtime returns into tensors.

    Args:
        outputs (Any): A tensor, or a sequence of tensors or arrays.

    Returns:
        list[Tensor]: The outputs.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    return [torch.as_tensor(output) for output in outputs]
