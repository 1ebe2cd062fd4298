"""Mask R-CNN (He et al., ICCV 2017), configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco of mmdet
3.3.0.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from rm.dense.heads import _common as common

TASK = "detection"
METRICS = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")


def mask_rcnn(
    channels: Sequence[int],
    classes: int,
    *,
    width: Annotated[int, "width >= 8"] = 256,
    hidden: Annotated[int, "hidden >= 8"] = 1024,
    roi_samples: Annotated[int, "roi_samples >= 4"] = 512,
) -> dict[str, Any]:
    """width: channels of the pyramid; hidden: of the box head's layers; roi_samples: a picture."""
    l1 = {"type": "L1Loss", "loss_weight": 1.0}
    low = {"match_low_quality": True}
    return {
        "type": "MaskRCNN",
        "data_preprocessor": common.detection_input(pad_mask=True),
        "neck": common.pyramid(channels, width),
        "rpn_head": common.proposals(width, l1),
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": common.region_extractor(7, width, common.STRIDES),
            "bbox_head": common.box_head(width, hidden, classes, [0.1, 0.1, 0.2, 0.2], False, l1),
            "mask_roi_extractor": common.region_extractor(14, width, common.STRIDES),
            "mask_head": common.mask_head("FCNMaskHead", width, classes),
        },
        "train_cfg": {
            "rpn": common.proposal_training(-1, **low),
            "rpn_proposal": common.proposal_selection(2000, 1000),
            "rcnn": common.region_training(0.5, roi_samples, **low),
        },
        "test_cfg": common.region_testing(0.05),
    }
