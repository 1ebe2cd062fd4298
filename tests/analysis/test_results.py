"""What tables keep and say of records beyond the ordinary: other heads, absent medians, former
numerics, trials that start from others, claims of larger numbers and of amounts.
"""

import json
import shutil
from dataclasses import replace

import pytest

from analysis import claims, tables
from analysis.collect import collect
from analysis.page.provenance import provenance
from analysis.page.view import View
from analysis.records.former import as_of_today, former_ids
from analysis.records.load import load_curves, load_records
from launch.spec.load import Claim, TableMetric, load_spec
from launch.spec.trial import Trial, trial_id
from rm.metrics import Metric
from tests.support.analysis.samples import fake_records, grid_spec, rows_spec
from tests.support.trials import ROOT

AUXILIARY = "top1_error.auxiliary"


def test_the_error_of_another_head_is_a_metric_of_its_own():
    spec = replace(rows_spec(), metric=TableMetric(AUXILIARY, "last"), claims=())
    records = fake_records(spec)
    for selection in ("best", "last"):
        records[f"{selection}_{AUXILIARY}"] = records[f"{selection}_top1_error"] + 1
    table, primary = collect(spec, records), collect(rows_spec(), records)
    assert table.metric.title == "top-1 error (auxiliary) (%)"
    assert table.cells[0].ours.mean == pytest.approx(primary.cells[0].ours.mean + 1)
    accuracy = collect(
        replace(spec, metric=TableMetric("top1_accuracy.auxiliary", "last")), records
    )
    assert accuracy.cells[0].ours.mean == pytest.approx(99 - primary.cells[0].ours.mean)


def test_heads_are_columns_of_real_records(store):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("recursivemix").experiment_id
    run = client.create_run(experiment, tags={"trial_id": "two heads", "seed": "0"}).info.run_id
    client.log_metric(run, f"best_{AUXILIARY}", 21.5)
    client.log_metric(run, "last_miou", 40.25)
    client.log_metric(run, "best_epoch", 7)
    client.log_metric(run, "test_top1_error", 30.0, step=3)
    client.set_terminated(run)
    (row,) = load_records(["two heads"], store).to_dict("records")
    assert (row[f"best_{AUXILIARY}"], row["last_miou"], row["best_epoch"]) == (21.5, 40.25, 7)
    curve = load_curves([run], "test_top1_accuracy", store)
    assert list(curve["value"]) == [70.0], "made of the error where it is read"


def test_an_absent_median_is_a_note_and_no_column():
    spec = rows_spec()
    records = fake_records(spec).drop(columns="median_last_10_top1_error")
    assert View(collect(spec, records)).others == ["best"]
    assert "median" not in tables.to_markdown(collect(spec, records))
    own = collect(replace(spec, metric=TableMetric("top1_error", "median_last_10")), records)
    text = tables.to_markdown(own)
    assert own.cells[0].ours is None
    assert "no median for seeds 0, 1, 2: fewer than ten evaluated epochs" in text
    assert "no seed has finished" not in text


def test_a_record_of_former_numerics_stands_in_marked_until_trained_again(monkeypatch):
    monkeypatch.setattr("rm.NUMERICS", 1)
    spec = rows_spec()
    trials = {trial.id: trial.values for trial in spec.trials}
    monkeypatch.setattr("rm.NUMERICS", 3)
    raised = replace(
        spec,
        cells=tuple(
            replace(cell, trials=tuple(Trial(one.values) for one in cell.trials))
            for cell in spec.cells
        ),
    )
    today = {trial.id: trial.values for trial in raised.trials}
    assert not set(today) & set(trials)
    former = former_ids(today)
    first = raised.cells[0].trials[0]
    assert former[trial_id(first.values, 2)] == (first.id, 2)
    rows = {row["trial_id"]: row for row in fake_records(spec).to_dict("records")}
    newer = {**rows[trial_id(first.values, 1)], "last_top1_error": 99.0}
    rows[trial_id(first.values, 2)] = newer
    rows[raised.cells[1].trials[0].id] = {**newer, "trial_id": raised.cells[1].trials[0].id}
    found = as_of_today(rows, former)
    assert set(found) == set(today)
    assert (found[first.id]["numerics"], found[first.id]["last_top1_error"]) == (2, 99.0)
    from analysis.records.load import to_frame

    table = collect(raised, to_frame(found))
    assert "3 of 3 values are of former numerics (1, 2)" in table.note(table.cells[0])
    assert "2 of 3 values are of former numerics (1)" in table.note(table.cells[1])
    assert View(table).origins["rows--0"] == ["former numerics"]
    assert "former numerics" in tables.to_markdown(table)


