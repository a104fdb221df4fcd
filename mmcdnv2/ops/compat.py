"""Functions that differ between versions of PyTorch."""

from functools import partial

import torch

# Without it, in torch 2.1, the kernels break the compiled graph.
is_compiling = getattr(torch.compiler, 'is_compiling', bool)
try:
    torch.is_autocast_enabled('cpu')
    is_autocast_enabled = partial(torch.is_autocast_enabled, 'cpu')
except TypeError:  # torch 2.1
    is_autocast_enabled = torch.is_autocast_cpu_enabled
