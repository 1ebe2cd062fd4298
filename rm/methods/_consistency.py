"""The consistency loss's side of the network: RoIAlign of the pasted region and the second linear
head.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.ops import Box
from rm.trial import TrialError


def roi_features(
    features: Tensor, box: Box, image_size: tuple[int, int], *, transposed: bool = False
) -> Tensor:
    """RoIAlign of one box, the same for every sample, to 1x1: (B, C, h, w) -> (B, C).

    Equal to torchvision's `roi_align(output_size=1, sampling_ratio=-1, aligned=True)` with scale
    feature/image. As the box is shared, RoIAlign is a fixed weighting of the map, separable in y
    and x, so no index tensors are needed.

    image_size   (H, W) of the images that `box` refers to
    transposed   swap y and x of the box, as the released code did until April 2023
    """
    y0, x0, y1, x1 = box
    if transposed:
        y0, x0, y1, x1 = x0, y0, x1, y1
    height, width = features.shape[-2:]
    # One scale for both axes, taken from the height, as RoIAlign's spatial_scale is.
    scale = height / image_size[0]
    weights = np.outer(
        _axis_weights(y0 * scale, y1 * scale, height), _axis_weights(x0 * scale, x1 * scale, width)
    )
    wide = features if features.dtype == torch.float64 else features.float()
    weight = torch.from_numpy(weights).to(wide.device, wide.dtype, non_blocking=True)
    return (wide * weight).sum((2, 3))


def _axis_weights(start: float, end: float, size: int) -> np.ndarray:
    """How much each of `size` cells counts in the mean of RoIAlign's sample points between start
    and end (in cells).
    """
    start, end = start - 0.5, end - 0.5  # aligned=True: cell i is centred at i
    count = math.ceil(end - start)
    weights = np.zeros(size)
    for i in range(count):
        at = start + (i + 0.5) * (end - start) / count
        if at < -1 or at > size:
            continue  # outside the map: counts as zero, but is counted
        at = min(max(at, 0.0), size - 1.0)
        low = min(int(at), size - 1)
        weights[low] += 1 - (at - low)
        if at > low:
            weights[low + 1] += at - low
    return weights / max(count, 1)


class ConsistencyNetwork(nn.Module):
    """A backbone with a second linear head that reads the pasted region; the second head is
    dropped when deployed.
    """

    def __init__(
        self, backbone: Backbone, *, share_head: bool = False, transposed: bool = False
    ) -> None:
        super().__init__()
        if not backbone.has_map:
            raise TrialError(
                "the consistency loss reads a region of the backbone's last map (B, C, h, w), and "
                f"{backbone.title} ends in tokens: `omega: 0` leaves that loss out"
            )
        self.backbone = backbone
        self.transposed = transposed
        classes, width = backbone.head.weight.shape
        self.second_head = None if share_head else nn.Linear(width, classes)

    def forward(self, images: Tensor, box: Box | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """images (B, C, H, W) -> logits (B, K); with a box also the logits of its region, (B,
        K).
        """
        if box is None:
            logits: Tensor = self.backbone(images)
            return logits
        features = self.backbone.features(images)
        size = (images.shape[-2], images.shape[-1])
        region = roi_features(features, box, size, transposed=self.transposed)
        region = self.backbone.pool_region(region)
        head = self.backbone.head if self.second_head is None else self.second_head
        return self.backbone.head(self.backbone.pool(features)), head(region)
