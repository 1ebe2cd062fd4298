"""GFL (Li et al., NeurIPS 2020), configs/gfl/gfl_r50_fpn_1x_coco of mmdet 3.3.0."""

from collections.abc import Sequence
from typing import Annotated, Any

from rm.dense.heads._common import group_norm, one_stage

TASK = "detection"
METRICS = ("box_ap", "box_ap50", "box_ap75")


def gfl(
    channels: Sequence[int],
    classes: int,
    *,
    width: Annotated[int, "width >= 8 and width % 8 == 0"] = 256,
    convolutions: Annotated[int, "convolutions >= 1"] = 4,
) -> dict[str, Any]:
    """width: channels of pyramid and head."""
    return one_stage(
        "GFL",
        channels,
        width,
        {
            "type": "GFLHead",
            "num_classes": classes,
            "stacked_convs": convolutions,
            "norm_cfg": group_norm(width),
            "loss_cls": {
                "type": "QualityFocalLoss",
                "use_sigmoid": True,
                "beta": 2.0,
                "loss_weight": 1.0,
            },
            "loss_dfl": {"type": "DistributionFocalLoss", "loss_weight": 0.25},
            "reg_max": 16,
        },
    )
