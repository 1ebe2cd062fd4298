"""One damaged file makes one trial `damaged`, with file and line; every command goes on."""

import json

import pytest

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support import mutations
from tests.support.commands import run
from tests.support.mutations import said


@pytest.mark.cluster
def test_commands_bear_spoilt_run_directories(tmp_path, monkeypatch):
    found = mutations.run(tmp_path, 60, seed=1)
    assert found.badly == []


def test_one_damaged_trial_is_named_and_the_others_train(write_spec, results):
    path = write_spec(**{"epochs: 2": "epochs: 1"})
    first, second, third, fourth = (results / "runs" / t.id for t in load_spec(path).trials)
    for run_dir, text in (
        (first, '{"event": "started", "time": 1.0}\n{"event": "epo\n{"event": "started"}\n'),
        (second, '{"event": "started", "time": 1.0}\nnull\n'),
        (third, ""),
    ):
        run_dir.mkdir(parents=True)
        (run_dir / "journal.jsonl").write_text(text)
    (third / "cancel").touch()  # a full disk left it
    lines = {first: f"{first}/journal.jsonl:2: not JSON", second: f"{second}/journal.jsonl:2: not"}
    code, out, err = run(path, "--workers", "1")
    assert code == 1
    assert "Traceback" not in out + err
    assert all(f"damaged: {line}" in err for line in lines.values())
    assert {d for d in (first, second, third, fourth) if (d / "result.json").exists()} == {
        third,
        fourth,
    }
    code, out = said("status", str(path))
    assert code == 0
    assert "4 trials: 2 finished, 2 damaged" in out
    assert all(line in out for line in lines.values())
    code, out = said("retry", str(path))
    assert code == 1
    assert all(f"damaged: {line}" in out for line in lines.values())
    code, out = said("logs", first.name)
    assert code == 0
    assert f"damaged: {first}/journal.jsonl:2" in out
    assert json.loads(said("logs", first.name, "--json")[1])["damage"].startswith(lines[first])
    code, out = said("cancel", str(path))
    assert (code, out.count("is damaged, and does not start")) == (0, 2)


@pytest.mark.parametrize("content", ["", "{", '{"metrics": {"x": 1', "\0\0"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_an_empty_result_finishes_nothing(tmp_path, content, checkpoint):
    (tmp_path / "result.json").write_text(content)
    if checkpoint:
        (tmp_path / "checkpoint.pt").touch()
    assert RunDir(tmp_path).state() == ("waiting" if checkpoint else "damaged")
    assert (RunDir(tmp_path).damage() or "").startswith("" if checkpoint else str(tmp_path))
