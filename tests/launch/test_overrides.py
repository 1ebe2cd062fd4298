"""`--set train.epochs=5`: other trials than the paper's, marked so wherever they show up."""

import pytest

from analysis.collect import collect
from launch import cli
from launch.plan import make_plan
from launch.runs.create import prepare
from launch.runs.rundir import RunDir
from launch.spec.load import SpecError, load_spec
from launch.spec.spec import file_stem, tag_name
from tests.support.analysis.samples import fake_records
from tests.support.trials import ROOT

TABLE3 = ROOT / "experiments" / "table3.yaml"


def test_every_row_has_it_and_a_new_id(write_spec):
    path = write_spec()
    plain, changed = load_spec(path), load_spec(path, overrides=["train.epochs=5"])
    assert {trial.epochs for trial in changed.trials} == {5}
    assert not {t.id for t in plain.trials} & {t.id for t in changed.trials}
    written = load_spec(write_spec(name="five.yaml", **{"epochs: 2": "epochs: 5"}))
    assert [t.id for t in changed.trials] == [t.id for t in written.trials]
    assert (plain.variant, changed.variant) == (None, "train.epochs=5")


def test_an_option_that_one_row_lacks_is_left_out_there(write_spec):
    path = write_spec()
    plain, changed = load_spec(path), load_spec(path, overrides=["method.alpha=0.3"])
    assert changed.cells[0].trials[0].id == plain.cells[0].trials[0].id
    assert changed.cells[1].trials[0].values["method"]["alpha"] == 0.3


def test_it_counts_more_than_a_profile_and_takes_whole_sections(write_spec):
    text = ["train.epochs=7", "schedule={name: step, milestones: [3, 5]}", "optimizer.lr=5e-4"]
    spec = load_spec(write_spec(), "smoke", overrides=text)
    values = spec.trials[0].values
    assert (values["train"]["epochs"], values["schedule"]["milestones"]) == (7, [3, 5])
    assert values["optimizer"]["lr"] == 0.0005
    assert spec.variant == f"smoke, {', '.join(text)}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.epochs=x", "train.epochs: must be a whole number, found 'x'"),
        ("trian.epochs=5", "unknown section 'trian'; did you mean 'train'?"),
        ("train.epoch=5", "train has no option 'epoch'; did you mean 'epochs'?"),
        ("method.alhpa=0.3", "no row has a method with the option 'alhpa'; did you mean 'alpha'?"),
        ("method.alpha=3", "method.alpha: must satisfy 0 < alpha <= 1, found 3"),
        ("backbone=resnet9", "unknown backbone 'resnet9'; did you mean 'resnet8'?"),
        ("train.epochs=", "expected key=value, such as train.epochs=5"),
        ("optimizer={name:", "not valid YAML"),
        ("seeds=[1]", "seeds are chosen by --seeds 0,1,2"),
    ],
)
def test_a_mistake_is_said_of_the_argument(write_spec, text, said):
    with pytest.raises(SpecError) as caught:
        load_spec(write_spec(), overrides=[text])
    assert str(caught.value).splitlines()[0].startswith(f"--set {text}: {said}")


def test_twice_is_a_mistake(write_spec):
    with pytest.raises(SpecError, match=r"--set train.epochs=6: train.epochs is set twice"):
        load_spec(write_spec(), overrides=["train.epochs=5", "train.epochs=6"])


def test_the_plan_and_the_run_directory_say_so(write_spec, results, capsys):
    path = write_spec()
    words = ["plan", str(path), "--where", "method=RM", "--seeds", "0", "train.epochs=5"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "small (train.epochs=5)" in out
    assert "1 trial: 1 waiting; 5 epochs to train" in out
    spec = load_spec(path, seeds=[0], overrides=["train.epochs=5"])
    prepare(make_plan([spec], results / "runs").uses, results / "runs")
    use = RunDir(results / "runs" / spec.trials[0].id).uses[0]
    assert use["profile"] == "train.epochs=5"
    assert use["label"] == "small (train.epochs=5) · Baseline · seed 0"


def test_no_published_cell_counts_them():
    """Not in the paper's own table, whose trials have other ids, and not in one of their own."""
    plain = load_spec(TABLE3)
    changed = load_spec(TABLE3, overrides=["train.epochs=5"])
    records = fake_records(changed)
    assert {cell.verdict.word for cell in collect(plain, records).cells} == {"missing"}
    table = collect(changed, records)
    assert {cell.verdict.word for cell in table.cells} == {"not comparable"}
    assert "Changed by --set train.epochs=5: not this table." in table.banner
    assert table.slug == "table3-train.epochs=5"


def test_any_value_makes_a_name_of_a_file():
    stem = file_stem("table3", "smoke, init.file=/a/b c.pth")
    assert "/" not in stem
    assert stem != file_stem("table3", "smoke, init.file=/a/b_c.pth")
    assert len(file_stem("table3", "x" * 500)) < 120
    assert file_stem("table3", "smoke", None) == "table3-smoke"
    assert tag_name("table3.train.epochs=5") != "table3.train.epochs=5", "MLflow takes no ="


@pytest.mark.parametrize(
    ("option", "value"),
    [("cuda_graph", True), ("deterministic", False), ("sheets", True), ("winograd", True)],
)
def test_an_option_of_speed_alone_leaves_the_trials_as_they_are(write_spec, option, value):
    path = write_spec()
    plain = load_spec(path)
    changed = load_spec(path, overrides=[f"train.{option}={str(value).lower()}"])
    assert [t.id for t in changed.trials] == [t.id for t in plain.trials]
    assert all(t.values["train"][option] is value for t in changed.trials)
    assert not any(option in t.values["train"] for t in plain.trials)


def test_a_method_that_no_graph_can_hold_is_refused_at_its_place(write_spec):
    path = write_spec(
        **{
            "batch_size: 16": "batch_size: 16, cuda_graph: true",
            "Baseline: baseline": "A: dropblock",
        }
    )
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    line = next(n for n, t in enumerate(path.read_text().splitlines(), 1) if "dropblock" in t)
    said = "method 'dropblock' must satisfy not train.cuda_graph: its noise is seeded anew"
    assert f"{path.name}:{line}:8: {said}" in str(caught.value)
