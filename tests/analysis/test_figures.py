"""Figures: what they draw, that nothing is dropped silently, and that the same input gives the
same bytes.
"""

import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from analysis import figures
from launch.spec import figures as signatures
from tests.support.analysis.samples import fake_curves, fake_records, grid_spec, rows_spec, texts
from tests.support.trials import ROOT

ALPHA = {"x": "method.alpha", "where": {"method.name": "recursive_mix"}, "baseline": "Baseline"}


def no_curves(metric):
    raise AssertionError(metric)


def sweep(spec, records, **changes):
    return figures.render("sweep", spec, records, no_curves, ALPHA | changes)


def curves(spec, records):
    return figures.render(
        "learning_curves", spec, records, lambda metric: fake_curves(records), {}
    )


def test_every_figure_of_the_folder_has_data_and_draw():
    assert {"learning_curves", "overhead", "probe_curve", "sweep"} <= set(signatures.names())
    for name in signatures.names():
        module = figures.load(name)
        assert callable(module.data)
        assert callable(module.draw)
        assert module.__doc__


def test_a_sweep_orders_its_points_and_keeps_the_baseline_apart():
    spec = rows_spec()
    figure, data = sweep(spec, fake_records(spec))
    assert list(data["x"].dropna()) == [0.1, 0.5, 0.9]
    assert list(data["cell"]) == ["+ RM, α=0.1", "+ RM, α=0.5", "+ RM, α=0.9", "Baseline"]
    assert set(data["n"]) == {3}
    assert "mean ± standard deviation (n = 3)" in texts(figure)
    assert "Baseline, mean ± standard deviation" in texts(figure)


def test_a_missing_point_is_named():
    spec = rows_spec()
    gone = tuple(trial.id for trial in spec.cells[3].trials)
    assert spec.cells[3].labels == ("+ RM, α=0.1",)
    figure, data = sweep(spec, fake_records(spec, gone))
    assert "no finished seed yet: α = 0.1" in texts(figure)
    assert list(data["n"]) == [0, 3, 3, 3]


def test_published_points_are_drawn():
    spec = rows_spec()
    spec = replace(
        spec, cells=tuple(replace(cell, published=7.0 + i) for i, cell in enumerate(spec.cells))
    )
    figure, data = sweep(spec, fake_records(spec))
    assert list(data["published"]) == [10.0, 9.0, 11.0, 7.0]
    assert "published" in texts(figure)


def test_a_section_alone_compares_its_name():
    spec = rows_spec()
    _, data = sweep(spec, fake_records(spec), where={"method": "recursive_mix"})
    assert len(data) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": "method.name"}, "valid: the key of a number"),
        ({"where": {"method.name": "cutmax"}}, "no cell has"),
        ({"where": {"method.omega": 0.1}, "x": "method.omega"}, "two different cells"),
        ({"baseline": "Base"}, "'Baseline'"),
        ({"panels": "dataset"}, "panels: no axis 'dataset'; valid: row"),
        ({"colour": "red"}, "unknown option 'colour'; valid: x, where, baseline, panels"),
    ],
)
def test_a_figure_that_cannot_be_drawn_says_why(changes, message):
    spec = rows_spec()
    with pytest.raises(figures.FigureError, match=re.escape(message)):
        sweep(spec, fake_records(spec), **changes)


def test_an_unknown_figure_is_named():
    with pytest.raises(
        figures.FigureError, match=r"unknown figure 'swoop'; valid: .*learning_curves, .*sweep"
    ):
        figures.load("swoop")


def test_learning_curves_have_a_panel_for_each_row_of_a_grid():
    spec = grid_spec()
    records = fake_records(spec)
    figure, data = curves(spec, records)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "ResNet-18",
        "PyramidNet, α̃=270",
    ]
    assert len(data) == len(spec.trials) * 30
    assert {"Baseline", "+ RM (ours)"} <= set(data["cell"])


def test_learning_curves_draw_what_is_there():
    spec = rows_spec()
    records = fake_records(spec)[:2]
    figure, data = curves(spec, records)
    assert set(data["cell"]) == {"Baseline"}
    assert "epoch" in texts(figure)


def test_learning_curves_begin_at_zero_and_show_a_single_point():
    """Three panels in two rows: the last one of each column has the epochs."""
    spec = grid_spec(seeds=(0,))
    names = ("A", "B", "C", "D")
    cells = [
        replace(cell, labels=(name, cell.labels[1]))
        for name in names
        for cell in spec.cells[:4]
        if name != "D" or cell.labels[1] == "Baseline"
    ]
    spec = replace(spec, cells=tuple(cells))
    records = fake_records(replace(spec, cells=spec.cells[:4]))
    one_point = fake_curves(records, epochs=1).assign(value=0.5)
    figure, _ = figures.render("learning_curves", spec, records, lambda metric: one_point, {})
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert {axes.get_ylim()[0] >= 0 for axes in visible} == {True}
    means = [line for line in visible[0].lines if not line.get_label().startswith("_")]
    assert [line.get_marker() for line in means] == ["o"] * 4
    assert [axes.get_xlabel() for axes in visible] == ["", "epoch", "epoch", "epoch"]


