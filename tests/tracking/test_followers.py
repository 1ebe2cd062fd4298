"""Followers of journals: the real TensorBoard reader, wandb offline, and a real server for the
webhook. Whatever becomes of them, trials train as without.
"""

import json
import random
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from launch import cli
from launch.commands._follow import catch_up
from launch.runs.rundir import RunDir
from launch.tracking.follow import follow
from launch.tracking.followers import load
from tests.support.tracking.journals import FakeRun, grow


def until_the_end(follower, runs):
    return follow(follower, sorted(runs.iterdir()), lambda: False)


def scalars(folder):
    """(tag, step) -> values, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    found = {}
    for tag in reader.Tags()["scalars"]:
        for point in reader.Scalars(tag):
            found.setdefault((tag, point.step), []).append((point.value, point.wall_time))
    return reader, found


@pytest.fixture
def runs(results):
    (results / "runs").mkdir(parents=True)
    return results / "runs"


def event_file(results, run):
    (file,) = (results / "tensorboard").glob(f"* {run.trial_id}/events.out.tfevents.*")
    return file


@pytest.mark.cluster
def test_tensorboards_reader_finds_every_point_once_whatever_was_killed_between(runs, results):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    draw, follower, made = random.Random(4), load("tensorboard"), []
    for _ in range(12):
        grow(made, runs, draw, most=5)
        until_the_end(follower, runs)
        for run in draw.sample(made, min(2, len(made))):
            mark = results / "followed" / "tensorboard" / f"{run.trial_id}.json"
            if mark.exists() and draw.random() < 0.6:  # killed between its file and its mark
                known = json.loads(mark.read_text())
                earlier = {"size": 0, "epoch": 0, "ended": False, "seen": None}
                mark.write_text(json.dumps({**known, **earlier}))
    until_the_end(follower, runs)
    assert until_the_end(follower, runs) == 0
    assert len(made) >= 3
    for run in made:
        reader, found = scalars(event_file(results, run).parent)
        assert all(len(values) == 1 for values in found.values())
        wanted = {(key, step): value for key, step, value in run.points() if key != "epoch"}
        names = {"train_loss": "train/loss", "test_loss": "test/loss", "lr": "run/lr"}
        names["test_top1_error"] = "test/top1_error"
        for (key, step), value in wanted.items():
            tag = names.get(key)
            if tag:
                assert found[tag, step][0][0] == pytest.approx(value)
        assert len(found) == len(wanted)
        (text,) = reader.Tensors("trial")
        assert "recursive_mix" in text.tensor_proto.string_val[0].decode()
        assert reader.Tags()["tensors"] == ["trial"]


def test_a_trial_begun_anew_begins_an_event_file_of_its_own(runs, results):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run, follower = FakeRun(runs, 1), load("tensorboard")
    run.train(3)
    run.finish()
    until_the_end(follower, runs)
    before = event_file(results, run)
    for name in ("journal.jsonl", "result.json"):
        (run.folder / name).unlink()
    again = FakeRun(results / "aside", 1, begun=1_796_000_000.0)
    again.train(2)
    again.folder.joinpath("journal.jsonl").replace(run.folder / "journal.jsonl")
    until_the_end(follower, runs)
    after = event_file(results, run)
    assert before.name != after.name
    _, found = scalars(after.parent)
    assert {step for _, step in found} == {1, 2}


def kept_by_wandb(file):
    """The records of a file of wandb's offline mode: LevelDB's log format, behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@pytest.mark.cluster
