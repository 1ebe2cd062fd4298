"""Builds OpenMMLab's models from configurations, and calls them with our samples."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rm.dense import ops_stub, require_packages
from rm.dense.maps import Maps

Sample = dict[str, Any]
"""What a reader makes of a picture.

    image    (3, H, W) uint8, BGR
    meta     of the picture, as OpenMMLab's models read it: ori_shape, img_shape, scale_factor, ...
    boxes    (N, 4) float32 x0, y0, x1, y1;  classes (N,) int64;  crowds (N,) bool
    masks    (N, H, W) uint8
    labels   (H, W) uint8, 255: nothing
as far as the task has them; while evaluating, the picture alone. ON_HOST stay on the CPU.
"""

ON_HOST = ("crowds", "masks")
"""OpenMMLab's masks are arrays of numpy, and which objects are crowds decides what is there."""


class Losses(NamedTuple):
    """A scalar with its graph, and its parts for the journal."""

    total: Tensor
    parts: Mapping[str, Tensor]


class DenseModel:
    """What calls one OpenMMLab model; the model itself is the task's, as a module.

    package   mmdet or mmseg
    """

    def __init__(self, package: str) -> None:
        require_packages()
        ops_stub.install()
        # Which of their options will be renamed is nothing that whoever trains here can change.
        warnings.filterwarnings("ignore", module=r"(mmcv|mmdet|mmengine|mmseg|pycocotools)\b")
        self.package = package

    def build(self, config: dict[str, Any], maps: Maps) -> Any:
        """The model of a configuration with our backbone in it."""
        import mmengine

        if self.package == "mmdet":
            import mmdet.models  # noqa: F401  (fills the registry)
            from mmdet.registry import MODELS
        else:
            import mmseg.models  # noqa: F401
            from mmseg.registry import MODELS
        logger = mmengine.logging.MMLogger
        if not logger.check_instance_created("rm"):  # else every layer's initialisation is printed
            logger.get_instance("rm", log_level=logging.ERROR)
        with self._scope():
            model = MODELS.build(mmengine.ConfigDict(_without_backbone(config)))
            if not next(model.parameters()).is_meta:  # else it is only counted
                with _unread_weights(model):
                    model.init_weights()  # before the backbone is there, which has its weights
        shared = config.get("roi_head", {}).get("shared_head")
        if shared is not None:
            model.roi_head.shared_head = maps.take_last_stage(shared["extra_norm"])
        model.backbone = maps
        for module in model.modules():
            if hasattr(module, "roi_layers"):
                module.register_forward_pre_hook(_widened)
        return model

    @contextmanager
    def _scope(self) -> Iterator[None]:
        """Names of modules mean this package's; both can be used in one process."""
        from mmengine.registry import DefaultScope

        with DefaultScope.overwrite_default_scope(self.package):
            yield

    def to_device(self, sample: Sample, device: torch.device) -> Sample:
        """Without waiting; what is for the host stays there."""
        return {
            key: value.to(device, non_blocking=True)
            if isinstance(value, Tensor) and key not in ON_HOST
            else value
            for key, value in sample.items()
        }

    def losses(self, model: Any, batch: Sequence[Sample]) -> Losses:
        """Of a batch of samples, on the model's device."""
        with self._scope():
            data = model.data_preprocessor(self._data(batch), True)
            found = model.loss(data["inputs"], data["data_samples"])
            total, parts = model.parse_losses(found)
        return Losses(total, {name: value for name, value in parts.items() if name != "loss"})

    def predict(self, model: Any, batch: Sequence[Sample]) -> list[Any]:
        """OpenMMLab's data sample of each picture, with predictions at its original size."""
        with self._scope():
            data = model.data_preprocessor(self._data(batch), False)
            predictions: list[Any] = model.predict(data["inputs"], data["data_samples"])
        return predictions

    def _data(self, batch: Sequence[Sample]) -> dict[str, Any]:
        make = _detection if self.package == "mmdet" else _segmentation
        return {
            "inputs": [sample["image"] for sample in batch],
            "data_samples": [make(sample) for sample in batch],
        }


@contextmanager
def _unread_weights(model: nn.Module) -> Iterator[None]:
    """While a model draws its initial weights, mmengine does not tell its log which of them
    changed: for that it would read each after every draw (`LastDraws`).
    """
    from mmengine.model import base_module, weight_init

    modules: tuple[Any, ...] = (base_module, weight_init)
    update = weight_init.update_init_info
    for place in modules:
        place.update_init_info = lambda module, init_info: None
    for module in model.modules():
        vars(module)["_params_init_info"] = {}  # as of a part, which keeps no log of its own
    try:
        yield
    finally:
        for place in modules:
            place.update_init_info = update
        for module in model.modules():
            del module._params_init_info


def _widened(_extractor: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Regions are cut from fp32 maps: OpenMMLab gives a region the type of its maps, and bf16 has
    no pixel between 512 and 516. What comes next is autocast again.
    """
    maps, *rest = inputs
    wide = [level.to(torch.promote_types(level.dtype, torch.float32)) for level in maps]
    return tuple(wide), *rest


def _without_backbone(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with nothing in the places of the backbone and of its last stage."""
    empty = {**config, "backbone": {"type": nn.Identity}}
    if "shared_head" in config.get("roi_head", {}):
        empty["roi_head"] = {**config["roi_head"], "shared_head": {"type": nn.Identity}}
    return empty


def _detection(sample: Sample) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    data = DetDataSample(metainfo=sample["meta"])
    data.gt_instances, data.ignored_instances = InstanceData(), InstanceData()
    if "boxes" not in sample:
        return data
    crowds = sample["crowds"]
    for instances, chosen in ((data.gt_instances, ~crowds), (data.ignored_instances, crowds)):
        kept = chosen.nonzero()[:, 0]  # known on the host: no device is waited for
        there = kept.to(sample["boxes"].device, non_blocking=True)
        instances.bboxes = sample["boxes"][there]
        instances.labels = sample["classes"][there]
        if "masks" in sample:
            masks: Any = sample["masks"][kept].numpy()
            instances.masks = BitmapMasks(masks, *sample["image"].shape[1:])
    if "labels" in sample:
        data.gt_sem_seg = PixelData(sem_seg=sample["labels"][None].long())
    return data


def _segmentation(sample: Sample) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    data = SegDataSample(metainfo=sample["meta"])
    if "labels" in sample:
        data.gt_sem_seg = PixelData(data=sample["labels"][None].long())
    return data


def instances(prediction: Any) -> dict[str, Any]:
    """Of a detector's data sample: boxes (N, 4), scores (N,), classes (N,), on the CPU, and where
    it has masks those as run lengths.
    """
    from pycocotools import mask

    found = prediction.pred_instances
    result: dict[str, Any] = {
        "boxes": found.bboxes.cpu(),
        "scores": found.scores.cpu(),
        "classes": found.labels.cpu(),
    }
    if "masks" in found:
        pixels = found.masks.cpu().numpy().astype(np.uint8)
        # One picture's at a time: (H, W, N), in Fortran's order.
        result["masks"] = [
            {"size": list(each["size"]), "counts": each["counts"].decode("ascii")}
            for each in mask.encode(np.asfortranarray(pixels.transpose(1, 2, 0)))
        ]
    return result


def classes_of(prediction: Any) -> Tensor:
    """Of a segmentation network's data sample: the class of each pixel, (H, W)."""
    found: Tensor = prediction.pred_sem_seg.data[0]
    return found
