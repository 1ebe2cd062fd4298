"""What people see of a trial within its epoch: step, loss, last test, and the time left before the
first one is over.
"""

import io
import json
import time

import pytest
from rich.console import Console

from launch.commands import status
from launch.plan import make_plan
from launch.progress import ProgressWatcher
from launch.runs import journal
from launch.runs.rundir import RunDir
from launch.runs.status import StatusReader
from launch.spec.load import load_spec
from rm import train
from rm.rundir import position as written
from rm.trial import parse_trial
from tests.support.trials import write_trial


@pytest.fixture
def at_each_step(monkeypatch):
    monkeypatch.setattr(written, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(written, "SECONDS", 0.0)


def test_a_worker_notes_its_position_and_takes_it_away_at_the_end(tiny, tmp_path, at_each_step):
    run_dir = write_trial(tmp_path / "run", tiny).parent
    seen = []

    def stop():
        seen.append(journal.position_of(run_dir))
        return len(seen) == 9

    with pytest.raises(train.Interrupted):
        train.fit(parse_trial(tiny), run_dir, stop=stop)
    events, _ = RunDir(run_dir).events()
    assert seen[0] is None
    assert [(at.epoch, at.step) for at in seen[1:]] == [
        *((1, step) for step in range(1, 6)),
        *((2, step) for step in range(1, 4)),
    ]
    assert {at.steps for at in seen[1:]} == {5}
    assert all(0 < at.loss < 10 for at in seen[1:])
    assert journal.within(seen[-1], events) == seen[-1]
    assert journal.within(seen[2], events) is None  # of the epoch before
    assert seen[-1].seconds_left(3) < 60
    train.fit(parse_trial(tiny), run_dir)
    assert not (run_dir / journal.POSITION).exists()


@pytest.fixture
def running(write_spec, results):
    """A plan of one trial that is half-way through its second epoch of 240, and its run
    directory.
    """
    path = write_spec(**{"seeds: [0, 1]": "seeds: [0]", "epochs: 2": "epochs: 240"})
    plan = make_plan([load_spec(path)], results / "runs")
    run_dir = results / "runs" / plan.uses[0].trial.id
    run_dir.mkdir(parents=True)
    now = time.time()
    events = [
        {"event": "started", "time": now - 60, "epochs": 240},
        {
            "event": "epoch",
            "time": now - 20,
            "epoch": 1,
            "epoch_seconds": 40.0,
            "test_loss": 2.0,
            "test_top1_error": 45.25,
        },
    ]
    (run_dir / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    note = {"time": now, "epoch": 2, "step": 195, "steps": 391, "loss": 1.75, "step_seconds": 0.1}
    (run_dir / journal.POSITION).write_text(json.dumps(note))
    return plan, run_dir


def test_bars_and_the_line_a_minute_tell_of_the_epoch_at_80_columns(running):
    plan, run_dir = running
    use = plan.uses[0]
    watcher = ProgressWatcher({run_dir: use.label, run_dir / "other": "other"}, {run_dir: 240})
    watcher.on_start(run_dir)
    watcher.began -= 60
    watcher.tick()
    console = Console(file=io.StringIO(), width=80)
    console.print(watcher.bars.get_renderable())
    head, every, one = console.file.getvalue().splitlines()
    assert head.split() == ["epoch", "step", "loss", "test", "left"]
    assert every.split()[0] == "trials"
    assert " 0/2 " in every
    for part in ("small · Baseline", "2/240", "195/391", "1.750", "45.25 %", "2 h 39 min"):
        assert part in one
    assert watcher.plain_line() == (
        "[1 min] 0 of 2 trials finished; running: small · Baseline · seed 0: epoch 2/240, "
        "step 195/391, loss 1.750, test 45.25 %, 2 h 39 min left"
    )


def test_status_shows_it_too_where_there_is_room(running, results, monkeypatch):
    plan, run_dir = running
    with RunDir(run_dir).lease():
        rows = status.rows_of(plan, StatusReader(results / "runs", lambda name: None))
    head, line, *_ = status.lines(rows)
    assert " ".join(head.split()) == ("spec row seed trial state epoch left step loss test where")
    assert "195/391  1.750  45.25" in line
    found = json.loads(status.to_json(rows))["trials"][0]
    assert (found["step"], found["steps"], found["loss"]) == (195, 391, 1.75)
    assert found["tested"] == ["top1_error", 45.25]
    assert status._table(rows, 80)[0] == status._HEADER[:7] + status._HEADER[10:]


def test_the_time_left_is_known_before_the_first_epoch_is_over(running):
    _, run_dir = running
    kept = run_dir / "journal.jsonl"
    kept.write_text(kept.read_text().splitlines()[0] + "\n")
    note = json.loads((run_dir / journal.POSITION).read_text())
    (run_dir / journal.POSITION).write_text(json.dumps({**note, "epoch": 1}))
    with RunDir(run_dir).lease():
        reader = StatusReader(run_dir.parent, lambda name: None)
        (now,) = reader.statuses({run_dir: 240}).values()
    assert now.seconds_left == pytest.approx((239 * 391 + 196) * 0.1, abs=30)


def test_what_a_worker_before_left_is_not_shown(running):
    _, run_dir = running
    with (run_dir / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"event": "resumed", "time": time.time() + 5, "epoch": 2}) + "\n")
    events, _ = RunDir(run_dir).events()
    assert journal.within(journal.position_of(run_dir), events) is None
    (run_dir / journal.POSITION).write_text("{cut")
    assert journal.position_of(run_dir) is None
