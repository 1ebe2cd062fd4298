"""The authors' logs: read as they are written, joined to the cells that they speak for."""

import random

import pytest

from analysis import import_official
from analysis.collect import collect, collect_views
from analysis.paths import ROOT
from analysis.records import official
from analysis.tables import to_csv, to_markdown
from launch.spec.load import load_spec
from tests.support.analysis.samples import fake_records, grid_spec, rows_spec

NO_RECORDS = fake_records(rows_spec())[:0]


@pytest.fixture
def log(tmp_path):
    """A log in the words of the authors' code; epoch 3 was written twice, as after a
    resumption.
    """
    draw = random.Random(0)
    lines = ["2022-03-01 00:00:01,1 - INFO - Epoch(train) [1][100/782]\tLoss: 1.9105"]
    for epoch, top1 in [(1, 49.11), (2, 65.0), (3, 60.0), (3, 80.5), (4, 79.25)]:
        lines.append(
            f"2022-03-01 00:00:01,1 - INFO - Epoch(val) [{epoch}]\tTest Acc@1: {top1:.4f}\tTest "
            f"Acc@5: {95 + draw.random():.4f}"
        )
    path = tmp_path / "mine.log"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_table_1s_cell_is_the_mean_of_the_three_released_logs():
    spec = load_spec(ROOT / "experiments" / "table1.yaml")
    table = collect(spec, NO_RECORDS, official.by_trial(official.load_official(), [spec]))
    (cell,) = [cell for cell in table.cells if cell.official]
    assert (cell.labels, cell.published) == (("RM",), 2.35)
    assert [round(cell.authors[name].mean, 2) for name in ("best", "last")] == [2.35, 2.59]
    assert sorted(run.finals("top1_error")["best"] for run in cell.official) == [2.28, 2.38, 2.40]
    assert (cell.ours, cell.verdict.word) == (None, "missing")  # theirs are not ours
    assert "authors' logs: 2.35 best epoch, 2.59 last epoch" in to_markdown(table)
    assert ",3.0,2.35" in to_csv(table)


def test_a_log_speaks_for_the_same_trial_in_every_spec():
    spec = load_spec(ROOT / "experiments" / "fig4.yaml")
    table = collect(spec, NO_RECORDS, official.by_trial(official.load_official(), [spec]))
    assert [cell.labels for cell in table.cells if cell.official] == [
        ("CIFAR-10, PyramidNet-200", "α=0.5")
    ]


def test_imagenets_log_stands_in_table_5():
    spec = load_spec(ROOT / "experiments" / "table5.yaml")
    first, _ = collect_views(spec, NO_RECORDS, official.by_trial(official.load_official(), [spec]))
    (cell,) = [cell for cell in first.cells if cell.official]
    assert (cell.labels, cell.published) == (("ResNet-50", "+ RM (ours)"), 20.80)
    assert (round(cell.authors["best"].mean, 2), round(cell.authors["last"].mean, 2)) == (
        20.80,
        20.89,
    )


def test_a_log_is_imported_once_and_stands_beside_ours(log, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
    given = [str(log), "--spec", "table3", "--cell", "ResNet-18 · + CutMix"]
    assert import_official.main(given) == import_official.main(given) == 0
    assert "top1_error best 19.50, last 20.75" in capsys.readouterr().out
    spec = load_spec(ROOT / "experiments" / "table3.yaml")
    runs = official.load_official(tmp_path / "results" / "official")
    assert len(runs) == 5
    table = collect(spec, NO_RECORDS, official.by_trial(runs, [spec]))
    (cell,) = [cell for cell in table.cells if cell.official]
    assert cell.official[0].curves["top1_error"] == {1: 50.89, 2: 35.0, 3: 19.5, 4: 20.75}
    assert set(cell.official[0].curves["top5_error"]) == {1, 2, 3, 4}


def test_curves_are_imported_from_a_csv(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
    assert import_official.main([str(official.COMMITTED)]) == 0
    assert capsys.readouterr().out.count("-> table1 · RM") == 3
    assert len(official.load_official(tmp_path / "results" / "official")) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.log"], "nowhere.log: No such file"),
        (["{log}"], "which cell is this? name it with --spec and --cell"),
        (["{log}", "--spec", "table3"], "--spec and --cell belong together"),
        (
            ["{log}", "--spec", "table3", "--cell", "ResNet-18"],
            "no cell 'ResNet-18'; valid: ResNet-18 · Baseline",
        ),
        (["{log}", "--spec", "table33", "--cell", "RM"], "table33.yaml"),
        (
            ["{root}/README.md", "--spec", "table1", "--cell", "RM"],
            "no line 'Epoch(val) [e] Test Acc@1 …'",
        ),
    ],
)
def test_what_cannot_be_imported_says_why_and_nothing_is_written(
    given, message, log, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
    assert import_official.main([part.format(log=log, root=ROOT) for part in given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_an_accuracy_out_of_range_is_named(tmp_path):
    path = tmp_path / "broken.log"
    path.write_text("Epoch(val) [1]\tTest Acc@1: 149.11\n")
    with pytest.raises(official.LogError, match=r"broken.log: .* found 149.11"):
        official.read_log(path, ("table1", "RM"))


def test_a_log_of_a_cell_that_is_gone_speaks_for_nothing():
    runs = [
        official.OfficialRun("a", "no_such_spec", "x", {}),
        official.OfficialRun("b", "table1", "no such cell", {}),
    ]
    assert official.by_trial(runs, [grid_spec()]) == {}
