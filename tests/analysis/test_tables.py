"""Tables: what a cell becomes, and every rendering of it."""

import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from analysis import tables
from analysis.collect import collect
from analysis.tables.latex import latex_text
from analysis.tables.long_form import read_csv, to_frame
from analysis.tables.text import p_value, signed
from tests.support.analysis.samples import fake_records, grid_spec, rows_spec


def ids(spec, *cells):
    return tuple(trial.id for i in cells for trial in spec.cells[i].trials)


@pytest.fixture(scope="module")
def grid():
    """The first cell is missing, the second has one seed of three and a running one, the third
    differs.
    """
    spec = grid_spec()
    skip = (*ids(spec, 0), spec.cells[1].trials[2].id)
    records = fake_records(spec, skip)
    records.loc[records["trial_id"] == spec.cells[1].trials[1].id, "status"] = "RUNNING"
    records.loc[records["trial_id"].isin(ids(spec, 2)), "best_top1_error"] += 2.0
    return collect(spec, records)


@pytest.fixture(scope="module")
def smoke():
    spec = grid_spec("smoke", (0,))
    return collect(spec, fake_records(spec))


@pytest.fixture(scope="module")
def rows():
    return collect(rows_spec(), fake_records(rows_spec()))


def renderings(table):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(tables.to_terminal(table))
    return {
        "markdown": tables.to_markdown(table),
        "latex": tables.to_latex(table),
        "csv": tables.to_csv(table),
        "terminal": console.export_text(),
    }


def test_cells_know_their_seeds(grid):
    missing, one, off = grid.cells[:3]
    assert (missing.verdict.word, missing.missing_seeds, missing.ours) == (
        "missing",
        (0, 1, 2),
        None,
    )
    assert (one.ours.n, one.missing_seeds, one.verdict.word) == (1, (1, 2), "inside, one seed")
    assert [seed.state for seed in one.seeds] == ["finished", "running", "missing"]
    assert off.verdict.word == "differs"
    assert (grid.states["finished"], grid.states["running"], grid.states["missing"]) == (19, 1, 4)


def test_a_cell_is_mean_and_deviation_of_the_specs_selection_beside_the_other(rows):
    records = fake_records(rows_spec()).set_index("trial_id")
    cell = rows.cells[0]
    last = [records.loc[seed.trial_id, "last_top1_error"] for seed in cell.seeds]
    assert cell.ours.mean == pytest.approx(sum(last) / 3)
    best = [records.loc[seed.trial_id, "best_top1_error"] for seed in cell.seeds]
    assert cell.companion.mean == pytest.approx(sum(best) / 3)
    assert cell.selection_optimism.mean == pytest.approx((sum(last) - sum(best)) / 3)
    assert (cell.selection_optimism.n, rows.selection_optimism.n) == (3, 15)


def test_claims_are_tested_in_every_row_and_pair_by_pair(grid):
    assert [(c.context, c.left, c.right) for c in grid.claims] == [
        (row, *pair)
        for row in ("ResNet-18", "PyramidNet, α̃=270", "pooled over 2")
        for pair in (("+ RM (ours)", "+ CutMix"), ("+ CutMix", "Baseline"))
    ]
    assert [claim.result.n for claim in grid.claims] == [3, 0, 3, 3, 3, 3]
    assert grid.claims[-1].result.word == "missing", "a pool of one is none"


def test_a_third_axis_joins_the_row_label():
    spec = grid_spec()
    cells = tuple(replace(cell, labels=("200 epochs", *cell.labels)) for cell in spec.cells)
    table = collect(replace(spec, axes=("length", *spec.axes), cells=cells), fake_records(spec))
    assert table.rows[0] == "200 epochs · ResNet-18"
    assert table.columns == ("Baseline", "+ Mixup", "+ CutMix", "+ RM (ours)")
    assert "200 epochs · ResNet-18" in tables.to_markdown(table)


def test_a_trial_in_two_cells_counts_once():
    spec = rows_spec()
    twin = replace(spec.cells[0], labels=("The same again",))
    table = collect(replace(spec, cells=(*spec.cells, twin)), fake_records(spec))
    assert table.states["finished"] == 15
    assert table.cells[-1].ours == table.cells[0].ours


