"""The authors' networks, rebuilt from the rule in their reference outputs."""

import json
import math
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / 'data'


@lru_cache(maxsize=None)
def load_reference(arch):
    return json.loads((DATA / f'cdnv2_{arch}.json').read_text())


@lru_cache(maxsize=None)
def official_state_dict(arch):
    """The authors' sparse state dict, filled by the rule, masks all ones."""
    reference = load_reference(arch)
    state_dict = {}
    for name, shape in reference['state_dict']:
        key = (reference['salt'] + name).encode()
        rng = np.random.RandomState(zlib.crc32(key))
        last = name.rsplit('.', 1)[-1]
        if last == '_mask':
            value = np.ones(shape)
        elif last in ('_count', '_stage', 'num_batches_tracked'):
            value = np.zeros(shape)
        elif last == 'running_var':
            value = 0.5 + rng.random_sample(shape)
        elif last in ('running_mean', 'bias'):
            value = 0.1 * rng.standard_normal(shape)
        elif len(shape) == 1:
            value = 0.5 + rng.random_sample(shape)
        else:
            gain = 0.25 if '.sfr.' in name else 1
            fan_in = math.prod(shape[1:])
            value = gain * rng.standard_normal(shape) * math.sqrt(1 / fan_in)
        state_dict[name] = torch.as_tensor(np.asarray(value, np.float32))
    return state_dict


def official_converted(state_dict, masks):
    """What the authors' conversion makes of a pruned network.

    Written from the description: per group a gathered norm and a group
    convolution, and a dense 0/1 matrix behind SFR's.
    """
    converted = {}
    for name, value in state_dict.items():
        if name.endswith(('_mask', '_count', '_stage')):
            continue
        prefix = name.rsplit('.', 2)[0]
        mask = masks.get(prefix + '._mask')
        if mask is None:
            converted[name] = value
        elif '.conv_1.' in name:
            groups, kept = mask.shape[0], int(mask[0].sum())
            index = torch.cat([row.nonzero()[:, 0] for row in mask])
            converted[prefix + '.index'] = index
            if name.endswith('conv.weight'):
                filters = [
                    value[g::groups, index[g * kept : (g + 1) * kept]]
                    for g in range(groups)
                ]
                converted[name] = torch.cat(filters)
            else:
                converted[name] = value[index] if value.dim() else value
        elif name.endswith('conv.weight'):
            groups, outputs = mask.shape
            index = [row.nonzero()[:, 0] for row in mask]
            converted[name] = torch.cat(
                [value[index[g]][:, g::groups] for g in range(groups)]
            )
            converted[prefix + '.index'] = torch.nn.functional.one_hot(
                torch.cat(index), outputs
            ).float()
        else:
            converted[name] = value
    return converted


@lru_cache(maxsize=None)
def reference_images():
    images = np.random.RandomState(0).standard_normal((2, 3, 224, 224))
    return torch.as_tensor(images.astype(np.float32))


def mask_crc32(layer):
    """Checksum of a layer's mask, spread over its weight."""
    layer.weight.data.fill_(1)
    return zlib.crc32(np.packbits(layer.masked_weight().detach().numpy() != 0))
