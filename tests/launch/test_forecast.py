"""When a queue would be done: by hand, beside real runs of the local backend, as `plan` says."""

import json

import pytest

from benchmarks.campaign import plan_of_everything, simulate
from launch import cli
from launch.backends.forecast import CHECKPOINT_SECONDS, RESTART_SECONDS, Job, forecast
from launch.errors import UsageError
from launch.spec.load import load_spec
from tests.support.sizes import write


def test_by_hand():
    assert forecast([], 4) == (0.0, 0.0, 0.0)
    alike = [Job(str(n), 10.0) for n in range(5)]
    assert forecast(alike, 2) == (30.0, 10.0, 50.0)
    chain = [Job("a", 10.0), Job("b", 5.0, parents=("a",)), Job("c", 14.0), Job("d", 3.0)]
    assert forecast(chain, 2).makespan == 17.0, "the chain first, c beside it, d after c"
    assert forecast(chain, 2).chain == 15.0
    mixed = [Job("wide", 10.0, 4), Job("pair", 10.0, 2), Job("one", 10.0), Job("two", 10.0)]
    assert forecast(mixed, 4) == (20.0, 10.0, 80.0), "wide, then the others side by side"
    lone = forecast([Job("a", 100.0, parents=("there already",))], 1)
    assert lone.makespan == 100.0
    with pytest.raises(UsageError, match="take 4 GPUs each, and --gpus says 2"):
        forecast(mixed, 2)


def test_each_preemption_costs_half_a_checkpoint_and_a_start():
    hour = 3600.0
    found = forecast([Job("a", 12 * hour)], 1, preempt_every=6 * hour)
    assert found.makespan == pytest.approx(
        12 * hour + 2 * (CHECKPOINT_SECONDS / 2 + RESTART_SECONDS)
    )


def test_the_local_backend_takes_as_long_and_what_it_costs_itself(tmp_path):
    """A queue that fills all GPUs to its end: the forecast is the ideal, and no real run is
    faster. (How near it comes is what benchmarks.campaign measures.)
    """
    write(tmp_path, "wide", 2, 4)
    write(tmp_path, "pairs", 4, 2, "\n  init: {from: wide, row: wide, seed: 0}")
    write(tmp_path, "singles", 8, 1)
    plan = plan_of_everything(tmp_path / "runs", tmp_path)
    lengths = dict.fromkeys(plan.unique, 0.3)
    jobs = [
        Job(name, lengths[name], use.cell.resources.processes, use.trial.parents)
        for name, use in plan.unique.items()
    ]
    found = forecast(jobs, 8)
    assert found.makespan == pytest.approx(0.9), "both wide ones, all pairs, all singles"
    report = simulate(plan, tmp_path, lengths, gpus=8, tick=0.1)
    assert report.makespan >= found.makespan
    assert (report.ideal, report.chain) == pytest.approx((found.work / 8, found.chain))


def test_plan_says_when_it_would_be_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # nothing to say of this CPU
    write(tmp_path, "singles", 4, 1)
    path = tmp_path / "singles.yaml"
    assert cli.main(["plan", str(path), "--gpus", "2"]) == 0
    assert "left out: 4 trials of which nothing is measured or stated" in capsys.readouterr().out
    stated = "# Digits.   4 trials. About 48 GPU-hours.\n" + path.read_text()
    path.write_text(stated)
    assert cli.main(["plan", str(path), "--gpus", "2", "--preempt-every", "6h"]) == 0
    out = capsys.readouterr().out
    assert "4 trials to train take 48 GPU-hours: 0 by the pace" in out
    assert "on 2 GPUs: 24.2 hours, done on " in out, "24 hours and 210 s every six"
    trial = load_spec(path).trials[0]
    run_dir = tmp_path / "results" / "runs" / trial.id
    run_dir.mkdir(parents=True)
    (run_dir / "trial.json").write_text(trial.to_json())
    for device, hours in (("cpu", 48), ("cuda", 4)):
        events = [
            {"event": "started", "time": 0.0, "device": device},
            {"event": "epoch", "time": 0.0, "epoch": 1, "epoch_seconds": 7200.0},
        ]
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (run_dir / "journal.jsonl").write_text(lines)
        assert cli.main(["plan", str(path), "--gpus", "2"]) == 0
        assert f"take {4 * 2 if device == 'cuda' else hours} GPU-hours" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["plan", str(path), "--gpus", "2", "--preempt-every", "6 parsecs"])
    assert cli.main(["plan", str(path), "--preempt-every", "6h"]) == 2
