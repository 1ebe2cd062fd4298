"""The GPUs of this machine, as nvidia-smi lists them."""

import os
import subprocess


def visible_gpus() -> list[str]:
    """The GPUs a worker may use, as CUDA_VISIBLE_DEVICES writes them; none where there is no
    driver.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [gpu.strip() for gpu in allowed.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [
        str(i)
        for i, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))
    ]
