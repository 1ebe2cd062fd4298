"""Faster R-CNN on the third stage's map, the fourth stage as the head of each region (Ren et al.,
NeurIPS 2015): configs/_base_/models/faster-rcnn_r50-caffe-c4 of mmdet 3.3.0, with the batch norm
behind the fourth stage that MoCo's detectors have (facebookresearch/moco, detection/).
"""

from collections.abc import Sequence
from typing import Annotated, Any

from rm.dense.heads import _common as common
from rm.dense.maps import LAST_STAGE

TASK = "detection"
METRICS = ("box_ap", "box_ap50", "box_ap75")


def faster_rcnn_c4(
    channels: Sequence[int],
    classes: int,
    *,
    width: Annotated[int, "width >= 8"] = 1024,
    roi_samples: Annotated[int, "roi_samples >= 4"] = 512,
    extra_norm: bool = True,
) -> dict[str, Any]:
    """width: of the proposal network; roi_samples: a picture; extra_norm: behind the fourth
    stage.
    """
    l1 = {"type": "L1Loss", "loss_weight": 1.0}
    proposals = common.proposals(channels[2], l1)
    anchors = {"scales": [2, 4, 8, 16, 32], "strides": [16]}
    return {
        "type": "FasterRCNN",
        "data_preprocessor": common.detection_input(),
        "rpn_head": {
            **proposals,
            "feat_channels": width,
            "anchor_generator": {**proposals["anchor_generator"], **anchors},
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "shared_head": {"type": LAST_STAGE, "extra_norm": extra_norm},
            "bbox_roi_extractor": common.region_extractor(14, channels[2], [16]),
            "bbox_head": {
                "type": "BBoxHead",
                "with_avg_pool": True,
                "roi_feat_size": 7,
                "in_channels": channels[3],
                "num_classes": classes,
                "bbox_coder": common.box_coder([0.1, 0.1, 0.2, 0.2]),
                "reg_class_agnostic": False,
                "loss_cls": common.class_loss(),
                "loss_bbox": l1,
            },
        },
        "train_cfg": {
            "rpn": common.proposal_training(-1, match_low_quality=True),
            "rpn_proposal": common.proposal_selection(12000, 2000),
            "rcnn": _region_training(roi_samples),
        },
        "test_cfg": _region_testing(),
    }


def _region_training(samples: int) -> dict[str, Any]:
    """Without masks, of which this head has none."""
    found = common.region_training(0.5, samples, match_low_quality=False)
    return {key: value for key, value in found.items() if key != "mask_size"}


def _region_testing() -> dict[str, Any]:
    found = common.region_testing(0.05)
    regions = {key: value for key, value in found["rcnn"].items() if key != "mask_thr_binary"}
    return {"rpn": common.proposal_selection(6000, 1000), "rcnn": regions}
