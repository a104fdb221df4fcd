"""Run a network in several runtimes with the same threads and input."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import Tensor, nn

from mmcdnv2 import ops
from mmcdnv2.export.engines import open_engine

Call = Callable[[], Any]


@dataclass(frozen=True)
class Job:
    """A network, its input and its settings for a runtime.

    Attributes:
        network (nn.Module): Called as ``network(inputs)``.
        inputs (Tensor): Images, shape (N, 3, H, W).
        threads (int): Number of threads; already set in PyTorch.
        kernels (bool): Whether to use the native kernels.
    """

    network: nn.Module
    inputs: Tensor
    threads: int
    kernels: bool

    @cached_property
    def onnx(self) -> bytes:
        """bytes: The network as an ONNX file, with native operators for kernels."""
        from mmcdnv2.export.tracing import trace

        with torch.no_grad(), ops.use_kernels(False):
            number = len(as_tensors(self.network(self.inputs)))
        names = [f'out_{i}' for i in range(number)]
        graph = trace(
            self.network, dict(images=self.inputs), names, native=self.kernels
        )
        return graph.SerializeToString()


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

    # All networks share this code object; beyond the cache limit of a few, PyTorch
    # would fall back to eager mode.
    with torch._dynamo.config.patch(cache_size_limit=1000):
        call()
    return call


def _exported(engine: str, job: Job) -> Call:
    run = open_engine(job.onnx, engine, job.threads, job.kernels)
    images = dict(images=job.inputs.numpy())
    return lambda: list(run(images).values())


@dataclass(frozen=True)
class Runtime:
    """A runtime for networks.

    Attributes:
        prepare (Callable): Prepares a job: returns a function that runs it.
        packages (tuple[str]): Required packages in addition to PyTorch.
        has_kernels (bool): Whether the native kernels run in it.
    """

    prepare: Callable[[Job], Call]
    packages: Tuple[str, ...] = ()
    has_kernels: bool = False


# PyTorch's exporter needs onnxscript, which installs onnx.
RUNTIMES: Dict[str, Runtime] = {
    'eager': Runtime(_eager, has_kernels=True),
    'compile': Runtime(_compile, has_kernels=True),
    'onnxruntime': Runtime(
        partial(_exported, 'onnxruntime'),
        ('onnxruntime', 'onnxscript'),
        has_kernels=True,
    ),
    'openvino': Runtime(partial(_exported, 'openvino'), ('openvino', 'onnxscript')),
}


def as_tensors(outputs: Any) -> List[Tensor]:
    """Convert the outputs of a network or a runtime to tensors.

    Args:
        outputs (Any): A tensor, or a sequence of tensors or arrays.

    Returns:
        list[Tensor]: The outputs.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    return [torch.as_tensor(output) for output in outputs]
