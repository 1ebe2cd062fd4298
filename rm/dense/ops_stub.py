"""Stands in for `mmcv._ext`, the compiled operators that mmcv-lite lacks.

mmcv imports some hundred names from there. The five that the heads call are torchvision's
operators or written out; any other one raises when it is called, with its name.
"""

import importlib.machinery
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_NAME = "mmcv._ext"


def install() -> None:
    """Put the module where mmcv looks for it; before mmdet or mmseg is imported."""
    if _NAME not in sys.modules:
        module = _Operators(_NAME)
        module.__spec__ = importlib.machinery.ModuleSpec(_NAME, None)
        sys.modules[_NAME] = module


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """(N, 4), (N,) -> positions of the boxes that stay, best first."""
    from torchvision import ops

    if offset:
        raise NotImplementedError("mmcv._ext.nms with offset 1 (boxes of whole pixels)")
    kept: Tensor = ops.nms(boxes, scores, iou_threshold)
    return kept


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """features (B, C, h, w), rois (N, 5: image, x0, y0, x1, y1) -> output (N, C, H, W)."""
    from torchvision import ops

    _refuse_max(pool_mode)
    size = (aligned_height, aligned_width)
    # 0 means "as many samples as the box needs", for which torchvision writes -1.
    samples = sampling_ratio or -1
    output.copy_(ops.roi_align(features, rois, size, spatial_scale, samples, aligned))


def roi_align_backward(
    gradient: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """gradient (N, C, H, W) of the output -> grad_input (B, C, h, w)."""
    import torchvision  # noqa: F401  (its operators)

    _refuse_max(pool_mode)
    size = (aligned_height, aligned_width)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            gradient, rois, spatial_scale, *size, *grad_input.shape, sampling_ratio or -1, aligned
        )
    )


def sigmoid_focal_loss_forward(
    logits: Tensor, classes: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """logits (N, K), classes (N,), where K is the background -> output (N, K); weight (K,) of
    classes, or empty.

    -alpha_t (1 - p_t)^gamma log p_t (Lin et al., ICCV 2017). mmdet calls it on GPUs only: on the
    CPU it has its own version, in Python.
    """
    output.copy_(_focal(logits, classes, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    logits: Tensor,
    classes: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    """The derivative of each loss after its logit -> grad_input (N, K)."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        loss = _focal(logits, classes, weight, gamma, alpha).sum()
        grad_input.copy_(torch.autograd.grad(loss, logits)[0])


def _focal(logits: Tensor, classes: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    count = logits.shape[1]
    targets = F.one_hot(classes, count + 1)[:, :count].to(logits.dtype)
    p = logits.sigmoid()
    miss = (1 - p) * targets + p * (1 - targets)  # 1 - p_t
    factor = (alpha * targets + (1 - alpha) * (1 - targets)) * miss.pow(gamma)
    loss = factor * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if weight.numel():  # of the class that a row is of; background keeps 1
        own = torch.cat([weight, weight.new_ones(1)])[classes]
        loss = loss * own[:, None]
    return loss


def _refuse_max(pool_mode: int) -> None:
    if pool_mode == 0:
        raise NotImplementedError("mmcv._ext.roi_align with max pooling")


_OPERATORS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        nms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    )
}


class _Operators(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _OPERATORS:
            return _OPERATORS[name]

        def missing(*args: Any, **options: Any) -> Any:
            raise NotImplementedError(
                f"mmcv._ext.{name} is a compiled operator of mmcv, and mmcv-lite has none; the "
                "heads here do not need it"
            )

        return missing
