"""The check of a simulated campaign: what a kill may leave, and what is a loss."""

import json

import pytest

from benchmarks.campaign_check import check_whole

WHOLE = ["started 0", "checkpoint 1", "resumed 1", "checkpoint 2", "finished 2"]


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "0123456789ab"
    folder.mkdir()
    (folder / "trial.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps({"id": folder.name, "metrics": {}}))

    def write(lines):
        events = [dict(zip(("event", "step"), line.split(), strict=True)) for line in lines]
        (folder / "journal.jsonl").write_text(
            "".join(
                json.dumps({**e, "step": int(e["step"]), "time": float(n), "device": "0"}) + "\n"
                for n, e in enumerate(events)
            )
        )
        return folder

    return write


@pytest.mark.parametrize("lines", [WHOLE, WHOLE[:-1]], ids=["whole", "killed after its result"])
def test_nothing_is_lost(run_dir, lines):
    check_whole({run_dir(lines): 2})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["started 0", "checkpoint 2", "finished 2"], "tick 2 where 1 was to come"),
        ([WHOLE[0], WHOLE[1], WHOLE[4]], "finished after 1 of 2 ticks"),
        ([*WHOLE[:4], "checkpoint 2", "finished 2"], "tick 2 where 3 was to come"),
        ([WHOLE[0], *WHOLE], "started 2 times"),
        ([*WHOLE, WHOLE[-1]], "ended 2 times"),
    ],
)
def test_a_loss_is_named(run_dir, lines, said):
    with pytest.raises(SystemExit, match=said):
        check_whole({run_dir(lines): 2})


def test_so_is_what_never_ended(run_dir):
    folder = run_dir(WHOLE[:2])
    (folder / "result.json").unlink()
    with pytest.raises(SystemExit, match="not finished; its journal ends with checkpoint"):
        check_whole({folder: 2})
