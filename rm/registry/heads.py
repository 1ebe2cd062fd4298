"""What a trial's head adds: its own metrics, and packages beyond those of `rm`. Standard library
only.
"""

import importlib.util
from collections.abc import Mapping
from functools import cache
from typing import Any

from rm import registry

PACKAGES = ("mmengine", "mmcv", "mmdet", "mmseg", "cv2", "pycocotools", "faster_coco_eval")
"""What rm/dense imports; the extra `downstream` of pyproject.toml installs them."""
INSTALL = "make downstream"


def metrics_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of what a trial of these values reports, the primary one first."""
    if "head" in values:
        return registry.entry("head", values["head"]["name"]).metrics
    return registry.task(values).metrics


def missing_packages(values: Mapping[str, Any]) -> str | None:
    """Which packages a trial of these values lacks on this machine, and the command that installs
    them; None if none.
    """
    return _missing() if "head" in values else None


@cache
def _missing() -> str | None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"a head needs the packages {', '.join(missing)}: `{INSTALL}` installs them"
