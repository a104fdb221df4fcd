"""Convert the authors' checkpoints."""

import re
from typing import Dict, Tuple

import torch
from mmpretrain.models import StackedLinearClsHead
from torch import Tensor, nn

from ..backbones import CondenseNetV2
from ..checkpoint import check_finite, check_state_dict, load_weights
from ..errors import InputError, in_one_line
from ..layers import LGC, SFR
from ..necks import SEGlobalAveragePooling

# Names of a layer's parts: the authors' -> ours.
_PARTS = {'conv_1': 'lgc', 'conv_2': 'conv', 'sfr': 'sfr', 'se': 'se'}
_FIXED = {
    'features.init_conv.': 'backbone.stem.conv.',
    'features.norm_last.': 'backbone.blocks.4.norm.',
    'features.se_last.fc.0.': 'neck.se.conv1.conv.',
    'features.se_last.fc.2.': 'neck.se.conv2.conv.',
    'fc.': 'head.layers.0.fc.',
    'classifier.': 'head.layers.1.fc.',
}
_LAYER = re.compile(r'features\.denseblock_(\d+)\.denselayer_(\d+)\.(\w+)\.(.+)')


def convert_official(checkpoint: Dict) -> Tuple[str, bool, Dict[str, Tensor]]:
    """Convert a checkpoint of the authors' ImageNet networks.

    Args:
        checkpoint (dict): Has the key ``state_dict_ema`` (preferred) or
            ``state_dict``; sparse or converted by the authors' script.

    Returns:
        tuple[str, bool, dict]: The arch ('a', 'b' or 'c'), whether the
        checkpoint is condensed, and the state dict of our
        ``ImageClassifier`` in the same form.

    Raises:
        InputError: If it is not such a checkpoint.
    """
    theirs = checkpoint.get('state_dict_ema') or checkpoint.get('state_dict')
    if not isinstance(theirs, dict):
        raise InputError(
            "The authors' checkpoints have the key 'state_dict' or 'state_dict_ema', "
            f'this one has {sorted(map(str, checkpoint))[:8]}.'
        )
    check_state_dict(theirs, 'The checkpoint')
    theirs = {re.sub(r'^module\.', '', name): v for name, v in theirs.items()}
    arch = _detect_arch(theirs)
    missing = {f'{name}.bias' for name in ('fc', 'classifier')} - set(theirs)
    if missing:
        raise InputError(f'The checkpoint lacks {sorted(missing)}: it is incomplete.')
    condensed = not any(name.endswith('._mask') for name in theirs)
    try:
        ours = _converted(theirs, arch)
        if condensed:
            _undo_norm_gather(ours)
    except (IndexError, KeyError, RuntimeError) as error:
        # Raised by PyTorch if a tensor is missing or has another shape.
        raise InputError(
            f'This is not a checkpoint of CondenseNetV2-{arch.upper()}: some of its '
            f'tensors do not fit together ({in_one_line(error)}).'
        ) from error
    model = _build(arch, condensed, ours)
    load_weights(model, ours, 'The checkpoint')
    check_finite(model.state_dict(), 'The checkpoint')
    return arch, condensed, ours


def _converted(theirs: Dict[str, Tensor], arch: str) -> Dict[str, Tensor]:
    """Rename tensors and convert them to our shapes."""
    ours: Dict[str, Tensor] = {}
    for name, value in theirs.items():
        if name.endswith(('._count', '._stage')):
            continue
        renamed = _rename(name)
        if name.endswith('._mask'):
            value = _group_mask(name, value, arch)
        elif name.endswith('.sfr.index'):
            value = _row_index(name, value)
        elif '.se' in name:
            value = value[:, :, None, None]
        ours[renamed] = value
    return ours