def test_committed_records_are_found_under_former_numerics(results, monkeypatch):
    (results / "reproduced").mkdir(parents=True)
    source = ROOT / "results" / "reproduced" / "cifar10_small.jsonl"
    shutil.copy(source, results / "reproduced")
    record = json.loads(source.read_text(encoding="utf-8").splitlines()[0])
    values = {k: v for k, v in record["trial"].items() if k not in ("id", "numerics")}
    monkeypatch.setattr("rm.NUMERICS", record["trial"]["numerics"] + 1)
    trial = Trial(values)
    frame = load_records([trial.id], former=former_ids({trial.id: values}))
    assert list(frame["trial_id"]) == [trial.id]
    assert list(frame["numerics"]) == [record["trial"]["numerics"]]
    assert list(frame["best_top1_error"]) == [record["result"]["metrics"]["best_top1_error"]]


def test_what_trials_start_from_stands_with_their_cell_and_below():
    spec = grid_spec()
    parent = spec.cells[0].trials[0].id
    inits = [
        {"trial": parent, "part": "backbone", "weights": "best"},
        {"file": "resnet50.pth", "sha256": "0" * 64, "part": "backbone"},
    ]
    cells = list(spec.cells)
    for i, init in enumerate(inits, start=1):
        trials = tuple(Trial({**one.values, "init": init}) for one in cells[i].trials)
        cells[i] = replace(cells[i], trials=trials)
    spec = replace(spec, cells=tuple(cells))
    table = collect(spec, fake_records(spec))
    assert [cell.sources for cell in table.cells[:3]] == [
        (),
        (f"trial {parent}, best weights",),
        ("weights resnet50.pth",),
    ]
    assert provenance([table])["sources"] == [
        (f"trial {parent}, best weights (grid · ResNet-18 · Baseline)", 1),
        ("weights resnet50.pth", 1),
    ]


LEFT, RIGHT = {0: 18.0, 1: 18.2, 2: 18.1}, {0: 19.0, 1: 19.3, 2: 19.0}


def test_a_claim_of_the_larger_is_the_claim_of_the_smaller_turned_round():
    smaller = claims.order_test(LEFT, RIGHT)
    larger = claims.order_test(RIGHT, LEFT, ">")
    mirrored = claims.order_test(
        *({seed: 100 - value for seed, value in side.items()} for side in (LEFT, RIGHT)), ">"
    )
    for one in (larger, mirrored):
        assert (one.word, one.n) == (smaller.word, smaller.n)
        assert one.p == pytest.approx(smaller.p)
        assert one.welch_p == pytest.approx(smaller.welch_p)
        assert one.difference == pytest.approx(-smaller.difference)


@pytest.mark.parametrize("sign", ["<", ">"])
def test_a_claim_by_an_amount_is_scipys_test_of_that_mean(sign):
    from scipy import stats

    pair = (LEFT, RIGHT) if sign == "<" else (RIGHT, LEFT)
    differences = [LEFT[seed] - RIGHT[seed] for seed in LEFT]
    for by in (0.5, 1.0, 1.5):
        result = claims.order_test(*pair, sign, by)
        assert result.p == pytest.approx(
            stats.ttest_1samp(differences, -by, alternative="less").pvalue
        )
    assert claims.order_test(*pair, sign, 0.5).word == "holds"
    assert claims.order_test(*pair, sign, 1.0).word == "undecided"
    far = claims.order_test(*pair, sign, 3.0)
    assert (far.word, far.reason) == ("reversed", "in the claimed direction, but by less than 3")


def test_a_claim_is_tested_and_printed_as_it_was_written():
    spec = rows_spec()
    claim = Claim("Baseline > + RM, α=0.5 by 0.1", ("+ RM, α=0.5", "Baseline"), by=0.1, sign=">")
    table = collect(replace(spec, claims=(claim,)), fake_records(spec))
    (test,) = table.claims
    assert test.name == "Baseline > + RM, α=0.5 by 0.1"
    means = {cell.labels[0]: cell.ours.mean for cell in table.cells}
    assert test.result.difference == pytest.approx(means["Baseline"] - means["+ RM, α=0.5"])


def test_units_are_the_metrics_own():
    table = collect(grid_spec(), fake_records(grid_spec()))
    assert "margin ±0.3 percentage points" in tables.to_markdown(table)
    table.__dict__["metric"] = Metric("delay", "delay", "ms", "lower")
    assert "delay (ms), mean" in tables.to_markdown(table)
    assert "margin ±0.3 ms" in tables.to_markdown(table)


def test_a_claim_that_the_papers_own_numbers_contradict_says_so():
    """Table 10b's UperNet: the mean accuracy falls with the consistency loss."""
    spec = load_spec(ROOT / "experiments" / "table10b.yaml")
    records = fake_records(spec)[:0]
    said = {
        (view.metric.name, test.context): test.result.reason
        for view in spec.views
        for test in collect(view, records).claims
        if not test.pooled
    }
    assert "the paper's own numbers contradict it, by 0.18" in said["macc", "UperNet"]
    assert len(said) == 6
    assert sum("contradict" in reason for reason in said.values()) == 1
