"""Where a run's numbers come from: provenance.json, one entry per attempt."""

import json
import os
import platform
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rm.files import UNGUARDED, Permit, write_atomically

_PACKAGES = ("torch", "torchvision", "timm", "numpy")
_SCHEDULER_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_NODELIST",
    "RAY_JOB_ID",
)


def record_attempt(run_dir: Path, device: torch.device, permit: Permit = UNGUARDED) -> None:
    """Append this attempt to provenance.json: commit and diff, versions, host, device, command,
    scheduler ids.
    """
    path = run_dir / "provenance.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = []
    attempts = known if isinstance(known, list) else []
    attempts.append(
        {"time": round(time.time(), 3), "pid": os.getpid(), **_here(), "device": _name(device)}
    )
    # Checkpoints and results sync the folder; without one there is nothing to tell of.
    write_atomically(path, json.dumps(attempts, indent=1), permit, survives="sync of folder")


@cache
def _here() -> dict[str, Any]:
    """What stays the same while this process lives."""
    return {
        **_git(Path(__file__).resolve().parents[1]),
        "command": sys.argv,
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "scheduler": {
            name: os.environ[name] for name in _SCHEDULER_VARIABLES if name in os.environ
        },
    }


def _git(folder: Path) -> dict[str, str | None]:
    """Commit and difference of the working tree, or what a snapshot of one (`.provenance.json`)
    says it was taken from.
    """
    try:
        taken = json.loads((folder / ".provenance.json").read_text(encoding="utf-8"))
        return {"git_commit": taken["git_commit"], "git_diff": taken["git_diff"]}
    except (OSError, ValueError, KeyError):
        pass

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    commit = ask("rev-parse", "HEAD")
    return {"git_commit": commit and commit.strip(), "git_diff": ask("diff", "HEAD", "--", "rm")}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.processor() or platform.machine()})"