def _build(arch: str, condensed: bool, state_dict: Dict[str, Tensor]) -> nn.Module:
    """Build the classifier for the state dict."""
    backbone = CondenseNetV2(arch, deploy=condensed)
    channels = backbone.out_channels[-1]
    widths = [state_dict[f'head.layers.{i}.fc.bias'].numel() for i in range(2)]
    # Without the prefix, the default scope would determine the registry.
    loss = dict(type='mmpretrain.CrossEntropyLoss')
    head = StackedLinearClsHead(widths[1], channels, widths[:1], loss=loss)
    return nn.ModuleDict(
        dict(backbone=backbone, neck=SEGlobalAveragePooling(channels), head=head)
    )


def _rename(name: str) -> str:
    for there, here in _FIXED.items():
        if name.startswith(there):
            return here + name[len(there) :]
    match = _LAYER.fullmatch(name)
    if match is None or match[3] not in _PARTS:
        raise InputError(
            f'{name} is not a part of CondenseNetV2: the checkpoint belongs to another '
            'network.'
        )
    block, layer, part, rest = match.groups()
    prefix = f'backbone.blocks.{int(block) - 1}.{int(layer) - 1}.{_PARTS[part]}.'
    rest = rest.replace('norm.', 'bn.').replace('_mask', 'conv.mask')
    rest = 'conv.index' if rest == 'index' else rest
    rest = rest.replace('fc.0.', 'conv1.conv.').replace('fc.2.', 'conv2.conv.')
    return prefix + rest


def _detect_arch(state_dict: Dict[str, Tensor]) -> str:
    """Find the arch that matches the tensors' depths and widths."""
    depths: Dict[int, int] = {}
    growth_rates: Dict[int, int] = {}
    for name, value in state_dict.items():
        match = _LAYER.fullmatch(name)
        if match and match.group(3, 4) == ('conv_2', 'conv.weight'):
            block = int(match[1])
            depths[block] = max(depths.get(block, 0), int(match[2]))
            growth_rates[block] = value.shape[0]
    found = (tuple(depths.values()), tuple(growth_rates.values()))
    for arch, settings in CondenseNetV2.arch_settings.items():
        if found == (settings['depths'], settings['growth_rates']):
            return arch
    raise InputError(
        'This is not a checkpoint of CondenseNetV2-A, -B or -C: its dense blocks have '
        f'depths {found[0]} and growth rates {found[1]}.'
    )


def _group_mask(name: str, mask: Tensor, arch: str) -> Tensor:
    """Reduce a mask of weights to one of (group, channel) pairs.

    In averaged (EMA) checkpoints, pruned entries are tiny instead of zero, and
    kept entries are one up to rounding.
    """
    groups = CondenseNetV2.arch_settings[arch]['groups']
    layer = LGC if '.conv_1.' in name else SFR
    kept = layer.to_matrix(mask) > 0.5
    if not torch.equal(kept, kept[:groups].repeat(len(kept) // groups, 1)):
        raise InputError(
            f'{name} differs within a group; the rows of a group must have one mask.'
        )
    return kept[:groups]


def _row_index(name: str, matrix: Tensor) -> Tensor:
    """Convert a dense one-hot matrix to the output index of each row."""
    is_one_hot = matrix.dim() == 2 and bool(
        ((matrix == 0) | (matrix == 1)).all() and (matrix.sum(1) == 1).all()
    )
    if not is_one_hot:
        raise InputError(f'{name} must have a single 1 in each row, else zeros.')
    return matrix.argmax(1)


def _undo_norm_gather(state_dict: Dict[str, Tensor]) -> None:
    """Reorder the norms before LGC from gathered channels to features.

    The authors' norms run after the gathering, ours before it. Features that no
    group reads get a neutral norm.
    """
    for name in [n for n in state_dict if n.endswith('.lgc.conv.index')]:
        index = state_dict[name]
        prefix = name[: -len('conv.index')] + 'bn.'
        # condense_factor equals groups in every arch, so there are as many gathered
        # channels as features.
        for part, neutral in (
            ('weight', torch.ones_like),
            ('bias', torch.zeros_like),
            ('running_mean', torch.zeros_like),
            ('running_var', torch.ones_like),
        ):
            gathered = state_dict[prefix + part]
            full = neutral(gathered)
            full[index] = gathered
            state_dict[prefix + part] = full
