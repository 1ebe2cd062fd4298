"""Two launchers make the run directories of the same plan at the same time."""

import json
import subprocess
import sys

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support.trials import PATIENCE, ROOT

SPEC = """
    # trials of two processes each
    title: "Many"
    resources: {gpus: 2}
    seeds: SEEDS
    trial:
      dataset: {name: digits, size: 8, limit: 16, test_limit: 16}
      backbone: {name: resnet8, width: 8}
      train: {epochs: 1, batch_size: 16, batch_norm_groups: 2}
      optimizer: {name: sgd, lr: 0.1}
      schedule: constant
    rows:
      - {row: RM, method: recursive_mix}
"""
PREPARE = (
    "import sys; from pathlib import Path; from launch.spec.load import load_spec\n"
    "from launch.plan import make_plan; from launch.runs.create import prepare\n"
    "runs = Path(sys.argv[2]); uses = make_plan([load_spec(sys.argv[1])], runs).uses\n"
    "print('ready', flush=True); input()\n"
    "for _ in range(5): prepare(uses, runs)\n"
)
COUNT = 150


def test_two_launchers_prepare_the_same_trials_at_once(write_spec, tmp_path):
    path, runs = write_spec(SPEC, SEEDS=str(list(range(COUNT)))), tmp_path / "runs"
    launchers = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, str(path), str(runs)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for launcher in launchers:
        assert launcher.stdout.readline() == "ready\n", launcher.stderr.read()
    for launcher in launchers:
        launcher.stdin.write("\n")
        launcher.stdin.flush()
    said = [launcher.communicate(timeout=PATIENCE) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    trials = load_spec(path).trials
    assert len(trials) == COUNT
    for trial in trials:
        run_dir = RunDir(runs / trial.id)
        assert run_dir.resources == {"nodes": 1, "gpus": 2}
        assert run_dir.trial == json.loads(trial.to_json())
        assert len({json.dumps(use) for use in run_dir.uses}) == 1
        assert not list(run_dir.path.glob("*.tmp"))
