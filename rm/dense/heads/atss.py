"""ATSS (Zhang et al., CVPR 2020), configs/atss/atss_r50_fpn_1x_coco of mmdet 3.3.0."""

from collections.abc import Sequence
from typing import Annotated, Any

from rm.dense.heads._common import binary_loss, box_coder, group_norm, one_stage

TASK = "detection"
METRICS = ("box_ap", "box_ap50", "box_ap75")


def atss(
    channels: Sequence[int],
    classes: int,
    *,
    width: Annotated[int, "width >= 8 and width % 8 == 0"] = 256,
    convolutions: Annotated[int, "convolutions >= 1"] = 4,
) -> dict[str, Any]:
    """width: channels of pyramid and head."""
    return one_stage(
        "ATSS",
        channels,
        width,
        {
            "type": "ATSSHead",
            "num_classes": classes,
            "stacked_convs": convolutions,
            "norm_cfg": group_norm(width),
            "bbox_coder": box_coder([0.1, 0.1, 0.2, 0.2]),
            "loss_cls": {
                "type": "FocalLoss",
                "use_sigmoid": True,
                "gamma": 2.0,
                "alpha": 0.25,
                "loss_weight": 1.0,
            },
            "loss_centerness": binary_loss(),
        },
    )
