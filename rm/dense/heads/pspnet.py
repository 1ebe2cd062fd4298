"""PSPNet (Zhao et al., CVPR 2017), configs/_base_/models/pspnet_r50-d8 of mmseg 1.2.2."""

from collections.abc import Sequence
from typing import Annotated, Any

from rm.dense.heads._common import auxiliary_head, pixel_head, segmentor

TASK = "segmentation"
METRICS = ("miou", "macc", "aacc")


def pspnet(
    channels: Sequence[int],
    classes: int,
    *,
    width: Annotated[int, "width >= 8"] = 512,
    auxiliary_width: Annotated[int, "auxiliary_width >= 8"] = 256,
    dropout: Annotated[float, "0 <= dropout < 1"] = 0.1,
) -> dict[str, Any]:
    """Pyramid pooling on the last map."""
    head = {
        "in_channels": channels[3],
        "in_index": 3,
        "channels": width,
        "pool_scales": (1, 2, 3, 6),
        **pixel_head("PSPHead", classes, dropout, 1.0),
    }
    return segmentor(head, auxiliary_head(channels[2], auxiliary_width, classes, dropout))
