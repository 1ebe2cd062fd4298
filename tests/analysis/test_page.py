"""The page: well-formed, alone in the world, and honest about profiles and missing numbers."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from analysis import figures
from analysis.collect import collect
from analysis.page.data import MOST_POINTS, shown_epochs, thin
from analysis.page.html import _filter_words, to_html
from analysis.page.notes import render_notes
from analysis.page.provenance import provenance
from analysis.page.sentences import assumptions, summary
from analysis.page.view import Drawing, View
from analysis.paths import ROOT
from analysis.table import VERDICTS
from tests.support.analysis.samples import (
    fake_curve,
    fake_curves,
    fake_records,
    grid_spec,
    rows_spec,
    without_published,
)

VOID = {"meta", "br", "link", "img", "hr", "input"}
FOLDER, RESULTS = Path("/data/results/report"), Path("/data/results")


class Checker(HTMLParser):
    """Collects attributes, and complains about elements that are closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data


def page(spec, records, **options):
    table = collect(spec, records)
    drawings = []
    for figure in spec.figures:
        drawn, _ = figures.render(
            figure.draw, spec, records, lambda metric: fake_curves(records), figure.options
        )
        svg = figures.inline_svg(drawn, figure.name, figure.name)
        drawings.append(
            Drawing(figure.name, f"What {figure.name} shows", svg, (f"rows/{figure.name}.pdf",))
        )
    curves = {
        ("top1_error", trial): dict(fake_curve(run))
        for trial, run in zip(records["trial_id"], records["run_id"], strict=True)
    }
    views = [View(table, drawings, "Test error against epoch.")]
    return to_html(views, curves, title=spec.title, folder=FOLDER, results=RESULTS, **options)


def data_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    )


def parse(html):
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def grid():
    return page(grid_spec(), fake_records(grid_spec()))


@pytest.fixture(scope="module")
def rows():
    return page(rows_spec(), fake_records(rows_spec()))


@pytest.mark.parametrize("name", ["grid", "rows"])
def test_a_page_parses_and_needs_no_network(name, request):
    checker = parse(request.getfixturevalue(name))
    loads = [
        attrs[key]
        for tag, attrs in checker.found
        for key in ("src", "srcset", "data", "xlink:href", "action")
        if attrs.get(key)
    ]
    assert all(value.startswith("#") for value in loads)
    assert not [
        tag for tag, _ in checker.found if tag in ("link", "iframe", "object", "embed", "img")
    ]
    styles = re.findall(r"<style.*?</style>", request.getfixturevalue(name), re.DOTALL)
    assert not re.search(r"url\(\s*['\"]?http|@import", " ".join(styles))


