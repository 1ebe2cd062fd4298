"""What the orchestration costs: plans, run directories, status, relaunching, two launchers at
once; a journal, a checkpoint.

    python -m benchmarks.scale [plan] [prepare] [launch] [journal] [checkpoint] [--trials 1000
    10000 100000]   (default: all of it)

Every figure is of a command or a call as people use it, in a temporary folder, the median of
--repeat. Cold means that the kernel's caches were dropped before (only where this process may
write /proc/sys/vm/drop_caches). Python's bytecode is kept, as on any machine where the command was
typed once before. Reports: benchmarks.report_scale.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPEC = """\
title: "Many trials"
seeds: SEEDS
trial:
  dataset: {name: digits, size: 8, limit: 16, test_limit: 16}
  backbone: {name: resnet8, width: 8}
  train: {epochs: 1, batch_size: 16}
  optimizer: {name: sgd, lr: 0.1}
  schedule: constant
  method: recursive_mix
"""
SEEDS = 10
LAUNCH_TRIALS = 10_000


def write_spec(folder: Path, trials: int) -> Path:
    """A grid of so many trials: learning rates by alphas, and ten seeds of each."""
    cells = trials // SEEDS
    rates = max(n for n in range(1, int(cells**0.5) + 1) if cells % n == 0)
    axes = {"optimizer.lr": [round(0.1 / (i + 1), 6) for i in range(rates)]}
    axes["method.alpha"] = [round((i + 1) * rates / cells, 6) for i in range(cells // rates)]
    path = folder / f"many{trials}.yaml"
    text = SPEC.replace("SEEDS", str(list(range(SEEDS)))) + "axes:\n"
    path.write_text(
        text + "".join(f"  {axis}: {values}\n" for axis, values in axes.items()), encoding="utf-8"
    )
    return path


def command(folder: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    environment = {
        **os.environ,
        "RM_RESULTS_DIR": str(folder / "results"),
        "MLFLOW_TRACKING_URI": "",
    }
    return [sys.executable, str(ROOT / "launch" / "run.py"), *words], environment


def seconds(call: Callable[[], object], repeat: int) -> str:
    """Median and range of some calls."""
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return f"{statistics.median(taken):7.2f} s  ({min(taken):.2f} to {max(taken):.2f}, n={repeat})"


def run(folder: Path, *words: str) -> None:
    words_, environment = command(folder, *words)
    subprocess.run(words_, env=environment, check=True, capture_output=True)


def peak_mib(folder: Path, *words: str) -> float:
    """Memory of a command, measured by a process that has only this child."""
    words_, environment = command(folder, *words)
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL);"
    )
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words_],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def drop_caches() -> bool:
    """Whether the kernel has forgotten the file system, so that the next command is a cold one."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    except OSError:
        return False
    return True


def plan(folder: Path, sizes: list[int], repeat: int) -> None:
    """Reading, resolving and planning a spec: the call, and the whole command with its JSON."""
    code = (
        "import sys, time; from pathlib import Path; from launch.spec.load import load_spec; from "
        "launch.plan import make_plan\n"
    )
    code += (
        "began = time.perf_counter(); spec = load_spec(sys.argv[1]); read = "
        "time.perf_counter() - began\n"
    )
    code += (
        "count = len(make_plan([spec], Path(sys.argv[2])).unique); print(read, "
        "time.perf_counter() - began, count)"
    )
    for trials in sizes:
        path = write_spec(folder, trials)
        found = []
        for _ in range(repeat):
            done = subprocess.run(
                [sys.executable, "-c", code, str(path), str(folder / "none" / "runs")],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            )
            read, whole, count = map(float, done.stdout.split())
            found.append((whole, read))
        if count != trials:
            raise SystemExit(f"planned {count:.0f} trials instead of {trials}")
        whole, read = (statistics.median(values) for values in zip(*found, strict=True))
        print(
            f"plan {trials:7,}: {whole:7.2f} s, {read:.2f} s of it to read the spec; ",
            end="",
            flush=True,
        )
        print(
            f"{peak_mib(folder, str(path), '--dry-run', '--json'):5.0f} MiB at most; --dry-run "
            "--json ",
            end="",
            flush=True,
        )
        dry_run = functools.partial(run, folder, str(path), "--dry-run", "--json")
        print(seconds(dry_run, repeat))


def make_finished(folder: Path, path: Path) -> None:
    """Run directories as finished trials leave them, journal of one epoch and all, made by
    hand.
    """
    from launch.plan import make_plan
    from launch.runs.create import prepare
    from launch.spec.load import load_spec

    runs = folder / "results" / "runs"
    uses = make_plan([load_spec(path)], runs).uses
    prepare(uses, runs)
    metrics = {
        f"{kind}_{name}": 50.0
        for kind in ("best", "last", "median_last_10")
        for name in ("top1_error", "top5_error")
    }
    for use in uses:
        run_dir = runs / use.trial.id
        events = [
            {"event": "started", "time": 1.0},
            {"event": "epoch", "time": 2.0, "epoch": 1, "test_top1_error": 50.0},
            {"event": "finished", "time": 3.0, "best_top1_error": 50.0},
        ]
        (run_dir / "journal.jsonl").write_text(
            "".join(json.dumps(event) + "\n" for event in events), encoding="utf-8"
        )
        result = {
            "id": use.trial.id,
            "seed": use.trial.seed,
            "metrics": {**metrics, "best_epoch": 1},
            "train_seconds": 1.0,
        }
        (run_dir / "result.json").write_text(json.dumps(result), encoding="utf-8")


