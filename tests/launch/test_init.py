"""`init` and `freeze` in specs: what they resolve to, what the plan makes of them, and every
mistake at its place.
"""

import hashlib
import json
import textwrap

import pytest

from launch.plan import make_plan
from launch.spec.load import SpecError, load_spec

PARENT = """
    title: "Pre-training"
    seeds: [0, 1]
    trial:
      dataset: {name: digits, size: 16, limit: 70, test_limit: 60}
      train: {epochs: 2, batch_size: 16}
      optimizer: {name: sgd, lr: 0.05}
      schedule: cosine
    axes:
      backbone: {Small: {name: resnet8, width: 8}, Large: {name: resnet8, width: 16}}
      method: {Baseline: baseline, RM: recursive_mix}
    profiles:
      smoke: {train.epochs: 1, seeds: [3]}
"""
CHILD = """
    title: "Fine-tuning"
    seeds: [0, 1]
    trial:
      dataset: {name: digits, size: 16, limit: 50, test_limit: 60}
      backbone: {name: resnet8, width: 8}
      method: baseline
      train: {epochs: 1, batch_size: 16}
      optimizer: {name: sgd, lr: 0.01}
      schedule: constant
    rows:
      - {row: random}
      - {row: tuned, init: {from: parent, row: "Small · RM"}}
      - {row: linear, init: {from: parent, row: RM}, freeze: backbone}
    profiles:
      smoke: {train.epochs: 1, init.profile: smoke, seeds: [3]}
      shortcut: {init: none, freeze: none}
"""


@pytest.fixture
def write(tmp_path):
    """Write both specs, with replacements in the child; returns its path."""

    def write(parent=PARENT, **replacements):
        (tmp_path / "parent.yaml").write_text(textwrap.dedent(parent).lstrip("\n"))
        text = textwrap.dedent(CHILD).lstrip("\n")
        for old, new in replacements.items():
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "child.yaml"
        path.write_text(text)
        return path

    return write


def mistakes(path, profile=None):
    with pytest.raises(SpecError) as caught:
        load_spec(path, profile)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def cells(path, *words, **options):
    return {cell.labels[-1]: cell for cell in load_spec(path, *words, **options).cells}


def test_a_row_of_another_spec_is_the_trial_of_the_same_seed(write, tmp_path):
    found = cells(write())
    parent = {c.row: c for c in load_spec(tmp_path / "parent.yaml").cells}["Small · RM"]
    assert "init" not in found["random"].trials[0].values
    for seed in (0, 1):
        init = {"trial": parent.trials[seed].id, "part": "backbone", "weights": "last"}
        assert found["tuned"].trials[seed].values["init"] == init
        assert found["linear"].trials[seed].values["init"] == init, "by one label and the backbone"
        assert found["tuned"].trials[seed].parents == (parent.trials[seed].id,)
    assert found["linear"].trials[0].values["freeze"] == "backbone"
    assert [p.trial.id for p in found["tuned"].parents] == [t.id for t in parent.trials]


def test_identity_follows_the_parents_values_and_not_its_labels(write, tmp_path):
    before = [trial.id for trial in load_spec(write()).trials]
    renamed = PARENT.replace("Small:", "Little:").replace("RM:", "Recursive:")
    path = write(
        renamed, **{'"Small · RM"': '"Little · Recursive"', "row: RM}": "row: Recursive}"}
    )
    assert [trial.id for trial in load_spec(path).trials] == before
    changed = [trial.id for trial in load_spec(write(PARENT.replace("0.05", "0.06"))).trials]
    assert changed[:2] == before[:2], "the row without init"
    assert not set(changed[2:]) & set(before)


def test_a_profile_names_the_parents_profile_or_starts_from_nothing(write, tmp_path):
    smoke = cells(write(), "smoke")
    parent = {c.row: c for c in load_spec(tmp_path / "parent.yaml", "smoke").cells}["Small · RM"]
    assert smoke["tuned"].trials[0].parents == (parent.trials[0].id,)
    assert smoke["random"].parents == ()
    assert all(c.trials[0].parents == () for c in cells(write(), "shortcut").values())


def test_a_seed_may_be_fixed_and_is_the_only_one_where_there_is_one(write):
    path = write(**{'"Small · RM"}': '"Small · RM", seed: 1}'})
    assert len({trial.parents for trial in cells(path)["tuned"].trials}) == 1
    one = PARENT.replace("seeds: [0, 1]", "seeds: [7]")
    assert len({trial.parents for trial in cells(write(one))["tuned"].trials}) == 1
    path = write(PARENT.replace("seeds: [0, 1]", "seeds: [0, 5]"))
    assert "12:44: 'Small · RM' has no trial of seed 1; its seeds: 0, 5" in mistakes(path)


