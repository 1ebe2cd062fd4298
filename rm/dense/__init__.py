"""OpenMMLab's models behind our own loop: heads, data and evaluation for detection and
segmentation.

Of mmdet and mmseg only the models are taken; their runner cannot resume to the same bits. They
run on mmcv-lite, whose compiled operators `ops_stub` stands in for. This is the one room that
imports those packages, and it does so inside functions: importing mmdet costs 16 s of CPU, which a
classification never pays.
"""

from rm.datasets import DataError
from rm.registry.heads import missing_packages


def require_packages() -> None:
    """DataError with the command that installs them, where a package is missing."""
    why = missing_packages({"head": {}})
    if why is not None:
        raise DataError(why)