def test_markdown_is_the_papers_grid(grid):
    lines = [line for line in tables.to_markdown(grid).splitlines() if line.startswith("|")][:4]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in lines)
    assert "paper 18.64" in lines[2]
    assert "≠ differs" in lines[2]
    assert "○ missing" in lines[2]


def test_without_published_numbers_no_rendering_compares(rows):
    for name, text in renderings(rows).items():
        assert name == "csv" or not re.search(
            "published|verdict", text.split("Claim")[0], re.IGNORECASE
        ), name
        assert "no number for this cell" not in text or name == "csv"


def test_a_reduced_profile_says_so_in_every_rendering(smoke):
    for name, text in renderings(smoke).items():
        assert "smoke" in text, name
        assert "not comparable" in text, name


def test_missing_seeds_are_named(grid):
    texts = renderings(grid)
    for name in ("markdown", "terminal", "csv"):
        assert "1 of 3 seeds, without 1 and 2" in texts[name], name


@pytest.mark.parametrize("name", ["grid", "smoke", "rows"])
def test_pandas_reads_the_csv_back_equal(name, request):
    table = request.getfixturevalue(name)
    read = read_csv(tables.to_csv(table), table.spec.axes)
    pd.testing.assert_frame_equal(read, to_frame(table), check_exact=True)


def test_labels_that_look_like_numbers_or_nothing_survive_the_csv():
    spec = rows_spec()
    cells = tuple(
        replace(cell, labels=(label,))
        for cell, label in zip(spec.cells, ["None", "007", "1e3", 'a,"b"', "NA"], strict=True)
    )
    table = collect(replace(spec, cells=cells, claims=()), fake_records(spec))
    assert list(read_csv(tables.to_csv(table), ("row",))["row"]) == [
        "None",
        "007",
        "1e3",
        'a,"b"',
        "NA",
    ]


def test_latex_escapes_everything_special():
    assert latex_text("50% of A&B_c #1 {x} $y$ ~^\\") == (
        r"50\% of A\&B\_c \#1 \{x\} \$y\$ \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert (
        latex_text("α̃=270 ± −1 <ω>")
        == r"$\tilde{\alpha}$=270 $\pm$ $-$1 \textless{}$\omega$\textgreater{}"
    )


def test_a_row_may_begin_with_what_the_end_of_a_row_would_take_for_its_own():
    r"""`\\\\` takes a star, or a length in brackets."""
    assert latex_text("[ours] *") == "{[}ours] *"
    assert latex_text(" *") == " {*}"


@pytest.mark.parametrize("name", ["grid", "smoke", "rows"])
def test_latex_has_as_many_columns_in_every_line(name, request):
    text = tables.to_latex(request.getfixturevalue(name))
    columns = re.search(r"begin\{tabular\}\{(\w+)\}", text)[1]
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}
    assert text.isascii()


@pytest.mark.cluster
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
@pytest.mark.parametrize("name", ["grid", "smoke", "rows"])
def test_latex_compiles(name, request, tmp_path):
    table = request.getfixturevalue(name)
    body = tables.to_latex(table)
    body += "\\begin{tabular}{ll}\n"
    body += "".join(f"{latex_text(label)} & 1 \\\\\n" for label in ("a", "[ours]", "*", "[2"))
    body += "\\end{tabular}\n"
    text = (
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        + body
        + "\\end{document}\n"
    )
    (tmp_path / "table.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_p_values_and_numbers_read_like_a_journals():
    assert [p_value(p) for p in (None, 0.0004, 0.0237)] == ["–", "< 0.001", "0.024"]
    assert [signed(x) for x in (None, -0.044, 0.044)] == ["–", "−0.04", "+0.04"]


def test_latex_has_its_label_and_the_best_number_of_each_group_bold(grid, rows):
    text = tables.to_latex(grid)
    assert f"\\label{{tab:{grid.slug}}}" in text
    bold = re.findall(r"\\textbf\{([\d.]+) ", text)
    best = [min(cell.ours.mean for cell in cells if cell.ours) for cells in grid.groups]
    assert bold == [f"{value:.2f}" for value in best]
    assert tables.to_latex(rows).count("\\textbf") == 1
