"""Class activation maps: where in a picture a network sees a class (the paper's Fig. 6).

The map of class k is the head's weights of k on the last feature map, at each of its places (Zhou
et al., CVPR 2016). As our networks end with average pooling and one linear layer, its mean plus
the bias is the class's logit: nothing is approximated.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rm import registry
from rm.backbones import Backbone
from rm.datasets import DataError, data_dir
from rm.probes import ProbeLogger
from rm.rundir.weights import InitialWeights
from rm.trial import Trial, TrialError

METRIC = {"label": "share of the map inside the class's boxes", "unit": "%", "better": "higher"}
KEEPS_PICTURES = True

Box = tuple[float, float, float, float]
"""(y0, x0, y1, x1), half-open, in pixels."""


class Shown(NamedTuple):
    """A picture as the network sees it, (3, S, S) in [0, 1], and for each of its classes where
    that is.
    """

    name: str
    pixels: Tensor
    boxes: Mapping[int, list[Box]]


def cam(
    trial: Trial,
    device: torch.device,
    log: ProbeLogger,
    *,
    pictures: Annotated[str, "len(pictures) > 0"] = "cam-sample",
    size: Annotated[int, "size >= 32"] = 224,
    classes: Literal["named", "top2"] = "named",
    mixed: bool = False,
) -> dict[str, float]:
    """Percent of a class's map, from its least value to its greatest, that lies inside the boxes
    of the class; mean over pictures and classes.

    pictures   a folder in $RM_DATA_DIR with a `pictures.json`: file -> name of a class ->
               {"class": index, "boxes": [[x0, y0, x1, y1], ...] in pixels of the file}
    classes    those named there, or the two with the largest logits, for which all boxes of the
               picture count
    mixed      also each picture with the one before it pasted small into its middle, as RM
               does (arXiv v1 shows these)
    Points: share (%), and picture, class (its index). Of each picture `cam<n>.png` is kept: the
    picture, and beside it one map a class, red where the class is seen.
    """
    from torchvision.io import encode_png

    backbone = _classifier(trial, log.initial_weights()).to(device).eval()
    shown = list(_pictures(data_dir() / pictures, size))
    if mixed:
        shown += [_pasted(b, a) for a, b in itertools.pairwise(shown)]
    shares = []
    for number, picture in enumerate(shown, 1):
        log.raise_if_stopped()
        wanted = None if classes == "top2" else list(picture.boxes)
        seen, maps = activation_maps(
            backbone, _normalised(picture.pixels[None]).to(device), wanted
        )
        panels = [picture.pixels]
        for index, low in zip(seen, maps[0], strict=True):
            heat = _stretched(low, size).cpu()
            every = [box for boxes in picture.boxes.values() for box in boxes]
            inside = _inside(picture.boxes[index] if wanted else every, size)
            shares.append(100 * float(heat[inside].sum() / heat.sum()))
            log.log_point(share=shares[-1], picture=number, **{"class": index})
            panels.append(_overlay(picture.pixels, heat))
        image = (255 * torch.cat(panels, 2)).round().clamp(0, 255).to(torch.uint8)
        log.save_artifact(f"cam{number}.png", bytes(encode_png(image).numpy()))
    return {"cam": sum(shares) / len(shares)}


@torch.inference_mode()
def activation_maps(
    backbone: Backbone, images: Tensor, classes: list[int] | None = None
) -> tuple[list[int], Tensor]:
    """images (1, 3, H, W) -> classes, by default the two with the largest logits, and their maps
    (1, K, h, w), whose means plus the head's biases are the logits.

    TrialError for a network with something else between its last map and its head.
    """
    features = backbone.features(images)
    logits: Tensor = backbone.head(backbone.pool(features))
    if classes is None:
        classes = logits[0].topk(2).indices.tolist()
    maps = torch.einsum("bchw,kc->bkhw", features, backbone.head.weight[classes])
    mean = maps.mean((2, 3)) + backbone.head.bias[classes]
    if not torch.allclose(mean, logits[:, classes], rtol=1e-3, atol=1e-3):
        raise TrialError(
            f"class activation maps need average pooling before the head; {backbone.title} has "
            "something else there"
        )
    return classes, maps


def _classifier(trial: Trial, init: InitialWeights | None) -> Backbone:
    """The network with its head, for as many classes as its weights have."""
    if init is None or init.part != "model":
        raise TrialError("class activation maps need a trained head: init with `part: model`")
    build: Any = registry.load("backbone", trial.name("backbone"))
    backbone: Backbone = build(2, 3, **trial.options("backbone"))
    head = init.state.get(backbone.plain_name("head.weight"))
    if head is None:
        raise DataError(f"{init.source} holds no head of a {backbone.title}")
    backbone = build(head.shape[0], 3, **trial.options("backbone"))
    init.load_into(backbone)
    return backbone


def _pictures(folder: Path, size: int) -> Iterator[Shown]:
    """DataError names what is missing or wrong."""
    from torchvision.io import ImageReadMode, decode_image

    from rm.input.image_files import evaluation_transform

    path = folder / "pictures.json"
    try:
        listed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cam: {path} cannot be read: {error}") from None
    for file, classes in listed.items():
        try:
            data = torch.frombuffer(bytearray((folder / file).read_bytes()), dtype=torch.uint8)
            pixels = decode_image(data, ImageReadMode.RGB)
            boxes = {
                int(each["class"]): [
                    _cropped(box, pixels.shape[1:], size) for box in each["boxes"]
                ]
                for each in classes.values()
            }
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"cam: {folder / file}, listed in {path}: {error}") from None
        if not boxes:
            raise DataError(f"cam: {path} names no class of {file}")
        yield Shown(file, evaluation_transform(size)(pixels).float() / 255, boxes)


def _cropped(box: Any, shape: Any, size: int) -> Box:
    """A box of the file (x0, y0, x1, y1) in the middle square of what is resized to 256/224."""
    height, width = shape
    factor = round(256 / 224 * size) / min(height, width)
    top, left = (round((side * factor - size) / 2) for side in (height, width))
    x0, y0, x1, y1 = (factor * float(value) for value in box)
    return y0 - top, x0 - left, y1 - top, x1 - left


def _normalised(images: Tensor) -> Tensor:
    from rm.input.image_files import MEAN, STD

    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def _stretched(low: Tensor, size: int) -> Tensor:
    """(h, w) -> (size, size) in [0, 1]; without rectifying first, which can leave nothing."""
    heat: Tensor = F.interpolate(
        low[None, None], (size, size), mode="bilinear", align_corners=False
    )
    heat = heat[0, 0] - heat.min()
    return heat / heat.max() if heat.max() > 0 else torch.ones_like(heat)


def _inside(boxes: list[Box], size: int) -> Tensor:
    """(size, size) bool."""
    inside = torch.zeros(size, size, dtype=torch.bool)
    for box in boxes:
        y0, x0, y1, x1 = (min(max(round(value), 0), size) for value in box)
        inside[y0:y1, x0:x1] = True
    return inside


def _overlay(pixels: Tensor, heat: Tensor) -> Tensor:
    """The picture in grey, from blue (0) over green to red (1) where the map is."""
    colour = torch.stack([(1.5 - (4 * heat - c).abs()).clamp(0, 1) for c in (3, 2, 1)])
    return 0.5 * pixels.mean(0, keepdim=True) + 0.5 * colour


def _pasted(picture: Shown, other: Shown) -> Shown:
    """Another picture, half as wide and high, in the middle of a picture; the first class of
    each.
    """
    size = picture.pixels.shape[-1]
    low, high = size // 4, size // 4 + size // 2
    small = F.interpolate(other.pixels[None], (high - low, high - low), mode="nearest")[0]
    pixels = picture.pixels.clone()
    pixels[:, low:high, low:high] = small
    mine, theirs = (next(iter(each.boxes)) for each in (picture, other))
    boxes: dict[int, list[Box]] = {mine: picture.boxes[mine], theirs: [(low, low, high, high)]}
    return Shown(f"{other.name} in {picture.name}", pixels, boxes)