def test_wandb_offline_holds_every_epoch_once(runs, results, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, failing = FakeRun(runs, 1), FakeRun(runs, 2)
    follower = load("wandb=of-mine")
    run.train(3)
    failing.train(1)
    until_the_end(follower, runs)
    run.resume(again=2)
    run.train(2)
    run.finish()
    failing.fail()
    until_the_end(follower, runs)
    follower.close()
    assert until_the_end(follower, runs) == 0
    history, projects, summary, codes = {}, set(), {}, {}
    for file in sorted((results / "wandb").glob("offline-run-*/run-*.wandb")):
        trial = file.stem.split("-")[1]
        for record in kept_by_wandb(file):
            if record.HasField("run"):
                projects.add(record.run.project)
            for item in record.summary.update:
                summary[trial, item.key or ".".join(item.nested_key)] = item.value_json
            if record.HasField("exit"):
                codes[trial] = record.exit.exit_code
            if record.HasField("history"):
                row = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                history.setdefault((trial, int(row["_step"])), []).append(row)
    assert projects == {"of-mine"}
    assert {key: len(rows) for key, rows in history.items()} == {
        **{(run.trial_id, step): 1 for step in range(1, 6)},
        (failing.trial_id, 1): 1,
    }
    told = {
        step: float(rows[0]["train_loss"])
        for (trial, step), rows in history.items()
        if trial == run.trial_id
    }
    journalled = {
        e["epoch"]: e["train_loss"]
        for e in RunDir(run.folder).events()[0]
        if e["event"] == "epoch"
    }
    assert told[4] == journalled[4]
    assert told.keys() == journalled.keys()
    assert float(summary[run.trial_id, "best_epoch"]) > 0
    assert "Diverged" in summary[failing.trial_id, "error"]
    assert codes == {run.trial_id: 0, failing.trial_id: 1}


@pytest.fixture
def hook():
    """A real server that keeps what it is sent; `status` is what it answers with."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.headers["Idempotency-Key"], body))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.got = 200, got
    server.address = f"http://127.0.0.1:{server.server_port}/secret-of-mine"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def test_a_webhook_hears_of_each_beginning_and_end_once(runs, hook):
    run, follower = FakeRun(runs, 1), load(f"webhook={hook.address}")
    until_the_end(follower, runs)
    run.train(3)
    until_the_end(follower, runs)
    run.finish()
    failing = FakeRun(runs, 2)
    failing.train(1)
    failing.fail()
    until_the_end(follower, runs)
    assert until_the_end(follower, runs) == 0
    heard = [(body["trial"], body["event"]) for _, body in hook.got]
    assert heard == [
        (run.trial_id, "started"),
        (run.trial_id, "finished"),
        (failing.trial_id, "started"),
        (failing.trial_id, "failed"),
    ]
    assert len({key for key, _ in hook.got}) == 4
    last = hook.got[1][1]
    assert last["last_epoch"]["epoch"] == 3
    assert last["text"].startswith("table3 · ResNet-18 · + RM (ours) · seed 1: finished: best_")
    assert hook.got[-1][1]["error"] == "Diverged: the loss is not finite"


def test_a_webhook_that_refuses_gets_the_rest_later_under_the_same_keys(runs, hook):
    run, follower = FakeRun(runs, 1), load(f"webhook={hook.address}")
    run.train(1)
    run.fail()
    hook.status = 500
    with pytest.raises(OSError, match=r"^127\.0\.0\.1: HTTP Error 500") as refused:
        until_the_end(follower, runs)
    assert "secret" not in str(refused.value)
    hook.status = 200
    until_the_end(follower, runs)
    keys = [key for key, _ in hook.got]
    assert [body["event"] for _, body in hook.got] == ["started", "started", "failed"]
    assert keys[0] == keys[1] != keys[2]


def test_trials_train_as_without_when_a_follower_cannot_be_reached(
    write_spec, results, hook, capfd, monkeypatch
):
    monkeypatch.setenv("RM_TRACKING", "off")  # followers need no MLflow
    spec = write_spec(**{"seeds: [0, 1]": "seeds: [0]"})
    hook.status = 503
    command = ["run", str(spec), "--where", "method=baseline", "--workers", "1"]
    command += ["--follow", f"webhook={hook.address}"]
    assert cli.main(command) == 0
    said = capfd.readouterr().err
    assert "webhook cannot follow (OSError: 127.0.0.1: HTTP Error 503" in said
    assert "training goes on: `python launch/run.py sync --follow webhook` sends the rest" in said
    assert "secret" not in said
    trained = list((results / "runs").iterdir())
    assert {RunDir(run_dir).state() for run_dir in trained} == {"finished"}
    hook.status, hook.got[:] = 200, []
    assert catch_up([load(f"webhook={hook.address}")], trained) == 0
    heard = sorted((body["trial"], body["event"]) for _, body in hook.got)
    assert heard == sorted((d.name, event) for d in trained for event in ("started", "finished"))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("tensorbord", "did you mean 'tensorboard'?"),
        ("webhook", "--follow webhook needs an address: webhook=https://…"),
        ("webhook=ftp://here", "needs an address"),
    ],
)
def test_what_cannot_follow_is_refused_before_anything_is_made(
    write_spec, results, capfd, asked, sentence
):
    for command in (["run", str(write_spec())], ["sync"]):
        assert cli.main([*command, "--follow", asked]) == 2
        assert sentence in capfd.readouterr().err
    assert not results.exists()


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    write_spec, results, capfd, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["run", str(write_spec()), "--follow", "wandb"]) == 2
    said = capfd.readouterr().err
    assert "--follow wandb needs the package wandb, which is not installed: " in said
    assert said.rstrip().endswith(" wandb")
    assert "install" in said
    assert not results.exists()
