"""The figures of sweeps in panels, of measurements, and of images: what they draw, and what they
say is not there yet.
"""

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.collect import collect
from analysis.figures import MUTED
from analysis.figures.learning_curves import official
from analysis.figures.samples import masses
from analysis.records.load import COLUMNS
from analysis.tables import to_csv, to_latex, to_markdown
from launch.spec.load import load_spec
from tests.support.analysis.samples import fake_curves, fake_records, texts

ROOT = Path(__file__).resolve().parents[2]


def spec_of(name, profile=None):
    return load_spec(ROOT / "experiments" / f"{name}.yaml", profile)


def drawn(
    spec,
    records,
    curves=lambda metric: pd.DataFrame(columns=["run_id", "epoch", "value"]),
    artifacts=None,
):
    one = spec.figures[0]
    return figures.render(
        one.draw, spec, records, curves, one.options, artifacts or (lambda run_id, name: None)
    )


def measured(spec, values):
    """A finished record for each trial; values(cell, seed) -> {name: number} that its probe
    found.
    """
    rows = []
    for cell in spec.cells:
        for trial in cell.trials:
            row = dict.fromkeys(COLUMNS) | {
                "trial_id": trial.id,
                "seed": trial.seed,
                "status": "FINISHED",
            }
            row |= {"run_id": f"run-{trial.id}"} | {
                f"measured_{k}": v for k, v in values(cell, trial.seed).items()
            }
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", ["fig4", "fig5"])
def test_sweeps_have_a_panel_for_each_data_set(name):
    spec = spec_of(name)
    figure, data = drawn(spec, fake_records(spec))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "CIFAR-10, PyramidNet-200",
        "CIFAR-100, ResNet-18",
    ]
    assert len(data) == len(spec.cells)
    assert list(data.groupby("panel", sort=False)["published"].count()) == [2, 2]
    assert set(data["n"]) == {3}
    assert "no finished seed" not in texts(figure)
    assert "Baseline, published" in texts(figure)


def test_a_sweep_says_panel_by_panel_what_is_missing():
    spec = spec_of("fig4")
    gone = tuple(
        t.id
        for c in spec.cells
        if c.labels == ("CIFAR-10, PyramidNet-200", "α=0.3")
        for t in c.trials
    )
    figure, _ = drawn(spec, fake_records(spec, gone))
    assert "no finished seed yet: CIFAR-10, PyramidNet-200: α = 0.3" in texts(figure)
    figure, data = drawn(spec, fake_records(spec)[:0])
    assert data["n"].sum() == 0
    assert "CIFAR-100, ResNet-18: α = 0.1, 0.2" in texts(figure)


def test_sweep_panels_must_be_named_where_there_are_several():
    spec = spec_of("fig4")
    options = {key: value for key, value in spec.figures[0].options.items() if key != "panels"}
    with pytest.raises(figures.FigureError, match="an axis in `panels`"):
        figures.render("sweep", spec, fake_records(spec), None, options)


CLASSES = {"Baseline": 1.0, "+ Mixup": 2.0, "+ CutMix": 2.0, "+ RM (ours)": 4.4}


def fig7_records(spec):
    return measured(
        spec, lambda cell, seed: {"effective_classes": CLASSES[cell.labels[-1]] + 0.01 * seed}
    )


def fig7_curves(records):
    points = [(run, i, 10.0**-i) for run in records["run_id"] for i in range(1, 6)]
    return lambda metric: pd.DataFrame(
        [(run, i, at if metric == "threshold" else 1 - math.log10(at)) for run, i, at in points],
        columns=["run_id", "epoch", "value"],
    )


def test_fig7_draws_every_method_and_the_papers_number():
    spec = spec_of("fig7")
    records = fig7_records(spec)
    figure, data = drawn(spec, records, fig7_curves(records))
    assert list(dict.fromkeys(data["cell"])) == list(CLASSES)
    assert set(data["n"]) == {3}
    assert "published, with the margin" in texts(figure)
    figure, data = drawn(spec, records[:3], fig7_curves(records[:3]))
    assert "no finished seed yet: + Mixup, + CutMix, + RM (ours)" in texts(figure)


def test_a_measurement_has_a_table_without_epochs():
    spec = spec_of("fig7")
    table = collect(spec, fig7_records(spec))
    assert {cell.labels[-1]: cell.verdict.word for cell in table.cells}[
        "+ RM (ours)"
    ] == "reproduced"
    for text in (to_markdown(table), to_latex(table)):
        assert "epoch" not in text
        assert "percentage points" not in text
    rows = [line for line in to_latex(table).splitlines() if line.endswith(r"\\")]
    columns = re.search(r"tabular}{(\w+)}", to_latex(table))[1]
    assert {line.count(" & ") + 1 for line in rows} == {len(columns)}
    assert "measured" in to_csv(table)


def overhead_records(spec):
    return measured(spec, lambda cell, seed: {"overhead": 0.5, "value": 201.0, "reference": 200.0})


def test_table11_shows_percentages_and_the_numbers_behind_them():
    spec = spec_of("table11")
    figure, data = drawn(spec, overhead_records(spec))
    printed = [cell for cell in spec.cells if cell.published is not None]
    assert (len(data), len(data.dropna())) == (len(spec.cells), len(printed))
    assert set(data["reference"]) == {200.0}
    assert "201 MiB" in texts(figure)
    assert "paper 5,887 MB" in texts(figure)
    figure, _ = drawn(spec, overhead_records(spec)[:0])
    assert "nothing has been measured yet" in texts(figure)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"published": {"Weight": [1]}}, "published: no quantity 'Weight'"),
        ({"units": {"Tim": ["s", "h"]}}, "units: no quantity 'Tim'"),
        ({"published": {"Time": [1, 2]}}, "'Time' has 2 numbers for 4 methods"),
    ],
)
def test_table11_with_wrong_options(options, message):
    spec = spec_of("table11")
    with pytest.raises(figures.FigureError, match=re.escape(message)):
        figures.render("overhead", spec, overhead_records(spec), None, options)