@pytest.mark.parametrize("name", ["grid", "rows"])
def test_ids_are_unique_and_every_inner_link_leads_somewhere(name, request):
    checker = parse(request.getfixturevalue(name))
    ids = [attrs["id"] for _, attrs in checker.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in checker.found:
        if tag == "a" and (attrs["href"] or "").startswith("#"):
            assert (attrs["href"] or "")[1:] in ids


def test_every_cell_has_its_runs_with_a_link_to_directory_and_record(grid):
    data = data_of(grid)
    assert (data["runs"], data["mlflow"]) == ("../runs/", "https://mlflow.example/#/experiments/")
    assert data["heads"] == {"grid": ["Best", "Last", "Median of last 10"]}
    seeds = [seed for cell in data["cells"].values() for seed in cell["seeds"]]
    assert [seed[3] for seed in seeds] == [trial.id for trial in grid_spec().trials]
    assert all(seed[4] == f"1/runs/run-{seed[3]}" and seed[5] == 1 for seed in seeds)
    assert {data["machines"][seed[6]] for seed in seeds} == {"NVIDIA H200, node-07"}
    assert all(
        len(seed[2]) == 3 and "curves" in cell
        for cell in data["cells"].values()
        for seed in cell["seeds"]
    )


def test_a_run_on_another_machine_is_named_and_not_linked():
    records = fake_records(grid_spec())
    records["run_dir"] = "/scratch/elsewhere/abc"
    assert {
        seed[5]
        for cell in data_of(page(grid_spec(), records))["cells"].values()
        for seed in cell["seeds"]
    } == {"/scratch/elsewhere/abc"}


def test_a_text_in_the_data_cannot_end_the_script():
    records = fake_records(grid_spec())
    records["host"] = "</script><script>alert(1)</script>"
    html = page(grid_spec(), records)
    assert html.count("</script>") == 2
    assert "</script>" in data_of(html)["machines"][0]


def test_a_curve_is_thinned_to_its_ends_and_even_steps():
    epochs = shown_epochs([dict.fromkeys(range(1, 301), 1.0)])
    assert (epochs[0], epochs[-1], len(epochs)) == (1, 300, MOST_POINTS)
    assert {b - a for a, b in pairwise(epochs)} == {5, 6}
    assert thin({1: 2.0, 3: float("nan")}, [1, 2, 3]) == [2.0, None, None]


def test_a_watched_page_reloads_itself_and_no_other(grid):
    assert "data-reload" not in grid.split("<body>")[0]
    assert '<html lang="en" data-reload="7">' in page(
        rows_spec(), fake_records(rows_spec()), reload=7
    )


def test_notes_stand_below_with_their_sources():
    notes = (ROOT / "experiments" / "NOTES.md").read_text()
    checker = parse(page(grid_spec(), fake_records(grid_spec()), notes=notes))
    assert checker.text.count("Source:") == notes.count("## ")
    assert "The RoI box was transposed until April 2023" in checker.text
    assert (
        render_notes("# T\n\n* a <b>\n* `c`")["html"]
        == "<ul>\n<li>a &lt;b&gt;</li>\n<li><code>c</code></li>\n</ul>\n"
    )


def test_gpu_hours_count_devices_and_leave_cpus_apart():
    records = fake_records(grid_spec())
    records["device"], records["train_seconds"] = "NVIDIA H200", 3600.0
    records.loc[:3, "device"] = "2 x NVIDIA A100"
    records.loc[4:7, "device"] = "Intel(R) Xeon(R) CPU"
    records.loc[8, "origin"] = "reproduced"
    found = provenance([collect(grid_spec(), records), collect(grid_spec(), records)])
    assert found["hours"] == [("GPU time", "24.0 hours"), ("CPU time", "4.0 hours")]
    assert found["origin"] == [("reproduced", 1)]


def test_titles_are_escaped(grid):
    assert "<friends>" not in grid
    assert "Table 3: CIFAR-100 &amp; &lt;friends&gt;" in grid


def test_published_numbers_are_said_to_be_exact(grid):
    assert "treated as exact" in parse(grid).text


def test_a_page_without_published_numbers_has_no_columns_for_them(rows):
    checker = parse(rows)
    assert "Published" not in checker.text
    assert "Difference" in checker.text.split("Claims")[1]
    assert "Verdict" not in checker.text.split("Claims")[0]
    assert "no published numbers" in checker.text


def test_a_reduced_profile_has_a_banner_and_no_verdict():
    spec = grid_spec("smoke", (0,))
    checker = parse(page(spec, fake_records(spec)))
    assert [attrs for _, attrs in checker.found if attrs.get("class") == "banner"]
    assert "not comparable" in checker.text
    assert not re.search(r"[✓≈≠] (reproduced|consistent|differs)", checker.text)


def test_a_page_of_nothing_says_so():
    text = parse(page(grid_spec(), fake_records(grid_spec())[:0])).text
    assert "None of 24 trials have finished; 24 have no record yet." in text
    assert "8 are missing" in text


def test_tables_that_nobody_has_begun_are_folded_beside_others():
    begun, unbegun = (
        View(collect(spec, fake_records(spec)[:some]))
        for spec, some in ((grid_spec(), None), (rows_spec(), 0))
    )
    options = {"title": "All", "folder": FOLDER, "results": RESULTS}
    folds = [
        sum(
            attributes.get("class") == "fold unstarted"
            for _, attributes in parse(to_html(views, {}, **options)).found
        )
        for views in ([begun, unbegun], [unbegun])
    ]
    assert folds == [1, 0]


def test_the_filter_keeps_verdicts_apart_from_states():
    records = fake_records(grid_spec())
    records.loc[0, "status"] = "RUNNING"
    (verdicts, words), (trials, states) = _filter_words([View(collect(grid_spec(), records))])
    assert (verdicts, trials) == ("by verdict", "by trial")
    assert {word for word, _ in words} <= set(VERDICTS)
    assert states == [("finished", 8), ("running", 1)]


def test_the_summary_counts_in_words():
    spec = grid_spec()
    records = fake_records(spec)
    assert summary(collect(spec, records))[0] == "All 24 trials have finished."
    records.loc[0, "status"] = "FAILED"
    records.loc[1, "status"] = "RUNNING"
    found = summary(collect(spec, records[:-1]))
    assert (
        found[0]
        == "21 of 24 trials have finished; 1 is running, 1 failed and 1 has no record yet."
    )
    assert found[1].startswith("Of 8 cells, ")
    assert len(summary(collect(rows_spec(), fake_records(rows_spec())))) == 3
    assert "no published numbers" in summary(collect(without_published(spec), records))[1]


def test_assumed_values_stand_with_value_reason_and_cells():
    (only,) = assumptions(collect(grid_spec(), fake_records(grid_spec())[:0]))
    assert (only.key, only.value, only.cells) == ("method.alpha", "1.0", "+ Mixup")
    assert "Mixup's own default" in only.why
