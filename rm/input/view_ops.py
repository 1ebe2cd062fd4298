"""What makes a view of a picture, for a whole batch at once and with parameters of each picture's
own: crop and resize, colours, grey, blur.

Each is torchvision's operation of that name on floating point pictures, without a loop over the
batch: tests/rm/test_views.py compares them picture by picture. Pure functions of (B, C, H, W)
float32 in [0, 1] and parameters on the same device; none draws, none waits for the device.
"""

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)
BLUR_RADIUS = 6
"""Taps on each side of a blurred pixel: three deviations of the widest blur, 2 pixels."""


def crop_resize(pictures: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """The boxes as size x size pixels: bilinear, with antialiasing, mirrored where `flip` says so.

    pictures (B, H, W, C) of 0..255, boxes (B, 4) of whole y0, x0, y1, x1, flip (B,) bool
    -> (B, C, size, size) in [0, 1].

    Resizing is linear and separable, so that it is two matrices a picture: the box and the mirror
    are in them.
    """
    count, height, width, channels = pictures.shape
    rows = _resize_matrix(boxes[:, 0], boxes[:, 2], height, size)
    columns = _resize_matrix(boxes[:, 1], boxes[:, 3], width, size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    pixels = pictures.to(rows.dtype).reshape(count, height, width * channels) / 255
    squeezed = (rows @ pixels).view(count, size, width, channels).permute(0, 3, 1, 2)
    resized = squeezed.reshape(count, channels * size, width) @ columns.transpose(1, 2)
    return resized.view(count, channels, size, size)


def _resize_matrix(start: Tensor, stop: Tensor, side: int, size: int) -> Tensor:
    """(B, size, side): what each of `side` pixels adds to each of the `size` that show those from
    start to stop. A triangle's weights, as wide as the pixels are far apart if they are shrunk
    (torch's upsample_bilinear2d_aa).
    """
    pixels = torch.arange(side, device=start.device)
    within = (pixels >= start[:, None]) & (pixels < stop[:, None])
    scale = (stop - start).to(torch.float32)[:, None] / size
    centre = start[:, None] + scale * (torch.arange(size, device=start.device) + 0.5)
    away = (pixels + 0.5 - centre[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]
    weights = (1 - away).clamp(min=0) * within[:, None]
    return weights / weights.sum(2, keepdim=True)


def adjust_brightness(pictures: Tensor, factors: Tensor) -> Tensor:
    """Pixels times a factor (B,)."""
    return (pictures * _each(factors)).clamp(0, 1)


def adjust_contrast(pictures: Tensor, factors: Tensor) -> Tensor:
    """Away from the mean of the picture's grey, by a factor (B,)."""
    return _blend(pictures, _grey(pictures).mean((1, 2, 3), keepdim=True), factors)


def adjust_saturation(pictures: Tensor, factors: Tensor) -> Tensor:
    """Away from the picture's own grey, by a factor (B,); one channel stays as it is."""
    return pictures if pictures.shape[1] == 1 else _blend(pictures, _grey(pictures), factors)


def adjust_hue(pictures: Tensor, turns: Tensor) -> Tensor:
    """The hue turned by a share of the colour circle (B,), value and saturation kept; one channel
    stays as it is.
    """
    if pictures.shape[1] == 1:
        return pictures
    value, smallest = pictures.amax(1, keepdim=True), pictures.amin(1, keepdim=True)
    chroma = value - smallest
    red, green, blue = pictures.chunk(3, 1)
    spread = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(  # in sixths of the circle; which of two equal channels is asked first is
        value == red,  # torchvision's order
        (green - blue) / spread,
        torch.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    corners = torch.arange(5, 0, -2, device=pictures.device, dtype=pictures.dtype)[:, None, None]
    place = (corners + hue + 6 * _each(turns)).remainder(6)
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


COLOURS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""The four steps of colour jitter, by their numbers in an order."""


def to_grey(pictures: Tensor) -> Tensor:
    """The picture's grey in each of its channels."""
    return _grey(pictures).expand_as(pictures)


def gaussian_blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Blurred by a Gaussian of deviation sigma (B,) pixels, cut after BLUR_RADIUS pixels (and
    before a whole side), the picture mirrored beyond its edge.
    """
    count, channels, height, width = pictures.shape
    sigma = sigma.to(pictures.dtype)
    rows, columns = _blur_matrix(sigma, height), _blur_matrix(sigma, width)
    blurred = pictures.reshape(count, channels * height, width) @ columns.transpose(1, 2)
    blurred = blurred.view(count, channels, height, width).transpose(1, 2)
    blurred = rows @ blurred.reshape(count, height, channels * width)
    return blurred.view(count, height, channels, width).transpose(1, 2).contiguous()


def _blur_matrix(sigma: Tensor, side: int) -> Tensor:
    """(B, side, side): what each pixel adds to each blurred one."""
    radius = min(BLUR_RADIUS, side - 1)
    taps = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    places = torch.arange(side, device=sigma.device)[:, None] + taps
    places = (side - 1) - (side - 1 - places.abs()).abs()  # mirrored at both ends, edge once
    matrix = kernel.new_zeros(len(sigma), side, side)
    spread = kernel[:, None].expand(-1, side, -1)
    return matrix.scatter_add_(2, places.expand(len(sigma), -1, -1), spread)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _grey(pictures: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if pictures.shape[1] == 1:
        return pictures
    red, green, blue = pictures.chunk(3, 1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(pictures: Tensor, origin: Tensor, factors: Tensor) -> Tensor:
    """From `origin` to the picture and beyond."""
    share = _each(factors)
    return (share * pictures + (1 - share) * origin).clamp(0, 1)
