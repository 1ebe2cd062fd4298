"""The GPUs and processor cores of this machine that may be used; the one reader of nvidia-smi."""

import os
import subprocess
from collections.abc import Sequence


def visible_gpus() -> list[str]:
    """The GPUs a worker may use, as CUDA_VISIBLE_DEVICES writes them; none where there is no
    driver.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [gpu.strip() for gpu in allowed.split(",") if gpu.strip() not in ("", "-1")]
    try:
        return [index for (index,) in query(["index"])]
    except (OSError, subprocess.SubprocessError):
        return []


def query(fields: Sequence[str], gpus: str | None = None) -> list[list[str]]:
    """Of each GPU of this machine, or of those named (`0,2`), what nvidia-smi says of the fields.

    Raises OSError where there is no nvidia-smi, subprocess.SubprocessError where it fails.
    """
    words = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    words += [f"--id={gpus}"] if gpus else []
    text = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    return [[value.strip() for value in line.split(",")] for line in text.splitlines() if line]


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
