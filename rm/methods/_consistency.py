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
    map_size = (features.shape[-2], features.shape[-1])
    weights = region_weights(box, image_size, map_size, transposed=transposed)
    return weighted_sum(features, weights)


def region_weights(
    box: Box, image_size: tuple[int, int], map_size: tuple[int, int], *, transposed: bool = False
) -> Tensor:
    """RoIAlign of `roi_features` as the weight of each cell of a map of this size: (h, w) in
    float64, on the host.
    """
    y0, x0, y1, x1 = box
    if transposed:
        y0, x0, y1, x1 = x0, y0, x1, y1
    height, width = map_size
    # One scale for both axes, taken from the height, as RoIAlign's spatial_scale is.
    scale = height / image_size[0]
    weights = np.outer(
        _axis_weights(y0 * scale, y1 * scale, height), _axis_weights(x0 * scale, x1 * scale, width)
    )
    return torch.from_numpy(weights)


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """(B, C, h, w) by (h, w) -> (B, C), in fp32 or wider."""
    wide = features if features.dtype == torch.float64 else features.float()
    return (wide * weights.to(wide.device, wide.dtype, non_blocking=True)).sum((2, 3))


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
        self.map_size: tuple[int, int] | None = None
        """(h, w) of the last map of which a box was read."""

    def region_weights(self, box: Box, image_size: tuple[int, int]) -> Tensor | None:
        """The box as `forward` takes it too, float64 on the host; None before the first box."""
        if self.map_size is None:
            return None
        return region_weights(box, image_size, self.map_size, transposed=self.transposed)

    def forward(
        self, images: Tensor, region: Box | Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """images (B, C, H, W) -> logits (B, K); with a box or its `region_weights` also the logits
        of its region, (B, K).
        """
        if region is None:
            logits: Tensor = self.backbone(images)
            return logits
        features = self.backbone.features(images)
        if isinstance(region, Tensor):
            read = weighted_sum(features, region)
        else:
            self.map_size = (features.shape[-2], features.shape[-1])
            size = (images.shape[-2], images.shape[-1])
            read = roi_features(features, region, size, transposed=self.transposed)
        read = self.backbone.pool_region(read)
        head = self.backbone.head if self.second_head is None else self.second_head
        return self.backbone.head(self.backbone.pool(features)), head(read)
