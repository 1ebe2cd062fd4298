"""Memory that a CPU's step frees is given out again, and no number changes with it."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from rm.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.manual_seed(0)
def step():
    maps = [torch.randn(64, 1024, 64) for _ in range(4)]
    return sum(one.sum() for one in maps).item()
for _ in range(12):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
total = sum(step() for _ in range(5))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is GNU's on Linux only")
def test_freed_memory_is_not_asked_for_again():
    pages, totals = {}, set()
    for way in ("keep", "return"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, check=True
        )
        count, total = done.stdout.split()
        pages[way] = int(count)
        totals.add(total)
    assert pages["return"] > 5 * 4 * 64 * 1024 * 64 * 4 // 4096 // 2
    assert pages["keep"] < pages["return"] / 20
    assert len(totals) == 1