def prepare(folder: Path, repeat: int) -> None:
    """Making the run directories of trials that nobody has run: by one launcher, by two at once,
    and once they are there.
    """
    path = write_spec(folder, LAUNCH_TRIALS)
    code = (
        "import sys, time; from pathlib import Path; from launch.spec.load import load_spec; from "
        "launch.plan import make_plan\n"
    )
    code += (
        "from launch.runs.create import prepare; runs = Path(sys.argv[2]); uses = "
        "make_plan([load_spec(sys.argv[1])], runs).uses\n"
    )
    code += (
        "input(); began = time.perf_counter(); prepare(uses, runs); "
        "print(time.perf_counter() "
        "- began)"
    )
    taken: dict[str, list[float]] = {"one launcher": [], "two at once": [], "all there": []}
    for number in range(repeat):
        for name, count in (("one launcher", 1), ("two at once", 2), ("all there", 1)):
            runs = folder / f"unfinished{number}{count}" / "runs"
            words = [sys.executable, "-c", code, str(path), str(runs)]
            launchers = [
                subprocess.Popen(
                    words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                for _ in range(count)
            ]
            for launcher in launchers:
                # They wait for each other here.
                launcher.stdin.write("\n")  # type: ignore[union-attr]
                launcher.stdin.flush()  # type: ignore[union-attr]
            said = [launcher.communicate()[0] for launcher in launchers]
            if any(launcher.returncode for launcher in launchers):
                raise SystemExit("making run directories failed")
            taken[name].append(max(map(float, said)))
    for name, values in taken.items():
        print(
            f"{LAUNCH_TRIALS:,} unfinished run directories, {name}: "
            f"{statistics.median(values):.2f} s "
            f"({min(values):.2f} to {max(values):.2f}, n={repeat})"
        )


def launch(folder: Path, repeat: int) -> None:
    """status, relaunch, and two launchers at once, over run directories of finished trials."""
    path = write_spec(folder, LAUNCH_TRIALS)
    print(
        f"{LAUNCH_TRIALS:,} run directories: made in",
        seconds(lambda: make_finished(folder, path), 1),
    )
    began = time.perf_counter()
    run(folder, "sync", str(path))
    print(f"sync, the first time: {time.perf_counter() - began:.1f} s", flush=True)
    for words, name in (
        (("status", str(path)), "status"),
        ((str(path),), "relaunch, all finished"),
    ):
        call = functools.partial(run, folder, *words)
        if drop_caches():
            print(f"{name}, cold: {seconds(call, 1)}")
        print(f"{name}: {seconds(call, repeat)}", flush=True)

    def two() -> None:
        words_, environment = command(folder, str(path))
        both = [
            subprocess.Popen(words_, env=environment, stderr=subprocess.DEVNULL) for _ in range(2)
        ]
        if any(process.wait() for process in both):
            raise SystemExit("a launcher failed")

    print(f"two launchers at once: {seconds(two, repeat)}")


def journal(folder: Path) -> None:
    """Appending an epoch event (durable with the next checkpoint) and a durable one (on the disk
    before it returns).
    """
    from rm.rundir.journal import Journal

    values = {f"metric_{i}": 1 / (i + 3) for i in range(12)}
    with Journal(folder / "journal.jsonl") as file:
        for durable, count in ((False, 20_000), (True, 200)):
            began = time.perf_counter()
            for epoch in range(count):
                file.append("epoch", durable=durable, epoch=epoch, **values)
            each = (time.perf_counter() - began) / count
            print(
                f"journal, an event of 15 values, {'fsynced' if durable else 'not fsynced'}: "
                f"{1e6 * each:.1f} µs"
            )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("plan", "prepare", "launch", "journal", "checkpoint")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument(
        "--trials",
        type=int,
        nargs="+",
        default=[1000, 10_000, 100_000],
        help="to plan; multiples of ten",
    )
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        if "plan" in args.parts:
            plan(folder, args.trials, args.repeat)
        if "prepare" in args.parts:
            prepare(folder, args.repeat)
        if "launch" in args.parts:
            launch(folder, args.repeat)
        if "journal" in args.parts:
            journal(folder)
        if "checkpoint" in args.parts:
            from benchmarks.checkpoint import measure  # the only part that needs torch

            measure(folder, args.repeat)
    print(
        f"load of this machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        "cores"
    )


if __name__ == "__main__":
    main()
