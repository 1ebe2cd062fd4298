"""The page: well-formed, alone in the world, and honest about profiles and missing numbers."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import figures
from analysis.page import Drawing, assumptions, summary, to_html
from analysis.results import collect
from tests.analysis.samples import fake_curves, fake_records, grid_spec, rows_spec, without_published

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
        if "style" not in self.open:
            self.text += data


def page(spec, records):
    table = collect(spec, records)
    wanted = [(figure.name, figure.draw, figure.options) for figure in spec.figures]
    drawings = []
    for name, draw, options in [*wanted, ("learning_curves", "learning_curves", {})]:
        drawn, _ = figures.render(draw, spec, records, lambda metric: fake_curves(records), options)
        drawings.append(
            Drawing(name, f"What {name} shows", figures.inline_svg(drawn, name, name), (f"rows/{name}.pdf",))
        )
    return to_html(table, drawings[:-1], drawings[-1], folder=FOLDER, results=RESULTS)


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
    assert not [tag for tag, _ in checker.found if tag in ("script", "link", "iframe", "object", "embed", "img")]
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


def test_every_cell_links_to_its_runs(grid):
    links = [attrs["href"] for tag, attrs in parse(grid).found if tag == "a"]
    for trial in grid_spec().trials:
        assert f"../runs/{trial.id}/" in links
        assert f"https://mlflow.example/#/experiments/1/runs/run-{trial.id}" in links


def test_a_run_on_another_machine_is_named_and_not_linked():
    records = fake_records(grid_spec())
    records["run_dir"] = "/scratch/elsewhere/abc"
    html = page(grid_spec(), records)
    assert "<code>/scratch/elsewhere/abc</code>" in html
    assert 'href="../../../scratch' not in html


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


def test_the_summary_counts_in_words():
    spec = grid_spec()
    records = fake_records(spec)
    assert summary(collect(spec, records))[0] == "All 24 trials have finished."
    records.loc[0, "status"] = "FAILED"
    records.loc[1, "status"] = "RUNNING"
    found = summary(collect(spec, records[:-1]))
    assert found[0] == "21 of 24 trials have finished; 1 is running, 1 failed and 1 has no record yet."
    assert found[1].startswith("Of 8 cells, ")
    assert len(summary(collect(rows_spec(), fake_records(rows_spec())))) == 3
    assert "no published numbers" in summary(collect(without_published(spec), records))[1]


def test_assumed_values_stand_with_value_reason_and_cells():
    (only,) = assumptions(collect(grid_spec(), fake_records(grid_spec())[:0]))
    assert (only.key, only.value, only.cells) == ("method.alpha", "1.0", "+ Mixup")
    assert "Mixup's own default" in only.why
