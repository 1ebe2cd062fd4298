"""UperNet (Xiao et al., ECCV 2018), configs/_base_/models/upernet_r50 of mmseg 1.2.2."""

from collections.abc import Sequence
from typing import Annotated, Any

from rm.dense.heads._common import auxiliary_head, pixel_head, segmentor

TASK = "segmentation"
METRICS = ("miou", "macc", "aacc")


def upernet(
    channels: Sequence[int],
    classes: int,
    *,
    width: Annotated[int, "width >= 8"] = 512,
    auxiliary_width: Annotated[int, "auxiliary_width >= 8"] = 256,
    dropout: Annotated[float, "0 <= dropout < 1"] = 0.1,
) -> dict[str, Any]:
    """Pyramid pooling on the last map, and a feature pyramid on all four."""
    head = {
        "in_channels": list(channels),
        "in_index": [0, 1, 2, 3],
        "pool_scales": (1, 2, 3, 6),
        "channels": width,
        **pixel_head("UPerHead", classes, dropout, 1.0),
    }
    return segmentor(head, auxiliary_head(channels[2], auxiliary_width, classes, dropout))