def test_a_nested_trial_is_written_as_a_row_is(write):
    nested = "init: {trial: {dataset.limit: 60, method: mixup}, seed: 0}"
    path = write(**{'init: {from: parent, row: "Small · RM"}': nested})
    cell = cells(path)["tuned"]
    assert [len(trial.parents) for trial in cell.trials] == [1, 1]
    (parent,) = cell.parents
    assert (parent.spec, parent.cell.labels) == (None, ("init of tuned",))
    assert parent.trial.values["method"]["name"] == "mixup"
    assert parent.trial.values["dataset"]["limit"] == 60
    assert parent.trial.values["optimizer"] == cell.trials[0].values["optimizer"]
    assert not {"init", "freeze"} & set(parent.trial.values)


def test_a_row_may_start_from_a_row_of_its_own_spec(write):
    path = write(**{'from: parent, row: "Small · RM"': "from: child, row: random"})
    found = cells(path)
    assert found["tuned"].trials[1].parents == (found["random"].trials[1].id,)


def test_a_file_counts_by_its_content(write, tmp_path, monkeypatch):
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path / "data"))
    digest = hashlib.sha256(b"weights").hexdigest()

    def path(name, digest=digest):
        init = f"init: {{file: {name}, sha256: '{digest}'}}"
        return write(**{'init: {from: parent, row: "Small · RM"}': init})

    ids = [trial.id for trial in cells(path("a.pth"))["tuned"].trials]
    assert [trial.id for trial in cells(path("b.pth"))["tuned"].trials] == ids
    assert [trial.id for trial in cells(path("a.pth", "0" * 64))["tuned"].trials] != ids
    plan = make_plan([load_spec(path("a.pth"))], tmp_path / "runs")
    refused = [use for use in plan.uses if use.state == "refused"]
    assert [use.row for use in refused] == ["tuned", "tuned"]
    assert refused[0].reason == f"init needs the weights {tmp_path}/data/weights/a.pth"
    (tmp_path / "data" / "weights").mkdir(parents=True)
    (tmp_path / "data" / "weights" / "a.pth").write_bytes(b"weights")
    plan = make_plan([load_spec(path("a.pth"))], tmp_path / "runs")
    assert {use.state for use in plan.uses} == {"waiting"}
    assert mistakes(path("a.pth", "0" * 64)) == [
        f"12:46: {tmp_path}/data/weights/a.pth has sha256 {digest}, not {'0' * 64}"
    ]


BACKBONE = "'Large · RM' has backbone 'resnet8' (width 16"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('from: parent, row: "', 'from: parant, row: "', "12:31: no spec 'parant'; did you mean"),
        ("Small · RM", "Small · RN", "12:44: no row 'Small · RN' in parent; did you mean 'Small"),
        ("Small · RM", "Large · RM", f"12:44: {BACKBONE}"),
        (
            'row: "Small · RM"',
            "part: model, row: RM",
            "'RM' matches several rows of parent: Small",
        ),
        (', row: "Small · RM"', "", "12:31: init with 'from' needs 'row'"),
        ('Small · RM"', 'Small · RM", wights: last', "12:58: init with 'from' has no 'wights'"),
        ('Small · RM"', 'Small · RM", weights: first', "init.weights: must be 'last' or 'best'"),
        ('Small · RM"', 'Small · RM", weights: best', "keeps no best weights: set train.keep"),
        ('Small · RM"', 'Small · RM", seed: often', "init.seed must be 'same' or a whole number"),
        ('Small · RM"', 'Small · RM", seed: 9', "has no trial of seed 9; its seeds: 0, 1"),
        ('Small · RM"', 'Small · RM", profile: smok', "no profile 'smok'; did you mean 'smoke'?"),
        ('from: parent, row: "Small · RM"', "file: a.pth", "init with 'file' needs 'sha256'"),
        ('from: parent, row: "Small · RM"', "file: a.pth, sha256: 12ab", "init.sha256: must"),
        (
            'from: parent, row: "Small · RM"',
            "row: x",
            "init has one of 'from' (with 'row'), 'file'",
        ),
        (
            '{from: parent, row: "Small · RM"}',
            "parent",
            "12:24: init must be 'none', or a mapping",
        ),
        (
            'from: parent, row: "Small · RM"',
            "trial: {method: mixap}",
            "unknown method 'mixap'; did",
        ),
        ("freeze: backbone", "freeze: head", "freeze must be backbone or random backbone, found"),
        ("init: {from: parent, row: RM}, freeze", "freeze", "13:27: freeze needs init"),
        (
            'from: parent, row: "Small · RM"',
            "from: child, row: tuned",
            "cycle: row 'tuned' starts",
        ),
        ("row: random}", "row: random, probe: samples}", "metric 'top1_error' goes with no probe"),
    ],
)
def test_mistakes_are_located(write, old, new, expected):
    found = mistakes(write(**{old: new}))
    assert any(expected in line for line in found), found


