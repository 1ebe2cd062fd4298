"""What clusters, disks and people do to it: each fault tried, and whether it was survived.

    python -m benchmarks.faults            all of it: an hour and more (make faults)
    python -m benchmarks.faults --short    a part of each, about five minutes on two idle cores
    python -m benchmarks.faults cases runs specs storm [--backend ray|slurm]      these parts only

cases   the tests in tests/faults and tests/slurm/test_faults.py, each one fault or a few alike, on
        real processes, file systems and (where it is installed) SLURM
runs    run directories with a file spoilt: every command ends with a sentence and a documented
        exit status, and the other trials stay as they are
specs   specs changed at random: loaded, or refused with a place for each mistake
storm   SIGKILL for workers and launchers of one spec at random moments, in five of them a power
        cut (as root): results as undisturbed runs give, bit for bit, each trial finished once

Survived means that nothing was lost, doubled, stuck or ended in a traceback. Exit status 1 where
something was not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

from tests.support import mutations, storm
from tests.support.mutated_specs import failures
from tests.support.mutations import Campaign
from tests.support.slurm import cluster

ROOT = Path(__file__).resolve().parents[1]
CASES = ("tests/faults", "tests/slurm/test_faults.py")
SEED = 2022
SLURM = (
    "--backend",
    "slurm",
    "--wait",
    "--slurm",
    "gpus_per_trial=0",
    "--slurm",
    "cpus_per_gpu=2",
)


def cases(folder: Path, short: bool, backend: str) -> Campaign:
    """The tests; one that is skipped, for want of root or of SLURM, was not tried."""
    report = folder / "cases.xml"
    words = [*CASES[: 1 if short else 2], f"--junitxml={report}", "-q"]
    words += ["-m", "not cluster"] if short else []
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, check=False)
    found = list(ElementTree.parse(report).iter("testcase"))
    tried = [case for case in found if case.find("skipped") is None]
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in tried
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return Campaign(len(tried), len(tried) - len(bad), bad)


def runs(folder: Path, short: bool, backend: str) -> Campaign:
    """Spoilt run directories."""
    return mutations.run(folder, 60 if short else 500, SEED)


def specs(folder: Path, short: bool, backend: str) -> Campaign:
    """Spoilt specs."""
    count = 200 if short else 2000
    bad = [f"spec of seed {failure.seed}: {failure.why}" for failure in failures(count)]
    return Campaign(count, count - len(bad), bad)


def kills(folder: Path, short: bool, backend: str) -> Campaign:
    """The storm. Of SLURM, on a cluster of its own, its tasks are killed too; its daemons outlive
    the power cuts, which take the disk that all nodes share and every job on it.
    """
    count, cuts = (8, 1) if short else (200, 5)
    if backend == "slurm":
        os.environ["RM_THREADS"] = "1"  # as the undisturbed runs of two workers have on two cores
        with cluster.running() as started:
            os.environ |= started.environment
            return storm.run(folder, count, cuts, SEED, *SLURM)
    words = ("--backend", backend) if backend != "local" else ()
    return storm.run(folder, count, cuts, SEED, *words)


PARTS: dict[str, Callable[[Path, bool, str], Campaign]] = {
    "cases": cases,
    "runs": runs,
    "specs": specs,
    "storm": kills,
}


def line(name: str, found: Campaign) -> str:
    """The sum of one part, or of all."""
    return (
        f"{name}: tried {found.tried:,}, survived {found.survived:,}, said badly "
        f"{len(found.badly):,}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--short", action="store_true", help="a part of each")
    parser.add_argument("--backend", default="local", help="of the storm: local, ray or slurm")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]}")
    total = Campaign(0, 0, [])
    for name in args.parts or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="rm-faults-") as folder:
            found = PARTS[name](Path(folder), args.short, args.backend)
        for text in found.badly:
            print(text)
        print(f"{line(name, found)} ({time.monotonic() - began:.0f} s)", flush=True)
        total = Campaign(
            total.tried + found.tried,
            total.survived + found.survived,
            [*total.badly, *found.badly],
        )
    print(line("faults", total))
    return int(total.survived < total.tried)


if __name__ == "__main__":
    sys.exit(main())
