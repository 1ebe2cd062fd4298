"""Ours beside the libraries alone: what launching costs, and what is done again.

    python -m benchmarks.compare [--trials 12] [--seconds 0.5] [--python PYTHON] [--only hydra]

Every contestant runs the same trials, two at a time, each of which sleeps; the whole command is
timed, run again when all is finished, and in another folder killed (SIGKILL, with all that it has
started) in the midst and run again. What is reported of these is how many times a trial was begun
from nothing: as often as there are trials is the least. Each does what its documentation offers
for resuming, and nothing that the user would have to write: Ray Tune restores, dora looks into its
history, submitit and hydra's launcher have no means on one machine. Hydra's starts all trials at
once there; dora runs one trial a command, as its `launch` and `grid` need SLURM. seml keeps its
queue in MongoDB, which Debian does not have, and is not run. None of them but ours plans without
starting, or says of thousands of trials how they do: those figures are benchmarks.scale's.

--python   of an environment that has hydra-core, hydra-submitit-launcher, submitit, ray[tune] and
           dora-search; what it lacks is left out, with a word
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = """\
import os, time
def work(seed):
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{seed}\\n")
    time.sleep(float(os.environ["SECONDS"]))
"""
OURS = """\
import json, os
from pathlib import Path
from launch.backends.base import Limits
from launch.backends.local.backend import LocalBackend
from launch.plan import make_plan
from launch.runs.create import prepare
from launch.spec.load import load_spec
from benchmarks.campaign import Calls, SleepingProcess
from benchmarks.compare import SPEC
folder, runs = Path.cwd(), Path.cwd() / "runs"
spec = folder / "compare.yaml"
spec.write_text(SPEC.replace("SEEDS", str(list(range(int(os.environ["TRIALS"]))))))
plan = make_plan([load_spec(spec)], runs)
prepare(plan.to_prepare(), runs)
to_run = [runs / use.trial.id for use in plan.to_run()]
seconds = float(os.environ["SECONDS"])
ticks = {use.trial.id: seconds / 0.1 for use in plan.to_run()}
(folder / "sleeps.json").write_text(json.dumps({"tick": 0.1, "ticks": ticks}))
os.environ["RM_SLEEPS"] = str(folder / "sleeps.json")
LocalBackend(SleepingProcess).run(to_run, Calls(), Limits(workers=2))
"""
SUBMITIT = """\
import os, submitit
from work import work
executor, left = submitit.LocalExecutor("jobs"), list(range(int(os.environ["TRIALS"])))
while left:
    jobs = [executor.submit(work, left.pop(0)) for _ in range(min(2, len(left)))]
    [job.result() for job in jobs]
"""
TUNE = """\
import os, sys, uuid
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
               "RAY_AUTH_TOKEN": uuid.uuid4().hex}
import ray
from ray import tune
from work import work
def trial(config):
    work(config["seed"])
    return {"value": 1}
path = os.path.abspath("results")
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
         _temp_dir=os.environ["RAY_FOLDER"], runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}})
trainable = tune.with_resources(trial, {"cpu": 1})
if tune.Tuner.can_restore(path + "/all"):
    tuner = tune.Tuner.restore(path + "/all", trainable)
else:
    grid = {"seed": tune.grid_search(list(range(int(os.environ["TRIALS"]))))}
    tuner = tune.Tuner(trainable, param_space=grid,
                       run_config=tune.RunConfig(name="all", storage_path=path, verbose=0))
tuner.fit()
ray.shutdown()
"""
HYDRA = """\
import hydra
from work import work
@hydra.main(version_base=None, config_path=None)
def main(config):
    work(config.seed)
main()
"""
DORA = """\
import argparse
from dora import argparse_main, get_xp
from work import work
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
@argparse_main(dir="outputs", parser=parser)
def main():
    xp = get_xp()
    xp.link.load()
    if not xp.link.history:
        work(xp.cfg.seed)
        xp.link.push_metrics({"value": 1})
main()
"""
SPEC = """\
title: "Compare"
seeds: SEEDS
trial:
  dataset: {name: digits, size: 8}
  backbone: {name: resnet8, width: 8}
  method: baseline
  train: {epochs: 1, batch_size: 16}
  optimizer: {name: sgd, lr: 0.1}
  schedule: constant
rows:
  - {row: Baseline}
"""
COMMANDS = {
    "ours": "{python} ours.py",
    "submitit": "{python} submitit_alone.py",
    "ray tune": "{python} tune_alone.py",
    "hydra": "{python} hydra_app.py -m hydra/launcher=submitit_local '+seed=range({trials})'",
    "dora": "seq 0 {last} | xargs -P 2 -I@ {python} -m xp.train --seed=@",
}
FILES = {
    "work.py": WORK,
    "ours.py": OURS,
    "submitit_alone.py": SUBMITIT,
    "tune_alone.py": TUNE,
    "hydra_app.py": HYDRA,
    "xp/__init__.py": "",
    "xp/train.py": DORA,
}


class Contest:
    """One contestant in a folder of its own."""

    def __init__(self, name: str, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.trials = folder, args.trials
        for path, text in FILES.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        python = sys.executable if name == "ours" else args.python
        last = args.trials - 1
        self.command = COMMANDS[name].format(python=python, trials=args.trials, last=last)
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{folder}" if name == "ours" else str(folder),
            "BEGUN": str(folder / "begun"),
            "SECONDS": str(args.seconds),
            "TRIALS": str(args.trials),
            "RAY_FOLDER": str(folder / "ray"),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self) -> float:
        """Seconds; RuntimeError with its first lines where it fails."""
        began = time.monotonic()
        process = self.start()
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(" ".join(errors.strip().splitlines()[:3]) or "no message")
        return time.monotonic() - began

    def begun(self) -> int:
        """How often a trial was begun: ours leave journals, the others lines."""
        journals = (self.folder / "runs").glob("*/journal.jsonl")
        events = [line for path in journals for line in path.read_text().splitlines()]
        if events:
            return sum('"event": "started"' in line for line in events)
        path = self.folder / "begun"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def kill_in_the_midst(self) -> None:
        process = self.start()
        while self.begun() <= self.trials // 2 and process.poll() is None:
            time.sleep(0.01)
        for pid in _descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def _descendants(pid: int) -> list[int]:
    """A process and all that it has started, in whatever session."""
    import psutil

    process = psutil.Process(pid)
    return [child.pid for child in process.children(recursive=True)] + [pid]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.5, help="that a trial sleeps")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", choices=COMMANDS, action="append")
    args = parser.parse_args()
    print("| | command | s beyond sleeping | again, s | begun again | begun, with a kill |")
    print("|---|---|---|---|---|---|")
    for name in args.only or COMMANDS:
        with tempfile.TemporaryDirectory(prefix="cmp-", dir="/tmp") as folder:
            print(_row(name, Path(folder), args), flush=True)
    print(f"load average: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _row(name: str, folder: Path, args: argparse.Namespace) -> str:
    (folder / "whole").mkdir()
    (folder / "killed").mkdir()
    whole, killed = (Contest(name, folder / each, args) for each in ("whole", "killed"))
    least = args.seconds * -(-args.trials // 2)
    try:
        first = whole.run()
        again = whole.run()
        killed.kill_in_the_midst()
        killed.run()
    except RuntimeError as error:
        return f"| {name} | `{whole.command}` | {error} | | | |"
    return (
        f"| {name} | `{whole.command}` | {first - least:.1f} | {again:.1f} "
        f"| {whole.begun() - args.trials} of {args.trials} | {killed.begun()} |"
    )


if __name__ == "__main__":
    main()
