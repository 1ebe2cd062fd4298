"""`--deadline` on every backend that stays: a checkpoint in time, exit status 75, and the rest
afterwards.
"""

import time

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec

ENDLESS = {"epochs: 2": "epochs: 100000"}
MINUTES = (0.5, 1.5, 5, 15)
"""The first in which this machine, however busy, begins a trial."""


def test_all_have_stopped_before_the_deadline_with_checkpoints(backend, write_spec):
    """Of four trials for two workers the last two never start, as the first two never end."""
    path = write_spec(**ENDLESS)
    for minutes in MINUTES:
        began = time.time()
        code, _, err = backend.run(path, "--workers", 2, "--deadline", minutes)
        assert code == 75, err
        assert "the time is up; nothing is lost: the same command resumes from here" in err
        if list((backend.results / "runs").glob("*/journal.jsonl")):
            break
    run_dirs = [RunDir(backend.results / "runs" / one.id) for one in load_spec(path).trials]
    begun = [run_dir for run_dir in run_dirs if run_dir.has("journal.jsonl")]
    assert 1 <= len(begun) <= 2
    for run_dir in begun:
        assert run_dir.last_event()["event"] == "interrupted"
        assert run_dir.last_event()["time"] < began + 60 * minutes + 5
        assert run_dir.has("checkpoint.pt")
