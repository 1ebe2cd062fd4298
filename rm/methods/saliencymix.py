"""SaliencyMix: CutMix around the most salient pixel of the image that is cut from (Uddin et al.,
ICLR 2021, arXiv 2006.01791).

lambda ~ Beta(alpha, alpha), one box a batch: sides int(side sqrt(1 - lambda)), half each side of
the most salient pixel of one image, the first sample's partner; clipped; lambda = 1 - area.
Saliency is OpenCV's "fine-grained" (Montabone & Soto 2010), written anew after
opencv_contrib's `staticSaliencyFineGrained.cpp`: centre less surround over six windows.

As released (afm-shahab-uddin/SaliencyMix, and openmixup at 37e1372) OpenCV is handed the
normalised float image and then reads the centres as the bytes of its rows: column x is byte x.
What is salient is then close to chance (over 100 ImageNet pictures at 64 px within 4 px of the
real peak in 3 % of the cases, where chance is 2 %), and the method is CutMix with an odd place.
`saliency: grey` is what was meant.

Nothing waits for the device: box, area and labels stay there.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.methods import Method, Mixed, draw_partner
from rm.schedules import StepContext

_WINDOWS = (12, 24, 48, 28, 56, 112)
_WEIGHTS = (0.114, 0.587, 0.299)
"""Of OpenCV's blue, green and red: the released code hands it red, green and blue."""
_WHOLE_WEIGHTS = (3735, 19235, 9798)
"""The same in units of 2^-15, for bytes."""


class SaliencyMix(Method):
    """alpha: parameter of the Beta distribution of the area left; saliency: grey, of the image
    stretched to 0..255, which bytes of another scale change by rounding alone.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        saliency: Literal["released", "grey"] = "released",
    ) -> None:
        super().__init__()
        self.alpha, self.saliency = alpha, saliency

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        kept = float(step.generator.beta(self.alpha, self.alpha))
        partner = draw_partner(images, step.generator)
        picture = images.index_select(0, partner[:1])[0]  # images[partner[0]] would wait
        salient = (
            fine_grained(to_bytes(picture))
            if self.saliency == "grey"
            else fine_grained_of_floats(picture)
        )
        box = box_mask(first_peak(salient), salient.shape, (1 - kept) ** 0.5)
        area = box.to(targets.dtype).mean()
        return Mixed(
            torch.where(box, images[partner], images),
            (1 - area) * targets + area * targets[partner],
            partner,
            area,
            {"area": area},
        )


def to_bytes(picture: Tensor) -> Tensor:
    """(C, H, W) of any scale -> the same stretched to 0..255, uint8; a constant one is 0."""
    low, high = picture.amin(), picture.amax()
    scale = torch.where(high > low, 255 / (high - low), 0.0)
    return ((picture - low) * scale).round().clamp(0, 255).to(torch.uint8)


def fine_grained(picture: Tensor) -> Tensor:
    """OpenCV's map of a (C, H, W) uint8 picture, C of 1 or 3: (H, W) int64 within 0..255."""
    channels = picture.long()
    if len(channels) == 3:
        weights = channels.new_tensor(_WHOLE_WEIGHTS)[:, None, None]
        grey = ((channels * weights).sum(0) + 2**14) >> 15
    else:
        grey = channels[0]
    for _ in range(2):
        grey = (_blurred(grey.double()).long() + 8) >> 4
    return _contrast(grey, grey)


def fine_grained_of_floats(picture: Tensor) -> Tensor:
    """What OpenCV makes of a float picture (C, H, W): its windows are sums of floats, its centres
    the bytes of the rows. (H, W) int64.
    """
    channels = picture.float()
    if len(channels) == 3:
        weights = channels.new_tensor(_WEIGHTS)[:, None, None]
        grey = (channels * weights).sum(0)
    else:
        grey = channels[0]
    for _ in range(2):
        grey = _blurred(grey) / 16
    row_bytes = grey.contiguous().view(torch.uint8)
    return _contrast(row_bytes[:, : grey.shape[1]].long(), grey)


def _blurred(grey: Tensor) -> Tensor:
    """(H, W) -> 16 times its 3x3 binomial mean, mirrored at the edges without repeating them."""
    for axis in (0, 1):
        side = grey.shape[axis]
        places = torch.arange(-1, side + 1, device=grey.device).abs()
        places = torch.where(places < side, places, 2 * side - 2 - places).clamp(min=0)
        wide = grey.index_select(axis, places)
        parts = [wide.narrow(axis, start, side) for start in range(3)]
        grey = parts[0] + 2 * parts[1] + parts[2]
    return grey


def _contrast(centre: Tensor, grey: Tensor) -> Tensor:
    """Centre (H, W) int64 against the mean of windows of grey around it, brighter and darker ones
    summed apart, each stretched to 0..255, and their sum as well, which wraps at 256.
    """
    total = F.pad(grey.double().cumsum(0).cumsum(1), (1, 0, 1, 0)).float()
    on, off = torch.zeros_like(centre), torch.zeros_like(centre)
    for reach in _WINDOWS:
        (y0, y1), (x0, x1) = (_window(side, reach, grey.device) for side in grey.shape)
        sums = total[y1][:, x1] + total[y0][:, x0] - total[y1][:, x0] - total[y0][:, x1]
        count = (y1 - y0)[:, None] * (x1 - x0)
        mean = (sums - centre) / (count - 1).clamp(min=1)
        on += (centre - mean).clamp(min=0).long() % 256
        off += (mean - centre).clamp(min=0).long() % 256
    # OpenCV divides in fp32 and multiplies in fp64.
    on, off = ((x / x.max().clamp(min=1)).double().mul(255).long() for x in (on, off))
    return 255 * (on + off) // torch.maximum(on.max(), off.max()).clamp(min=1) % 256


def _window(side: int, reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    places = torch.arange(side, device=device)
    return (places - reach + 1).clamp(0, side), (places + reach + 1).clamp(0, side)


def first_peak(salient: Tensor) -> Tensor:
    """(H, W) -> (2,) row and column of the first maximum in row order, on the device."""
    flat = salient.flatten()
    places = torch.arange(len(flat), device=flat.device)
    first = torch.where(flat == flat.max(), places, len(flat)).min()
    return torch.stack([first // salient.shape[1], first % salient.shape[1]])


def box_mask(centre: Tensor, size: torch.Size | tuple[int, int], scale: float) -> Tensor:
    """Centre (2,) -> (H, W) bool: sides int(side * scale), half each side, clipped."""
    inside = []
    for axis, side in enumerate(size):
        half, places = int(side * scale) // 2, torch.arange(side, device=centre.device)
        inside.append((places >= centre[axis] - half) & (places < centre[axis] + half))
    return inside[0][:, None] & inside[1]
