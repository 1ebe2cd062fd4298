"""What launching costs a trial beyond its training: many trials of one tiny epoch through `launch/run.py`, MLflow included.

    python -m benchmarks.launch_cost [--trials 60] [--workers 2]

Start-up is the time until the first trial begins to train; the cost of a trial is what its worker spends between the ends of
two trials, less the time between the trial's own first and last event.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SPEC = """\
title: "Launch cost"
seeds: SEEDS
trial:
  dataset: {name: digits, size: 8, limit: 16, test_limit: 16}
  backbone: {name: resnet8, width: 4}
  train: {epochs: 1, batch_size: 16}
  optimizer: {name: sgd, lr: 0.1}
  schedule: constant
rows:
  - {row: RM, method: recursive_mix}
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "cost.yaml"
        spec.write_text(SPEC.replace("SEEDS", str(list(range(given.trials)))), encoding="utf-8")
        command = [sys.executable, str(ROOT / "launch" / "run.py"), str(spec), "--workers", str(given.workers)]
        began, environment = time.time(), {**os.environ, "RM_RESULTS_DIR": folder, "MLFLOW_TRACKING_URI": ""}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        wall = time.time() - began
        again = time.time()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        again = time.time() - again
        runs = [_times(path) for path in (Path(folder) / "runs").iterdir()]
    gaps = []
    for pid in {run[0] for run in runs}:
        mine = sorted((first, last) for owner, first, last in runs if owner == pid)
        gaps += [start - end for (_, end), (start, _) in itertools.pairwise(mine)]
    print(f"{given.trials} trials, {given.workers} workers: {wall:.1f} s from command to prompt")
    print(f"start-up until the first trial trains: {min(first for _, first, _ in runs) - began:.1f} s")
    print(
        f"cost of a trial beyond its training: {1000 * median(gaps):.0f} ms (median), {1000 * max(gaps):.0f} ms (largest)"
    )
    print(f"the same command again, all finished: {again:.2f} s")


def _times(run_dir: Path) -> tuple[int, float, float]:
    """(worker's process, first event, last event) of a run."""
    events = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    provenance = json.loads((run_dir / "provenance.json").read_text(encoding="utf-8"))
    return provenance[-1]["pid"], events[0]["time"], events[-1]["time"]


if __name__ == "__main__":
    main()
