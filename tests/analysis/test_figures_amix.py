"""The second paper's figures: accuracy against time, a metric over two settings, cells as points;
what they draw, and what they say is not there yet.
"""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import figures
from launch.spec.load import load_spec
from tests.support.analysis.samples import fake_records, grid_spec, rows_spec, texts

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 30


def spec_of(name):
    return load_spec(ROOT / "experiments" / "amix" / f"{name}.yaml")


def finished(spec, skip=()):
    """With values for the selection of the spec's own metric."""
    records = fake_records(spec, skip)
    column = f"{spec.metric.select}_{spec.metric.name.replace('linear_top1', 'top1_error')}"
    column = column.replace("top1_accuracy", "top1_error")
    return records.assign(**{column: 20.0 + records.index})


def curves_of(records, seconds):
    """Every run trains an epoch in so many seconds, and is evaluated at every tenth epoch."""

    def curves(metric):
        step = 1 if metric == "epoch_seconds" else 10
        rows = [
            (run, epoch, seconds(trial) if step == 1 else 50.0 + epoch)
            for run, trial in zip(records["run_id"], records["trial_id"], strict=True)
            for epoch in range(step, EPOCHS + 1, step)
        ]
        return pd.DataFrame(rows, columns=["run_id", "epoch", "value"])

    return curves


def timed(spec, records, seconds, **options):
    return figures.render("training_time", spec, records, curves_of(records, seconds), options)


def slow_cells(spec, label, factor):
    slow = {t.id for cell in spec.cells if cell.labels[-1] == label for t in cell.trials}
    return lambda trial: 60.0 * (factor if trial in slow else 1)


def test_time_is_that_of_all_epochs_until_an_evaluation():
    spec = spec_of("fig5_time")
    figure, data = timed(
        spec, finished(spec), slow_cells(spec, "AMix", 3), **spec.figures[0].options
    )
    amix, vanilla = (data[(data["cell"] == c) & (data["seed"] == 0)] for c in ("AMix", "Vanilla"))
    assert list(amix["epoch"]) == [10, 20, 30]
    assert list(amix["seconds"]) == [1800, 3600, 5400]
    assert list(vanilla["seconds"]) == [600, 1200, 1800]
    assert list(amix["value"]) == [60, 70, 80]
    assert len(data) == 3 * len(spec.trials)
    shown = texts(figure)
    assert "AMix, 3× the time" in shown
    assert "AutoMix, 1× the time" in shown
    assert "minutes of training" in shown
    assert "do not compare" not in shown


def test_times_of_several_devices_are_told_apart():
    spec = spec_of("fig5_time")
    records = finished(spec)
    records.loc[0, "device"] = "cpu (x86_64)"
    figure, _ = timed(spec, records, lambda trial: 1.0)
    assert "trained on NVIDIA H200, cpu (x86_64)" in texts(figure)
    assert "seconds of training" in texts(figure)


def test_a_grid_has_a_panel_a_row_and_nothing_is_drawn_of_nothing():
    spec = grid_spec()
    records = fake_records(spec)
    figure, data = timed(spec, records, lambda trial: 7200.0)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(dict.fromkeys(data["row"]))
    assert "hours of training" in texts(figure)
    figure, data = timed(spec, records[:0], lambda trial: 1.0)
    assert data.empty
    assert "no data yet" in texts(figure)
    with pytest.raises(figures.FigureError, match="no cell is labelled 'Basis'; valid: "):
        timed(spec, records, lambda trial: 1.0, baseline="Basis")


def heated(spec, records, **changes):
    return figures.render("heatmap", spec, records, None, spec.figures[0].options | changes)


def test_fig2c_has_a_field_for_each_pair_of_alphas_of_pre_training():
    spec = spec_of("fig2c")
    gone = spec.cells[7].trials[0].id
    figure, data = heated(spec, finished(spec, (gone,)))
    alphas = [0.2, 0.5, 1.0, 2.0, 4.0]
    assert [(row.y, row.x) for row in data.itertuples()] == [
        (a, b) for a in alphas for b in alphas
    ]
    for row in data.itertuples():
        assert row.cell == f"α {row.y:g} inside, {row.x:g} between"
    assert list(data["n"]) == [int(place != 7) for place in range(25)]
    shown = texts(figure)
    assert f"{data['mean'][0]:.2f}" in shown
    assert "1 of 25 fields have no finished seed yet" in shown
    assert "25 of 25 fields" in texts(heated(spec, finished(spec)[:0])[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": "method.alpha", "y": "method.beta"}, "no cell has method.alpha and method.beta"),
        ({"x": "method.name"}, "valid: keys of two numbers"),
        ({"x": "train.epochs", "y": "seed"}, "two cells have train.epochs = 100.0 and the same"),
    ],
)
def test_what_is_no_field_is_refused(changes, message):
    spec = spec_of("fig2c")
    with pytest.raises(figures.FigureError, match=re.escape(message)):
        heated(spec, finished(spec), **changes)


def test_points_stand_for_cells_seeds_and_the_papers_numbers():
    spec = rows_spec()
    gone = tuple(trial.id for trial in spec.cells[3].trials)
    spec = replace(
        spec, cells=tuple(replace(cell, published=7.0 + i) for i, cell in enumerate(spec.cells))
    )
    figure, data = figures.render("means", spec, fake_records(spec, gone), None, {})
    assert list(dict.fromkeys(data["cell"])) == [cell.row for cell in spec.cells]
    assert list(data.groupby("cell", sort=False)["value"].count()) == [3, 3, 3, 0, 3]
    one = data[data["cell"] == spec.cells[0].row]
    assert one["mean"].iloc[0] == pytest.approx(one["value"].mean())
    shown = texts(figure)
    assert f"no finished seed yet: {spec.cells[3].row}" in shown
    assert "published" in shown
    assert "mean ± standard deviation" in shown


def test_fig2b_is_drawn_from_its_spec():
    spec = spec_of("fig2b")
    figure, data = figures.render("means", spec, finished(spec), None, {})
    assert len(data) == 9
    assert "MixUp, same view" in texts(figure)
    assert "published" not in texts(figure), "it prints no numbers"


def test_the_alphas_of_fig5_share_table_3s_trials():
    spec, table = spec_of("fig5_alpha"), spec_of("table3_tiny_resnet18")
    assert len({t.id for t in spec.trials} & {t.id for t in table.trials}) == 6
    options = spec.figures[0].options
    figure, data = figures.render("sweep", spec, finished(spec), None, options)
    assert list(data["x"].dropna()) == [0.2, 0.5, 1, 2, 4]
    assert "MixUp, mean" in texts(figure)
