"""MMDetection's SSD head with a fix for prediction."""

from mmdet.models.dense_heads import SSDHead

from ..registry import register_model


@register_model
class SSDLiteHead(SSDHead):
    """:class:`mmdet.models.SSDHead` that can predict.

    Since MMDetection 3.2, prediction reads ``loss_cls`` of dense heads, which its
    SSD head lacks (https://github.com/open-mmlab/mmdetection/issues/11063).
    """

    loss_cls = None
