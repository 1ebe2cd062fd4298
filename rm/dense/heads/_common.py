"""Parts of configurations that several heads share."""

from collections.abc import Sequence
from typing import Any

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
STRIDES = [4, 8, 16, 32]
_SCALES = {"mean": MEAN, "std": STD, "bgr_to_rgb": True}


def detection_input(**options: Any) -> dict[str, Any]:
    """Pictures normalised, and padded to a multiple of 32."""
    return {"type": "DetDataPreprocessor", **_SCALES, "pad_size_divisor": 32, **options}


def one_stage(
    name: str,
    channels: Sequence[int],
    width: int,
    head: dict[str, Any],
) -> dict[str, Any]:
    """A dense detector with one anchor a place: ATSS's assignment, maps of strides 8 to 128."""
    return {
        "type": name,
        "data_preprocessor": detection_input(),
        "neck": {
            "type": "FPN",
            "in_channels": list(channels),
            "out_channels": width,
            "start_level": 1,
            "add_extra_convs": "on_output",
            "num_outs": 5,
        },
        "bbox_head": {
            "in_channels": width,
            "feat_channels": width,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": 8,
                "scales_per_octave": 1,
                "strides": [8, 16, 32, 64, 128],
            },
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
            **head,
        },
        "train_cfg": {
            "assigner": {"type": "ATSSAssigner", "topk": 9},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": 0,
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 100,
        },
    }


def group_norm(width: int) -> dict[str, Any]:
    """The dense heads' own default of 32 groups, or 8 where they are narrow."""
    groups = 32 if width % 32 == 0 else 8
    return {"type": "GN", "num_groups": groups, "requires_grad": True}


def pyramid(channels: Sequence[int], width: int) -> dict[str, Any]:
    """A feature pyramid of strides 4 to 64."""
    return {
        "type": "FPN",
        "in_channels": list(channels),
        "out_channels": width,
        "num_outs": 5,
    }


def proposals(width: int, box_loss: dict[str, Any]) -> dict[str, Any]:
    """The region proposal network."""
    return {
        "type": "RPNHead",
        "in_channels": width,
        "feat_channels": width,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [8],
            "ratios": [0.5, 1.0, 2.0],
            "strides": [4, 8, 16, 32, 64],
        },
        "bbox_coder": box_coder([1.0, 1.0, 1.0, 1.0]),
        "loss_cls": binary_loss(),
        "loss_bbox": box_loss,
    }


def box_coder(stds: list[float]) -> dict[str, Any]:
    """Boxes as shifts and logarithms of sizes, divided by `stds`."""
    return {
        "type": "DeltaXYWHBBoxCoder",
        "target_means": [0.0, 0.0, 0.0, 0.0],
        "target_stds": stds,
    }


def binary_loss(**options: Any) -> dict[str, Any]:
    return {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0, **options}


def class_loss(weight: float = 1.0) -> dict[str, Any]:
    return {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight}


def region_extractor(size: int, width: int, strides: list[int]) -> dict[str, Any]:
    """RoIAlign with as many samples as a region needs."""
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": width,
        "featmap_strides": strides,
    }


def box_head(
    width: int,
    hidden: int,
    classes: int,
    stds: list[float],
    agnostic: bool,
    loss: dict[str, Any],
) -> dict[str, Any]:
    """Two shared layers on 7x7 regions."""
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": width,
        "fc_out_channels": hidden,
        "roi_feat_size": 7,
        "num_classes": classes,
        "bbox_coder": box_coder(stds),
        "reg_class_agnostic": agnostic,
        "loss_cls": class_loss(),
        "loss_bbox": loss,
    }


def mask_head(name: str, width: int, classes: int, **options: Any) -> dict[str, Any]:
    return {
        "type": name,
        "num_convs": 4,
        "in_channels": width,
        "conv_out_channels": width,
        "num_classes": classes,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
        **options,
    }


def region_training(overlap: float, samples: int, **assigner: Any) -> dict[str, Any]:
    """Which proposals count as objects, and how many are drawn of a picture."""
    return {
        "assigner": _assigner(overlap, overlap, overlap, **assigner),
        "sampler": _sampler(samples, 0.25, True),
        "mask_size": 28,
        "pos_weight": -1,
        "debug": False,
    }


def proposal_training(border: int, **assigner: Any) -> dict[str, Any]:
    """Which anchors count as objects."""
    return {
        "assigner": _assigner(0.7, 0.3, 0.3, **assigner),
        "sampler": _sampler(256, 0.5, False),
        "allowed_border": border,
        "pos_weight": -1,
        "debug": False,
    }


def _assigner(positive: float, negative: float, least: float, **options: Any) -> dict[str, Any]:
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": least,
        "ignore_iof_thr": -1,
        **options,
    }


def _sampler(count: int, positives: float, add_truth: bool) -> dict[str, Any]:
    return {
        "type": "RandomSampler",
        "num": count,
        "pos_fraction": positives,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": add_truth,
    }


def proposal_selection(before: int, after: int) -> dict[str, Any]:
    """How many proposals of a picture stay, before and after suppression."""
    return {
        "nms_pre": before,
        "max_per_img": after,
        "nms": {"type": "nms", "iou_threshold": 0.7},
        "min_bbox_size": 0,
    }


def region_testing(score: float) -> dict[str, Any]:
    return {
        "rpn": proposal_selection(1000, 1000),
        "rcnn": {
            "score_thr": score,
            "nms": {"type": "nms", "iou_threshold": 0.5},
            "max_per_img": 100,
            "mask_thr_binary": 0.5,
        },
    }


def segmentor(decode: dict[str, Any], auxiliary: dict[str, Any]) -> dict[str, Any]:
    """A segmentation network with an auxiliary loss, evaluated on whole pictures."""
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            **_SCALES,
            "pad_val": 0,
            "seg_pad_val": 255,
        },
        "pretrained": None,
        "decode_head": decode,
        "auxiliary_head": auxiliary,
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }


def pixel_head(name: str, classes: int, dropout: float, weight: float) -> dict[str, Any]:
    """What each head of a segmentation network has."""
    return {
        "type": name,
        "dropout_ratio": dropout,
        "num_classes": classes,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
        "loss_decode": class_loss(weight),
    }


def auxiliary_head(channels: int, width: int, classes: int, dropout: float) -> dict[str, Any]:
    """One convolution on the third map."""
    return {
        "in_channels": channels,
        "in_index": 2,
        "channels": width,
        "num_convs": 1,
        "concat_input": False,
        **pixel_head("FCNHead", classes, dropout, 0.4),
    }
