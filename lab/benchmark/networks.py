"""The networks of the benchmark, ours and their peers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from mmengine.hub import get_config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcdnv2.builder import TensorMode, build_model
from mmcdnv2.config import load_config
from mmcdnv2.layers import SFR, sparse_layers

from ..zoo import read_zoo

PARTS = ('classifier', 'backbone')
# The measured forms of condensable networks; see docs/speed.md.
CONDENSING = ('sparse', 'condensed', 'fallback')


@dataclass(frozen=True)
class Network:
    """A network of the benchmark.

    Attributes:
        family (str): Group in plots.
        config (str): Its config: one of ours by name, mmpretrain's as
            'mmpretrain::FOLDER/NAME.py', timm's networks as 'timm::NAME'.
        out_indices (tuple[int]): The backbone's outputs for a detector.
        forms (tuple[str]): Measured forms; empty if there is only one.
        top1 (float, optional): ImageNet top-1 accuracy in percent, if it is not
            in our model index.
        source (str): Where ``top1`` was published.
    """

    family: str
    config: str
    out_indices: Tuple[int, ...]
    forms: Tuple[str, ...] = ()
    top1: Optional[float] = None
    source: str = 'paper of CondenseNetV2'


NETWORKS = {
    **{
        f'cdnv2_{arch}': Network(
            'CondenseNetV2',
            f'cdnv2_{arch}_8xb128_in1k',
            (1, 2, 3, 4),
            (*CONDENSING, 'authors'),
        )
        for arch in 'abc'
    },
    **{
        f'sfr_shufflenetv2_{width}': Network(
            'SFR-ShuffleNetV2',
            f'sfr_shufflenetv2_{width}_16xb64_in1k',
            (0, 1, 2),
            CONDENSING,
        )
        for width in ('0.5x', '1.0x', '1.5x')
    },
    'shufflenetv2_0.5x': Network(
        'ShuffleNetV2',
        'shufflenetv2_0.5x_16xb64_in1k',
        (0, 1, 2),
        top1=60.3,
        source='paper of ShuffleNetV2',
    ),
    **{
        f'shufflenetv2_{width}': Network(
            'ShuffleNetV2', f'shufflenetv2_{width}_16xb64_in1k', (0, 1, 2)
        )
        for width in ('1.0x', '1.5x')
    },
    'mobilenetv2': Network(
        'MobileNet',
        'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
        (1, 2, 4, 6),
        top1=72.0,
        source='paper of MobileNetV2',
    ),
    'mobilenetv3_large': Network(
        'MobileNet',
        'timm::mobilenetv3_large_100',
        (1, 2, 3, 4),
        top1=75.8,
        source="timm's results of mobilenetv3_large_100.ra_in1k",
    ),
    'mobilenetv4_conv_small': Network(
        'MobileNet',
        'timm::mobilenetv4_conv_small',
        (1, 2, 3, 4),
        top1=73.8,
        source="timm's results of mobilenetv4_conv_small.e2400_r224_in1k",
    ),
    'ghostnet_1.0x': Network(
        'GhostNet',
        'timm::ghostnet_100',
        (1, 2, 3, 4),
        top1=73.9,
        source='paper of GhostNet',
    ),
    'lcnet_100': Network(
        'PP-LCNet',
        'timm::lcnet_100',
        (1, 2, 3, 4),
        top1=72.1,
        source="timm's results of lcnet_100.ra2_in1k",
    ),
    'hgnetv2_b0': Network(
        'PP-HGNetV2',
        'timm::hgnetv2_b0',
        (0, 1, 2, 3),
        top1=77.4,
        source="timm's results of hgnetv2_b0.ssld_stage2_ft_in1k",
    ),
    'repvit_m0_9': Network(
        'RepViT',
        'timm::repvit_m0_9',
        (0, 1, 2, 3),
        top1=78.7,
        source="timm's results of repvit_m0_9.dist_300e_in1k",
    ),
}


def build_network(network: Network, part: str, root: Path, seed: int = 0) -> nn.Module:
    """Build a network with random weights and finished sparsification.

    Reparameterisable networks, such as RepViT, are returned in their inference form.

    Args:
        network (Network): The network.
        part (str): 'classifier' or 'backbone', which ends with the last stage
            that a detector uses.
        root (Path): Folder with our ``configs``.
        seed (int): Seed of the weights.

    Returns:
        nn.Module: Maps images, shape (N, 3, H, W), to logits or to a sequence
        of feature maps; in evaluation mode.

    Raises:
        ImportError: If its package is not installed.
    """
    torch.manual_seed(seed)
    package, _, name = network.config.rpartition('::')
    is_backbone = part == 'backbone'
    if package == 'timm':
        # Optional dependency.
        import timm
        import timm.utils.model

        options: Dict[str, Any] = {}
        if is_backbone:
            options = dict(features_only=True, out_indices=network.out_indices)
        built = timm.create_model(name, **options)
    else:
        if package:
            cfg = get_config(network.config)
        else:
            cfg = load_config(str(root / 'configs' / f'{name}.py'))
        if is_backbone:
            cfg.model.backbone.out_indices = network.out_indices
        model = build_model(cfg)
        built = model.backbone if is_backbone else TensorMode(model, [])
        if is_backbone:
            drop_unused_stages(built)
    randomise(built, lambda: built(torch.randn(4, 3, 64, 64)))
    if package == 'timm':
        built = timm.utils.model.reparameterize_model(built)
    return built


def drop_unused_stages(backbone: nn.Module) -> None:
    """Drop the stages after the last output, which mmpretrain would run.

    Does nothing if the stages are not called ``layers``, as in our networks, which
    do not run unused stages.

    Args:
        backbone (nn.Module): Changed in place.
    """
    indices = getattr(backbone, 'out_indices', ())
    if not hasattr(backbone, 'layers') or not indices or min(indices) < 0:
        return
    end = max(indices) + 1
    for stage in backbone.layers[end:]:
        # Some backbones store names of stages.
        if isinstance(stage, str):
            delattr(backbone, stage)
    backbone.layers = backbone.layers[:end]


def randomise(network: nn.Module, run: Callable[[], Any]) -> None:
    """Finish the sparsification and randomise norms and reactivations.

    The norms' statistics are computed in one run, so that features keep their
    scale through all layers, as in a trained network. Small variances are clamped,
    so that channels that hardly vary do not dominate.

    Args:
        network (nn.Module): Set to evaluation mode.
        run (Callable): Runs the network on some images.
    """
    for layer in sparse_layers(network).values():
        if isinstance(layer, SFR):
            # Its initial zeros would make all groups keep the same channels.
            nn.init.kaiming_normal_(layer.weight)
        layer.set_progress(1)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.momentum = 1
    network.train()
    with torch.no_grad():
        run()
    for norm in norms:
        norm.running_var.clamp_(min=0.1)
    network.eval()


def read_top1(root: Path) -> Dict[str, Tuple[Optional[float], str]]:
    """Return the networks' published accuracies.

    Args:
        root (Path): Folder with our model index.

    Returns:
        dict[str, tuple]: ImageNet top-1 accuracy in percent, or None, and its
        source, by network name.
    """
    zoo = {model.name: model.metrics for model in read_zoo(root)}
    return {
        name: (
            network.top1 or zoo[network.config].get('Top 1 Accuracy'),
            network.source,
        )
        for name, network in NETWORKS.items()
    }
