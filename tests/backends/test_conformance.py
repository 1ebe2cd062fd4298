"""One suite for every backend: success, failure, interruption and resume, reuse, concurrency,
threads; equal records.
"""

import json
from itertools import pairwise

import pytest

from launch.runs.rundir import RunDir
from launch.spec.load import load_spec
from tests.support.commands import mlflow_records
from tests.support.rm.imagenet_tree import make_tree

WORKERS = ("--workers", 2)
PICTURES = {
    "{name: digits, size: 16, limit: 70, test_limit: 60}": "{name: imagenet, size: 16}",
    "epochs: 2, batch_size: 16": "epochs: 6, batch_size: 4",
    "[0, 1]": "[0]",
    "    Baseline: baseline\n": "",
    'claims: ["RM < Baseline"]': "",
}
LONG = {"epochs: 2": "epochs: 12", "[0, 1]": "[0]"}
RECIPES = {
    "method:\n": "recipe:\n",
    "Baseline: "
    "baseline": "Baseline: {method: baseline}\n    Wild: {method: mixup, optimizer.lr: 1.0e+30}",
    "RM: {name: recursive_mix, alpha: 0.5, omega: "
    "0.5}": "RM: {method: recursive_mix}\n    Broken: {method: cutmix}",
    "[0, 1]": "[0]",
}
TIMINGS = {"epoch_seconds", "images_per_second", "train_seconds"}


def states(out):
    return {(trial["row"], trial["seed"]): trial["state"] for trial in json.loads(out)["trials"]}


def comparable(records):
    """Of each MLflow run: parameters, status, name, and its points but the timings; no times."""
    kept = {}
    for trial, (tags, params, points, status, name, *_) in records.items():
        values = {
            key: [(step, value) for step, value, _ in p]
            for key, p in points.items()
            if key not in TIMINGS
        }
        kept[trial] = (
            {key: tags[key] for key in tags if key.startswith("spec.")},
            params,
            values,
            status,
            name,
        )
    return kept


@pytest.mark.usefixtures("tracked")
def test_success_equal_records_and_reuse(backend, reference, write_spec):
    path = write_spec()
    code, out, err = backend.run(path, "--json", *WORKERS)
    assert code == 0, err
    assert set(states(out).values()) == {"finished"}
    expected = reference(path)
    assert backend.numbers() == expected.numbers()
    assert comparable(mlflow_records(backend.results)) == comparable(
        mlflow_records(expected.results)
    )
    code, _, err = backend.run(path, *WORKERS)
    assert code == 0
    assert "all 4 trials were finished already" in err
    for trial in load_spec(path).trials:
        events = backend.events(trial.id)
        assert events.count("started") == events.count("finished") == 1
        assert not (backend.results / "runs" / trial.id / "lease.json").exists()


def test_one_failing_trial_never_stops_the_others(backend, write_spec):
    """A diverging one; one whose trial.json was damaged is written again, and trained."""
    path = write_spec(**RECIPES)
    broken = (
        next(cell for cell in load_spec(path).cells if cell.labels == ("Broken",)).trials[0].id
    )
    folder = backend.results / "runs" / broken
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text("{ not json", encoding="utf-8")
    code, out, err = backend.run(path, "--json", *WORKERS)
    assert code == 1, err
    found = states(out)
    assert found.pop(("Wild", 0)) == "failed"
    assert set(found) == {("Baseline", 0), ("Broken", 0), ("RM", 0)}
    assert set(found.values()) == {"finished"}
    assert "the loss is not finite at step" in err
    assert "1 failed" in err


def test_interrupted_and_resumed_trials_end_with_the_same_numbers(backend, reference, write_spec):
    path = write_spec(**LONG)
    process = backend.start(path, *WORKERS)
    code, err = backend.interrupt(process, backend.freeze(process, trials=2))
    assert code == 130, err
    assert "the same command resumes from here" in err
    assert not backend.leased()
    assert {backend.events(trial.id)[-1] for trial in load_spec(path).trials} == {"interrupted"}
    code, _, err = backend.run(path, *WORKERS)
    assert code == 0, err
    for trial in load_spec(path).trials:
        assert backend.events(trial.id).count("started") == 1
        assert backend.events(trial.id).count("resumed") == 1
    assert backend.numbers() == reference(path).numbers()


def test_pictures_read_by_processes_of_their_own(backend, reference, write_spec, tmp_path):
    """A worker that waits for orders in one thread forks readers from another, is stopped while
    they read, and goes on.
    """
    make_tree(tmp_path / "data" / "imagenet")
    data = {"RM_DATA_DIR": str(tmp_path / "data"), "RM_LOADER_WORKERS": "2"}
    path = write_spec(**PICTURES)
    process = backend.start(path, *WORKERS, environment=data)
    code, err = backend.interrupt(process, backend.freeze(process, trials=1))
    assert code == 130, err
    code, _, err = backend.run(path, *WORKERS, environment=data)
    assert code == 0, err
    assert any("resumed" in backend.events(trial) for trial in backend.numbers())
    assert backend.numbers() == reference(path, data).numbers()


def test_what_one_backend_began_another_one_ends(backend, undisturbed, write_spec):
    path = write_spec(**LONG)
    process = undisturbed.start(path, *WORKERS)
    undisturbed.interrupt(process, undisturbed.freeze(process, trials=2))
    began = {trial: undisturbed.events(trial) for trial in undisturbed.numbers()}
    backend.results = undisturbed.results
    code, _, err = backend.run(path, *WORKERS)
    assert code == 0, err
    after = {trial: backend.events(trial) for trial in began}
    assert all(after[trial][: len(events)] == events for trial, events in began.items())
    assert all("resumed" in events and events[-1] == "finished" for events in after.values())


def test_no_more_trials_at_a_time_than_workers_and_no_more_threads_than_cores(backend, write_spec):
    """With one worker nothing overlaps, and it has all the cores; with two, each has its share."""
    path = write_spec()
    code, _, err = backend.run(path, "--workers", 1, "--where", "method=Baseline")
    assert code == 0, err
    code, _, err = backend.run(path, *WORKERS, "--where", "method=RM")
    assert code == 0, err
    spans, threads = {1: [], 2: []}, {1: set(), 2: set()}
    for cell in load_spec(path).cells:
        workers = 1 if cell.labels == ("Baseline",) else 2
        for trial in cell.trials:
            events, _ = RunDir(backend.results / "runs" / trial.id).events()
            spans[workers].append((events[0]["time"], events[-1]["time"]))
            threads[workers] |= {(events[0]["threads"], events[0]["device"])}
    assert all(ended <= began for (_, ended), (began, _) in pairwise(sorted(spans[1])))
    cores = backend.cores()
    assert threads == {1: {(cores, "cpu")}, 2: {(max(1, cores // 2), "cpu")}}
