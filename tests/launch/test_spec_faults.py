"""What people write into specs and --where, and must be told at its place."""

import io

import pytest
from rich.console import Console

from launch import cli
from launch.backends import checks
from launch.errors import FilterError
from launch.paths import without_password
from launch.progress import ProgressWatcher
from launch.spec.filters import select
from launch.spec.load import SpecError, load_spec
from tests.support import mutated_specs


def mistakes(path):
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("replace", "expected"),
    [
        ({"seeds: [0, 1]": "seeds: [010]"}, "3:9: '010' is 8 to some and 10 to others; write it"),
        (
            {"axes:\n": "axes:\n  optimizer.lr: [0.1, 0.10]\n"},
            "11:23: axis 'optimizer.lr' has 0.1 already, at line 11",
        ),
        (
            {"axes:\n": "axes:\n  train.batch_size: [16, 16.0]\n"},
            "11:26: axis 'train.batch_size' has 16.0 already",
        ),
        (
            {"  schedule: {name: cosine}\n": "  schedule: &a {name: cosine, more: *a}\n"},
            "9:13: an anchor (&) that holds an alias (*) of itself",
        ),
        ({"seeds: [3]": "seeds: [3, 3]"}, "seeds must not name a seed twice"),
        ({"seeds: [0, 1]": "seeds: " + "[" * 3000}, "cannot be read: nested too deeply"),
        ({"Baseline: baseline": "Base\0line: baseline"}, "12:9: not valid YAML: the character"),
    ],
)
def test_mistakes_are_located(write_spec, replace, expected):
    found = mistakes(write_spec(**replace))
    assert any(expected in line for line in found), found


def test_a_few_lines_of_aliases_cannot_fill_the_memory(write_spec):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    found = mistakes(write_spec(**{"seeds: [0, 1]": "\n".join(lines)}))
    assert found[0].startswith("2:1: more than 1,000,000 values")


def test_a_row_is_labelled_by_text(write_spec):
    text = """
    title: "Rows"
    trial: {dataset: digits, backbone: resnet8, train: {epochs: 1, batch_size: 16},
            optimizer: {name: sgd, lr: 0.1}, schedule: constant, method: mixup}
    rows:
      - {row: 1.0, method.alpha: 1.0}
      -
    """
    assert mistakes(write_spec(text)) == [
        "5:11: a row's label is text, and 1.0 is none: write it in quotes",
        "6:4: every row needs its label: {row: ..., method: ...}",
    ]


def chosen(spec, *where):
    return [
        (cell.row, trial.seed) for _, cell, trials in select([spec], where) for trial in trials
    ]


def test_where_compares_what_yaml_means(write_spec):
    decay = {"lr: 0.05": "lr: 0.05, weight_decay: 5.0e-4"}
    spec = load_spec(write_spec(**decay))
    assert len(chosen(spec)) == 4
    assert chosen(spec, "seed=0") == [("Baseline", 0), ("RM", 0)]
    for same in ("5e-4", "0.0005", "5.0E-4"):
        assert len(chosen(spec, f"optimizer.weight_decay={same}")) == 4
    assert chosen(spec, "method=RM", "seed=1") == [("RM", 1)]
    assert chosen(spec, "method=recursive_mix", "seed=1") == [("RM", 1)]
    assert len(chosen(spec, "dataset.limit=70")) == len(chosen(spec, "optimizer.nesterov=false"))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("optimiser.lr=0.05", "no trial has the key 'optimiser.lr'; did you mean 'optimizer.lr'?"),
        ("optimizer.lr=0.06", "no trial has that value of 'optimizer.lr'; there are 0.05"),
        ("method=RN", "no trial has that value of 'method'; there are Baseline, baseline, RM"),
        (
            "method=recursive_mx",
            "baseline, RM, recursive_mix; did you mean 'recursive_mix'",
        ),
        ("seed=2", "no trial has that value of 'seed'; there are 0, 1"),
    ],
)
def test_a_wrong_key_and_a_wrong_value_are_told_apart(write_spec, where, said):
    with pytest.raises(FilterError) as caught:
        select([load_spec(write_spec())], [where])
    assert said in str(caught.value)


def test_conditions_that_hold_only_apart(write_spec):
    with pytest.raises(FilterError, match="each matches some trials, and none matches all"):
        select([load_spec(write_spec())], ["method=RM", "method=baseline"])


@pytest.mark.cluster
def test_three_hundred_mutated_specs_are_survived():
    """`python -m tests.support.mutated_specs 2000` tries more."""
    assert list(mutated_specs.failures(300)) == []


def test_brackets_in_labels_are_no_markup(write_spec, results, capsys):
    """Neither in the plan, where `[/]` would be a crash, nor in the bars of a run."""
    path = write_spec(
        **{"Baseline: b": '"[ours]": b', "RM: {": '"[/] [red]x": {', '["RM < Baseline"]': "[]"}
    )
    assert cli.main(["plan", str(path)]) == 0
    out = capsys.readouterr().out
    assert "[ours]" in out
    assert "[/] [red]x" in out
    watcher = ProgressWatcher({path: "[/] [red]x"}, {path: 2})
    watcher.on_start(path)
    console = Console(file=io.StringIO(), width=120)
    console.print(watcher.bars.get_renderable())
    assert "[/] [red]x" in console.file.getvalue()


@pytest.mark.usefixtures("tracked")
def test_a_password_is_never_shown(monkeypatch, results):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:9/x?token=t0ken")
    found = checks.tracking()
    assert (found.level, "http://me:***@127.0.0.1:9" in found.finding) == ("wrong", True)
    assert "s3cret" not in found.finding
    assert "t0ken" not in found.finding
    assert without_password("no address: a:b@c") == "no address: a:b@c"


def test_a_mistake_that_several_cells_share_is_one_mistake(write_spec):
    """The second cell that meets it must not go on as if it were well."""
    starts = "  init: {from: small, part: backbone}\n  schedule: {name: cosine}\n"
    path = write_spec(**{"  schedule: {name: cosine}\n": starts, "backbone: {": "backbone: &b {"})
    assert mistakes(path) == ["9:16: init with 'from' needs 'row'"]


def test_what_is_quoted_stays_on_its_line(write_spec):
    path = write_spec(**{"Baseline: baseline": r'Baseline: "cut\nm\u001b[31m\fx"'})
    assert mistakes(path)[0].startswith(r"12:15: unknown method 'cut\nm\x1b[31m\x0cx'")
