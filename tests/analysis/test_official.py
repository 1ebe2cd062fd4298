"""The authors' logs: read as they are written, joined to the cells that they speak for."""

import lzma
import random

import pytest

from analysis import import_official
from analysis.collect import collect, collect_views
from analysis.paths import ROOT
from analysis.records import official
from analysis.tables import to_csv, to_markdown
from launch.spec.load import load_spec
from tests.support.analysis.samples import fake_records, grid_spec, rows_spec

RELEASED = ROOT.parent / "shared" / "data" / "official_logs"
NO_RECORDS = fake_records(rows_spec())[:0]


def released_form(curve, best=(0.0, 0.0)):
    """Lines as the authors' code prints them: (epoch, top-1, top-5) in fractions."""
    stamp = "2021-12-09 13:16:30,986 - INFO -"
    for epoch, top1, top5 in curve:
        best = (top1, top5) if top1 >= best[0] else best
        yield (
            f"{stamp} Epoch [{epoch}/300][700/782]\tlr 0.041667\tLoss 1.4649 (1.9105)\t"
            f"Acc@1 0.5469 (0.3611)\tAcc@5 0.8906 (0.8477)"
        )
        yield f"{stamp} Epoch(val) [{epoch}/300][0/157]\tAcc@1 0.5312 (0.5312)"
        yield (
            f"{stamp} Epoch(val) [{epoch}]\tTest Acc@1: {top1:.4f}\tTest Acc@5: {top5:.4f}\t"
            f"Best Acc@1: {best[0]:.4f}\tBest Acc@5: {best[1]:.4f}\t"
            f"Copypaste: {best[0]:.4f}, {best[1]:.4f}"
        )
        yield f"{stamp} Exp path: ./logs/cifar10/cifar10_e300_pyramidnet_200_240"


@pytest.fixture
def log(tmp_path):
    """Epoch 3 was written twice, as after a resumption."""
    draw = random.Random(0)
    curve = [
        (epoch, top1, round(0.95 + draw.random() / 25, 4))
        for epoch, top1 in [(1, 0.4911), (2, 0.65), (3, 0.6), (3, 0.805), (4, 0.7925)]
    ]
    path = tmp_path / "mine.log"
    path.write_text("\n".join(released_form(curve)) + "\n")
    return path


def test_a_released_log_in_its_own_form_replaces_the_committed_one(tmp_path, monkeypatch, capsys):
    """The names and the numbers are the released ones: top-5 is that of the best top-1's epoch."""
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
    committed = official.load_official()
    for run in committed:
        top1, top5 = (run.curve(f"top{k}_accuracy") for k in (1, 5))
        curve = [(epoch, top1[epoch] / 100, top5[epoch] / 100) for epoch in top1]
        path = tmp_path / f"log_{run.name}.log.xz"
        path.write_bytes(lzma.compress("\n".join(released_form(curve)).encode()))
        assert import_official.main([str(path)]) == 0
    told = capsys.readouterr().out
    assert "top1_error best 20.80, last 20.89; top5_error best 5.42" in told
    for best, last in ((2.40, 2.68), (2.38, 2.51), (2.28, 2.58)):
        assert f"top1_error best {best:.2f}, last {last:.2f}" in told
    again = official.load_official(tmp_path / "results" / "official")
    assert [run.name for run in again] == [run.name for run in committed]
    for new, old in zip(again, committed, strict=True):
        for metric, curve in old.curves.items():
            assert new.curves[metric] == pytest.approx(curve, abs=1e-3)


def test_the_unit_follows_from_the_whole_log(tmp_path):
    """A first epoch below 1 % does not make fractions of a log in percent."""
    path = tmp_path / "x.log"
    path.write_text("Epoch(val) [1]\tTest Acc@1: 0.41\nEpoch(val) [2]\tTest Acc@1: 41.5\n")
    assert official.read_log(path, ("table1", "RM")).curves["top1_error"] == {1: 99.59, 2: 58.5}
    path.write_text("Epoch(val) [1]\tTest Acc@1: 0.41\nEpoch(val) [2]\tTest Acc@1: 0.5\n")
    assert official.read_log(path, ("table1", "RM")).curves["top1_error"] == {1: 59.0, 2: 50.0}


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the released logs are not beside this checkout")
def test_the_released_logs_themselves(tmp_path, monkeypatch):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path))
    files = sorted(map(str, RELEASED.glob("*top1_acc.log.xz")))
    assert len(files) == 4
    assert import_official.main(files) == 0
    for new, old in zip(
        official.load_official(tmp_path / "official"), official.load_official(), strict=True
    ):
        assert new.name == old.name
        for metric, curve in old.curves.items():
            assert new.curves[metric] == pytest.approx(curve, abs=1e-3)


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
