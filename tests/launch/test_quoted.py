"""Rows that the paper quotes: numbers without a trial, in plans, filters, claims and reports."""

import pytest

from analysis.collect import collect
from analysis.tables import to_markdown
from launch.errors import FilterError
from launch.spec.filters import select
from launch.spec.load import SpecError, load_spec
from tests.support.analysis.samples import fake_records

SPEC = """\
title: "Quoted rows"
paper: {key: someone, table: "1"}
trial:
  dataset: {name: digits, size: 8}
  backbone: {name: resnet8, width: 8}
  train: {epochs: 2, batch_size: 16}
  optimizer: {name: sgd, lr: 0.05}
  schedule: cosine
axes:
  length: {short: {train.epochs: 1}, long: {train.epochs: 2}}
  row:
    Ours: {method: baseline}
    Theirs: {quoted: "their own code"}
    Again: {method: mixup, quoted: "their own paper"}
published: {short: [20.0, 21.5, 22.0], long: [20.0, null, 22.0]}
"""


@pytest.fixture
def spec(tmp_path):
    return load_spec(write(tmp_path))


def write(folder, *replacements):
    text = SPEC
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (folder / "quoted.yaml").write_text(text)
    return folder / "quoted.yaml"


def test_a_quoted_row_has_its_number_and_no_trial(spec):
    cells = {cell.labels: cell for cell in spec.cells}
    theirs, again = cells["short", "Theirs"], cells["short", "Again"]
    assert (theirs.published, theirs.trials, theirs.quoted) == (21.5, (), "their own code")
    assert len(again.trials) == 1, "it has settings of its own"
    assert again.quoted == "their own paper"
    assert cells["long", "Theirs"].published is None
    assert len(spec.trials) == 4
    assert {cell.row for _, cell, _ in select([spec], [])} == {
        f"{length} · {row}" for length in ("short", "long") for row in ("Ours", "Again")
    }
    with pytest.raises(FilterError, match="no trial has that value of 'row'"):
        select([spec], ["row=Theirs"])


def test_a_report_shows_it_beside_the_others(spec):
    table = collect(spec, fake_records(spec))
    words = {cell.labels: cell.verdict.word for cell in table.cells}
    assert words["short", "Theirs"] == "not comparable"
    assert words["short", "Again"] not in ("not comparable", "missing")
    page = to_markdown(table)
    assert "21.50" in page
    assert "nothing is trained, quoted: their own code" in page
    assert "no finished seed yet" not in page


def test_rows_that_a_profile_makes_the_same_are_one_start(tmp_path):
    """A child's profile names its row by a label that several of them have."""
    parent = write(tmp_path, ("published:", "profiles: {same: {train.epochs: 1}}\npublished:"))
    text = parent.read_text().replace("axes:", "rows:\n  - {row: child, init: {from: quoted, row: "
        "Ours, profile: same}, method: baseline}\naxes:").split("axes:")[0]  # fmt: skip
    child = tmp_path / "child.yaml"
    child.write_text(text)
    (cell,) = load_spec(child).cells
    (start,) = cell.parents
    assert start.trial.id == load_spec(parent, "same").cells[0].trials[0].id
    child.write_text(text.replace(", profile: same", ""))
    with pytest.raises(SpecError, match="'Ours' matches several rows of quoted: short · Ours;"):
        load_spec(child)


def test_mistakes_are_named_at_their_places(tmp_path):
    for old, new, place, message in (
        ('{quoted: "their own code"}', "{quoted: 3}", "13:22", "quoted says whence, in words"),
        ("{method: baseline}", "{method: baseline, init: {from: quoted, row: short · Theirs}}",
         "12:56", "'short · Theirs' is quoted: it has no trial"),
        ("published:", "profiles: {smoke: {quoted: here}}\npublished:",
         "15:20", "'quoted' is of a row"),
        ("published:", 'claims: ["Ours > Again", "Ours > Theirs"]\npublished:',
         "15:26", "claim about 'Theirs', quoted without a trial: nothing of ours can judge it"),
        ("published:", "claims: [{claim: Ours > Theirs, of: long}]\npublished:",
         "15:18", "claim about 'Theirs', quoted without a trial"),
    ):  # fmt: skip
        path = write(tmp_path, (old, new))
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        assert f"{path}:{place}: {message}" in str(caught.value)


def test_a_claim_that_can_be_judged_somewhere_stands(tmp_path):
    rows = """rows:
  - {row: Ours, method: baseline}
  - {row: Theirs, quoted: "their own code"}
  - {row: Again, method: mixup, quoted: "their own paper"}
claims: ["Again > Ours"]
"""
    path = tmp_path / "rows.yaml"
    path.write_text(SPEC.split("axes:")[0] + rows)
    assert load_spec(path).claims[0].chain == ("Ours", "Again")
    path.write_text(path.read_text().replace("Again > Ours", "Theirs > Ours"))
    with pytest.raises(SpecError, match=r"rows\.yaml:13:10: claim about 'Theirs', quoted"):
        load_spec(path)
