"""Environment variables that workers read, looked at before anything runs."""

import math
import os

from launch.errors import UsageError


def check_environment() -> None:
    """UsageError for a value that every trial would fail on."""
    if (asked := os.environ.get("RM_CHECKPOINT_SECONDS")) is not None:
        try:
            seconds = float(asked)
        except ValueError:
            seconds = math.nan
        if not seconds >= 0:
            raise UsageError(
                f"RM_CHECKPOINT_SECONDS must be a number of seconds from 0 on, found '{asked}'"
            )
    if (tracking := os.environ.get("RM_TRACKING", "on")) not in ("on", "off"):
        raise UsageError(f"RM_TRACKING must be on or off, found '{tracking}'")
    if not (readers := os.environ.get("RM_LOADER_WORKERS", "0")).isdecimal():
        raise UsageError(f"RM_LOADER_WORKERS must be a whole number, found '{readers}'")