def test_a_panel_without_data_says_so():
    spec = rows_spec()
    figure, _ = curves(spec, fake_records(spec)[:0])
    assert "no data yet" in texts(figure)


def test_a_number_over_a_panel_comes_with_its_axis():
    cells = [
        replace(cell, labels=(str(omega), cell.labels[0]))
        for omega in (0.1, 0.5)
        for cell in rows_spec().cells[2:]
    ]
    spec = replace(rows_spec(), axes=("method.omega", "row"), cells=tuple(cells))
    changes = {"panels": "method.omega", "baseline": None}
    figure, _ = sweep(spec, fake_records(spec), **changes)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ω = 0.1", "ω = 0.5"]


def test_nothing_finished_is_still_a_figure():
    spec = rows_spec()
    figure, _ = sweep(spec, fake_records(spec)[:0])
    assert "α = 0.1, 0.5, 0.9" in texts(figure)


@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_the_same_input_gives_the_same_bytes(kind):
    spec = rows_spec()
    first, second = (
        figures.to_bytes(sweep(spec, fake_records(spec))[0], kind, "alpha") for _ in range(2)
    )
    assert first == second
    assert b"Date" not in first.replace(b"DateTime", b"")


@pytest.mark.cluster
def test_another_process_draws_the_same_bytes(tmp_path):
    """Whatever its hash seed, its own matplotlib settings and what was drawn before."""
    script = (
        "import hashlib; from tests.analysis.test_figures import *; spec, grid = rows_spec(), "
        "grid_spec();"
        "drawn = [sweep(spec, fake_records(spec))[0], curves(grid, fake_records(grid))[0]];"
        "print([hashlib.sha256(figures.to_bytes(f, k, 'a')).hexdigest() for f in drawn for k in "
        "('pdf', 'png', 'svg')])"
    )
    (tmp_path / "matplotlibrc").write_text(
        "xtick.major.size: 20\nfont.size: 30\nlines.antialiased: False\n"
    )
    said = []
    for number in "12":
        env = {**os.environ, "PYTHONHASHSEED": number} | (
            {"MATPLOTLIBRC": str(tmp_path)} if number == "2" else {}
        )
        said.append(
            subprocess.run(
                [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, check=True
            ).stdout
        )
    assert said[0].count(b"', '") == 5
    assert said[0] == said[1]


DICHROMATS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
}
"""What is seen of linear RGB at full severity (Machado, Oliveira and Fernandes, 2009)."""


@pytest.mark.parametrize("sight", DICHROMATS)
def test_the_style_s_colours_can_be_told_apart_by_everyone(sight):
    """At least 15 in CIELAB between any two, on which a just noticeable difference is about
    2.3.
    """
    srgb = np.array(
        [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in figures.PALETTE]
    )
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(DICHROMATS[sight]).T, 0, 1)
    xyz = (
        seen
        @ np.array(
            [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        ).T
    )
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 0.008856))
    lab = np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )
    apart = [np.linalg.norm(one - other) for one, other in itertools.combinations(lab, 2)]
    assert len(apart) == 28
    assert min(apart) >= 15


def test_every_figure_takes_its_look_from_the_one_style_file():
    for name in signatures.names():
        source = Path(figures.load(name).__file__).read_text(encoding="utf-8")
        assert not re.search(r"rcParams|rc_context|style\.use|pyplot", source), name
        assert not re.search(r'"#[0-9a-fA-F]{3,8}"', source), f"{name}: a colour of its own"


def test_saving_writes_all_formats_and_the_numbers(tmp_path: Path):
    spec = rows_spec()
    figure, data = sweep(spec, fake_records(spec))
    paths = figures.save(figure, data, tmp_path / "deep", "alpha")
    assert [path.name for path in paths] == ["alpha.pdf", "alpha.png", "alpha.svg", "alpha.csv"]
    assert paths[-1].read_text().startswith("x,cell,n,mean,std,published\n0.1,")


def test_an_inline_svg_shares_no_id_and_takes_the_pages_colours():
    spec = rows_spec()
    figure = sweep(spec, fake_records(spec))[0]
    one, two = (
        figures.inline_svg(figure, name, 'a "quoted" <caption>') for name in ("one", "two")
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', one))
    assert used
    assert used <= ids[0]
    assert "var(--c0" in one
    assert "<?xml" not in one
    ElementTree.fromstring(one)
