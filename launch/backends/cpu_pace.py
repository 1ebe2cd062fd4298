"""Whether bf16 is slow on this machine's CPU: measured once, in half a second beside the import of
torch, and remembered for this kind of CPU and version of torch.
"""

import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from launch.backends.checks import Check, run_python
from launch.gpus import visible_gpus
from launch.paths import ensure_home
from launch.spec.trial import Trial
from rm.files import write_atomically

SLOW = 0.9
"""Of fp32's pace; what is above is no reason to choose otherwise."""
_MEASURE = """
import json, time, torch
torch.set_num_threads(1)
layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
images = torch.randn(16, 64, 16, 16).to(memory_format=torch.channels_last)
taken = {False: [], True: []}
for enabled in [False, True] * 4:
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        out = layer(images)
    out.float().sum().backward()
    taken[enabled].append(time.perf_counter() - began)
print(json.dumps({"pace": min(taken[False]) / min(taken[True])}))
"""


def bf16_pace() -> float | None:
    """How many times as fast as in fp32 a convolution's training step is in bf16 on this CPU; None
    where it cannot be measured.
    """
    path, kind = _cache(), f"{_cpu()}, torch {metadata.version('torch')}"
    known: dict[str, float] = {}
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(known.get(kind), float):
        measured = run_python(_MEASURE, OMP_NUM_THREADS="1")
        if "error" in measured:
            return None
        known = {**known, kind: round(float(measured["pace"]), 3)}
        with suppress(OSError):  # measured again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(known))
    return known[kind]


def _cache() -> Path:
    ensure_home()
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "recursivemix" / "cpu.json"


def _cpu() -> str:
    """The model, as Linux names it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def check() -> Check:
    """For `doctor`."""
    pace = bf16_pace()
    if pace is None:
        return Check("note", "bf16", "its pace on this CPU could not be measured")
    found = f"{pace:.2g} times as fast as fp32 on this CPU"
    if pace < SLOW:
        return Check("note", "bf16", f"{found}: train with `precision: fp32` here")
    return Check("ok", "bf16", found)


def remark(trials: Iterable[Trial]) -> str | None:
    """What to say of trials that are to run here, where some ask for a bf16 that is slow."""
    asking = sum(trial.values["train"].get("precision") == "bf16" for trial in trials)
    if not asking or visible_gpus() or (pace := bf16_pace()) is None or pace >= SLOW:
        return None
    return (
        f"bf16 is {pace:.2g} times as fast as fp32 on this CPU, and {asking} of these trials ask "
        "for it; `train.precision: fp32` makes others of them (their ids differ), as the profiles "
        "smoke and cpu do"
    )