def picture(seed, side=6, count=4):
    """Two rows of real-sized noise as PNG, as the probe keeps them."""
    pixels = np.random.default_rng(seed).random((2 * side, count * side, 3))
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    return buffer.getvalue()


def test_samples_show_every_method_and_follow_the_recursion():
    spec = spec_of("samples")
    records = measured(spec, lambda cell, seed: {"samples": 12.5})
    steps = {f"step{step}.png": picture(step) for step in (1, 2, 3)}
    areas = pd.DataFrame(
        [(run, i, 0.25) for run in records["run_id"] for i in (1, 2, 3)],
        columns=["run_id", "epoch", "value"],
    )
    figure, data = drawn(spec, records, lambda metric: areas, lambda run_id, name: steps.get(name))
    images = [image for part in figure.subfigs for axes in part.axes for image in axes.images]
    assert len(images) == 4 * len(spec.cells) + 2 * 2 * 3, (
        "each method's batch, and two places followed over three iterations"
    )
    first = matplotlib.image.imread(io.BytesIO(steps["step3.png"]))[6:, :6, :3]
    assert np.array_equal(figure.subfigs[0].axes[0].images[0].get_array(), first)
    assert list(data.columns) == ["cell", "iteration", "changed", "area"]
    assert "RecursiveMix over 3 iterations" in texts(figure)

    figure, _ = drawn(spec, records[:0], lambda metric: areas[:0])
    assert "no finished run yet: Input, Mixup, CutMix, ResizeMix, RecursiveMix" in texts(figure)
    with pytest.raises(figures.FigureError, match="recursion: no row 'RM'"):
        figures.render("samples", spec, records, lambda metric: areas, {"recursion": "RM"})


def test_activation_maps_show_each_picture_and_a_map_a_class():
    spec = spec_of("fig6")
    records = measured(spec, lambda cell, seed: {"cam": 40.0})
    strips = {f"cam{n}.png": picture(n, side=3, count=2 * k) for n, k in ((1, 3), (2, 2))}
    points = [(1, 1, 659, 30.0), (2, 1, 950, 70.0), (3, 2, 817, 50.0)]
    values = {"picture": 1, "class": 2, "share": 3}

    def curves(metric):
        rows = [(run, p[0], p[values[metric]]) for run in records["run_id"] for p in points]
        return pd.DataFrame(rows, columns=["run_id", "epoch", "value"])

    figure, data = drawn(spec, records, curves, lambda run_id, name: strips.get(name))
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == len(spec.cells) * (3 + 2), "of each picture itself and its maps"
    assert images[0].get_array().shape == (6, 6, 3)
    assert list(data.columns) == ["cell", "picture", "class", "share"]
    assert data["share"].tolist() == [30.0, 70.0, 50.0] * len(spec.cells)
    for text in ("30%", "70%", "50%", "Baseline", "+ RM (ours)"):
        assert text in texts(figure)
    figure, _ = drawn(spec, records[:0], lambda metric: curves(metric)[:0])
    assert "no finished run yet: Baseline" in texts(figure)


def test_label_masses_are_eq_2():
    assert masses([0.0, 0.25, 0.5]) == [[1.0], [0.25, 0.75], [0.125, 0.375, 0.5]]
    assert all(sum(step) == pytest.approx(1) for step in masses([0.0, 0.3, 0.1, 0.45]))


def test_a_picture_comes_back_from_a_real_store(tmp_path):
    from mlflow import MlflowClient

    from analysis.records.load import load_artifact

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    run = client.create_run(
        client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    ).info.run_id
    (tmp_path / "step1.png").write_bytes(picture(1))
    client.log_artifact(run, str(tmp_path / "step1.png"))
    assert load_artifact(run, "step1.png", uri) == picture(1)
    assert load_artifact(run, "step2.png", uri) is None


def test_reduced_copies_of_measurements_are_not_compared():
    spec = replace(spec_of("fig7", "smoke"))
    table = collect(spec, fig7_records(spec))
    assert {cell.verdict.word for cell in table.cells} == {"not comparable"}


def learning_curves(spec, records):
    fake = fake_curves(records, 300)
    return figures.render("learning_curves", spec, records, lambda metric: fake, {})


def test_the_authors_logs_are_behind_the_learning_curves_of_their_cells():
    spec = spec_of("table1")
    records = fake_records(spec)
    figure, data = learning_curves(spec, records)
    assert "the authors' released logs of RM (3)" in texts(figure)
    logs = official(spec, "test_top1_error")
    assert logs.groupby("log")["epoch"].count().tolist() == [300, 300, 300]
    assert sorted(logs.groupby("log")["value"].min()) == [2.28, 2.38, 2.4]
    drawn_lines = [line for line in figure.axes[0].lines if line.get_color() == MUTED]
    assert len(drawn_lines) == 3
    assert len(data) == len(spec.trials) * 300, "they are not among our numbers"


def test_other_tables_and_smaller_copies_have_no_logs():
    assert not len(official(spec_of("table3"), "test_top1_error"))
    assert not len(official(spec_of("table1", "smoke"), "test_top1_error"))
    logs = official(spec_of("fig4"), "test_top1_error")
    assert set(logs["row"]) == {"CIFAR-10, PyramidNet-200"}, "the same trial is in Fig. 4"
    assert set(logs["cell"]) == {"α=0.5"}
