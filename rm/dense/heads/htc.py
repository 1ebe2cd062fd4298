"""Hybrid task cascade (Chen et al., CVPR 2019), configs/htc/htc-without-semantic_r50_fpn_1x_coco
and htc_r50_fpn_1x_coco of mmdet 3.3.0.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from rm.dense.heads import _common as common

TASK = "detection"
METRICS = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")

_STDS = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
_OVERLAPS = (0.5, 0.6, 0.7)
_STUFF_CLASSES = 183


def htc(
    channels: Sequence[int],
    classes: int,
    *,
    semantic: bool = False,
    width: Annotated[int, "width >= 8"] = 256,
    hidden: Annotated[int, "hidden >= 8"] = 1024,
    roi_samples: Annotated[int, "roi_samples >= 4"] = 512,
) -> dict[str, Any]:
    """semantic: a branch that segments things and stuff, which needs COCO-stuff's maps; width,
    hidden, roi_samples: as of mask_rcnn, in each of the three stages.
    """
    smooth = {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0}
    heads = [common.box_head(width, hidden, classes, stds, True, smooth) for stds in _STDS]
    masks = [
        common.mask_head("HTCMaskHead", width, classes, **first)
        for first in ({"with_conv_res": False}, {}, {})
    ]
    return {
        "type": "HybridTaskCascade",
        "data_preprocessor": common.detection_input(**({"pad_seg": True} if semantic else {})),
        "neck": common.pyramid(channels, width),
        "rpn_head": common.proposals(
            width, {"type": "SmoothL1Loss", "beta": 1 / 9, "loss_weight": 1.0}
        ),
        "roi_head": {
            "type": "HybridTaskCascadeRoIHead",
            "interleaved": True,
            "mask_info_flow": True,
            "num_stages": 3,
            "stage_loss_weights": [1, 0.5, 0.25],
            "bbox_roi_extractor": common.region_extractor(7, width, common.STRIDES),
            "bbox_head": heads,
            "mask_roi_extractor": common.region_extractor(14, width, common.STRIDES),
            "mask_head": masks,
            **(_semantic_branch(width) if semantic else {}),
        },
        "train_cfg": {
            "rpn": common.proposal_training(0),
            "rpn_proposal": common.proposal_selection(2000, 2000),
            "rcnn": [common.region_training(overlap, roi_samples) for overlap in _OVERLAPS],
        },
        "test_cfg": common.region_testing(0.001),
    }


def _semantic_branch(width: int) -> dict[str, Any]:
    return {
        "semantic_roi_extractor": common.region_extractor(14, width, [8]),
        "semantic_head": {
            "type": "FusedSemanticHead",
            "num_ins": 5,
            "fusion_level": 1,
            "seg_scale_factor": 1 / 8,
            "num_convs": 4,
            "in_channels": width,
            "conv_out_channels": width,
            "num_classes": _STUFF_CLASSES,
            "loss_seg": {"type": "CrossEntropyLoss", "ignore_index": 255, "loss_weight": 0.2},
        },
    }
