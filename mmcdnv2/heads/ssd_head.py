"""MMDetection's SSD head, which its newest versions cannot run."""

from mmdet.models.dense_heads import SSDHead

from ..registry import register_model


@register_model
class SSDLiteHead(SSDHead):
    """:class:`mmdet.models.SSDHead`, made to predict.

    Since MMDetection 3.2 all dense heads are asked for their ``loss_cls`` when
    they predict, and its SSD head has none
    (https://github.com/open-mmlab/mmdetection/issues/11063).
    """

    loss_cls = None
