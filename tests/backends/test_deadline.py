"""`--deadline` on every backend that stays: a checkpoint in time, exit status 75, and the rest
afterwards.
"""

import time

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec

ENDLESS = {"epochs: 2": "epochs: 100000"}
MINUTES = 1.0


def test_all_have_stopped_before_the_deadline_with_checkpoints(backend, write_spec):
    """Of four trials for two workers the last two never start, as the first two never end."""
    path = write_spec(**ENDLESS)
    began = time.time()
    code, _, err = backend.run(path, "--workers", 2, "--deadline", MINUTES)
    assert code == 75, err
    assert "the time is up; nothing is lost: the same command resumes from here" in err
    events = [backend.events(trial.id) for trial in load_spec(path).trials]
    assert 1 <= sum(map(bool, events)) <= 2
    for trial in load_spec(path).trials:
        run_dir = RunDir(backend.results / "runs" / trial.id)
        if run_dir.has("journal.jsonl"):
            assert run_dir.last_event()["event"] == "interrupted"
            assert run_dir.last_event()["time"] < began + 60 * MINUTES + 5
            assert run_dir.has("checkpoint.pt")
