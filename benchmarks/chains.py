"""What chains of trials cost: each trains on what another one left, which trains on a third one's.

    python -m benchmarks.chains [plan] [prepare] [report] [--trials 100000] [--made 10000]
                                (default: all of it)

plan      reading, resolving and planning --trials trials in chains of three, in a process of its
          own
prepare   making --made run directories of such trials, each with its parent's id
report    the page over --made records in chains of three, the first time and again
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import report_scale, scale

SEEDS = 10
SPEC = """\
# Chains of three trials.
title: "Many chains"
paper: {key: yang2022recursivemix, table: "1"}
seeds: SEEDS
trial:
  dataset: {name: digits, size: 8, limit: 16, test_limit: 16}
  backbone: {name: resnet8, width: 8}
  train: {epochs: 1, batch_size: 16}
  optimizer: {name: sgd, lr: 0.1}
  schedule: constant
  method: recursive_mix
rows:
"""
ROW = """\
  - row: R{n}
    optimizer.lr: {lr}
  - row: S{n}
    init: {{from: chains, row: R{n}}}
  - row: T{n}
    init: {{from: chains, row: S{n}}}
"""


def write_spec(folder: Path, trials: int) -> Path:
    """Three rows a chain and ten seeds of each: at least so many trials."""
    chains = -(-trials // (3 * SEEDS))
    rows = "".join(ROW.format(n=n, lr=round(0.1 / (n + 1), 9)) for n in range(chains))
    path = folder / "chains.yaml"
    text = SPEC.replace("SEEDS", str(list(range(SEEDS)))) + rows
    path.write_text(text, encoding="utf-8")
    return path


def printed(code: str, *words: str) -> list[float]:
    """The numbers that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=scale.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [float(number) for number in done.stdout.split()]


def plan(folder: Path, trials: int, repeat: int) -> None:
    """The call, in a process of its own, and the peak of the whole command."""
    path = write_spec(folder, trials)
    code = (
        "import sys, time; from pathlib import Path; from launch.spec.load import load_spec\n"
        "from launch.plan import make_plan\n"
        "began = time.perf_counter(), time.process_time(); spec = load_spec(sys.argv[1])\n"
        "read = time.perf_counter() - began[0]; plan = make_plan([spec], Path(sys.argv[2]))\n"
        "print(time.perf_counter() - began[0], time.process_time() - began[1], read,"
        " len(plan.unique), max(len(plan.parents(name)) for name in plan.unique))"
    )
    none = folder / "none" / "runs"
    found = [printed(code, str(path), str(none)) for _ in range(repeat)]
    whole, processor, read, count, parents = (
        statistics.median(values) for values in zip(*found, strict=True)
    )
    if count < trials or parents != 1:
        raise SystemExit(f"planned {count:.0f} trials instead of {trials}")
    mib = scale.peak_mib(folder, str(path), "--dry-run", "--json")
    print(
        f"plan {count:,.0f} trials in chains of three: {whole:.2f} s ({processor:.2f} s of the "
        f"processor), {read:.2f} s of it to read the spec; {mib:.0f} MiB at most"
    )


def prepare(folder: Path, trials: int, repeat: int) -> None:
    """Run directories that nobody has run, made by one launcher."""
    path = write_spec(folder, trials)
    code = (
        "import sys, time; from pathlib import Path; from launch.spec.load import load_spec\n"
        "from launch.plan import make_plan; from launch.runs.create import prepare\n"
        "runs = Path(sys.argv[2]); uses = make_plan([load_spec(sys.argv[1])], runs).uses\n"
        "began = time.perf_counter(), time.process_time(); prepare(uses, runs)\n"
        "print(time.perf_counter() - began[0], time.process_time() - began[1], len(uses))"
    )
    found = [
        printed(code, str(path), str(folder / f"made{number}" / "runs"))
        for number in range(repeat)
    ]
    whole, processor, count = (statistics.median(values) for values in zip(*found, strict=True))
    print(
        f"{count:,.0f} run directories of trials in chains: {whole:.2f} s "
        f"({processor:.2f} s of the processor)"
    )


def report(folder: Path, trials: int) -> None:
    """Over as many records, the first time and again."""
    path = write_spec(folder, trials)
    store = folder / "results" / "mlflow.db"
    report_scale.write_store(store, [report_scale.load_spec(path)], trials, epochs=5)
    for name in ("first", "again"):
        seconds, processor = report_scale.report(folder, [path])
        print(
            f"the report over {trials:,} records of trials in chains, {name}: {seconds:.1f} s "
            f"({processor:.1f} s of the processor)"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("plan", "prepare", "report")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--made", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        if "plan" in args.parts:
            plan(folder, args.trials, args.repeat)
        if "prepare" in args.parts:
            prepare(folder, args.made, args.repeat)
        if "report" in args.parts:
            report(folder, args.made)
    print(f"load over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