def test_all_mistakes_come_at_once_with_their_places(write):
    path = write(**{"Small · RM": "Smal · RM", "row: RM}": "row: MR}", "lr: 0.01": "lr: 0"})
    assert [line.partition(" ")[0] for line in mistakes(path)] == ["8:30:", "12:44:", "13:45:"]


def test_specs_that_start_from_each_other_are_a_cycle(write, tmp_path):
    circle = PARENT.replace(
        "schedule: cosine", "schedule: cosine\n      init: {from: child, row: random}"
    )
    path = write(circle)
    line = next(line for line in mistakes(path) if "cycle" in line)
    assert "cycle: child starts from parent starts from child" in line
    assert "parent.yaml:" in line


def test_a_measurement_leaves_no_weights(write):
    parent = PARENT.replace(
        'title: "Pre-training"', 'title: "Probes"\n    metric: {name: samples, select: measured}'
    ).replace("schedule: cosine", "schedule: cosine\n      probe: samples")
    assert any("is a measurement (probe 'samples')" in line for line in mistakes(write(parent)))


def plan(path, runs, **options):
    return make_plan([load_spec(path)], runs, **options)


def leave(runs, trial, *, weights=True, events=("finished",)):
    """A run directory as a training leaves it, made by hand."""
    folder = runs / trial.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(trial.to_json())
    lines = [{"event": event, "time": 0.0, "error": "no", "traceback": ""} for event in events]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if "finished" in events:
        (folder / "result.json").write_text('{"metrics": {}}')
        if weights:
            (folder / "weights.pt").write_bytes(b"")


def test_the_plan_lists_parents_and_runs_them_first(write, tmp_path):
    found = plan(write(), tmp_path / "runs")
    assert [(use.spec.name, use.row) for use in found.unique.values()] == [
        *[("child", row) for row in ("random", "random", "tuned", "tuned", "linear", "linear")],
        *[("parent", "Small · RM")] * 2,
    ]
    order = [use.trial.id for use in found.to_run()]
    assert len(order) == 8
    for use in found.unique.values():
        assert found.parents(use.trial.id) == list(use.trial.parents)
        assert all(order.index(p) < order.index(use.trial.id) for p in use.trial.parents)
    tuned = found.uses[2]
    assert tuned.state == "waiting"
    assert tuned.reason.startswith("starts when parent · Small · RM · seed 0 (")
    rows = json.loads(found.to_json())["trials"]
    assert rows[2]["parents"] == list(tuned.trial.parents)
    assert "parents" not in rows[0]


def test_where_keeps_the_parents_that_are_needed(write, tmp_path):
    found = plan(write(), tmp_path / "runs", where=["row=tuned"])
    assert [use.spec.name for use in found.uses] == ["child", "child", "parent", "parent"]


def test_what_a_parent_left_decides_what_its_child_can_do(write, tmp_path):
    runs, path = tmp_path / "runs", write(**{"seeds: [0, 1]": "seeds: [0]"})
    parent = cells(path)["tuned"].parents[0].trial

    def tuned():
        return next(use for use in plan(path, runs).uses if use.row == "tuned")

    leave(runs, parent)
    assert (tuned().state, tuned().reason, tuned().can_run) == ("waiting", None, True)
    (runs / parent.id / "weights.pt").unlink()
    assert (tuned().state, tuned().can_run) == ("blocked", False)
    assert "is finished, but its weights are not here" in tuned().reason
    assert "parent.yaml --force` trains it anew" in tuned().reason
    assert [use.row for use in plan(path, runs).to_run()] == ["random"]
    assert plan(path, runs).refusals()[0].startswith("blocked: parent · Small · RM")
    (runs / parent.id / "result.json").unlink()
    leave(runs, parent, events=("started", "failed"))
    assert (tuned().state, tuned().can_run) == ("blocked", True), "it runs again, then its child"
    assert "which failed" in tuned().reason


def test_a_parent_that_is_a_committed_record_has_no_weights(write, tmp_path, monkeypatch):
    path = write(**{"seeds: [0, 1]": "seeds: [0]"})
    parent = cells(path)["tuned"].parents[0].trial
    monkeypatch.setattr("launch.runs.archive.committed", lambda folder: {parent.id: None})
    found = {use.row: use for use in plan(path, tmp_path / "results" / "runs").uses}
    assert found["Small · RM"].state == "finished"
    assert found["tuned"].state == "blocked"
    assert "--force` trains it anew" in found["tuned"].reason
    assert found["random"].can_run


def test_weights_that_are_kept_are_no_part_of_identity(write):
    before = [trial.id for trial in load_spec(write()).trials]
    keep = PARENT.replace("batch_size: 16}", "batch_size: 16, keep_best: true}")
    assert [trial.id for trial in load_spec(write(keep)).trials] == before
    cell = cells(write(keep, **{'Small · RM"': 'Small · RM", weights: best'}))["tuned"]
    assert cell.trials[0].values["init"]["weights"] == "best"
    assert json.loads(cell.parents[0].trial.to_json())["train"]["keep_best"] is True
