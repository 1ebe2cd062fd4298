"""Every published number in a spec is the paper's, cell by cell; tests/published.csv holds the
paper's classification tables.
"""

import csv
from pathlib import Path

import pytest

from launch.spec.load import load_spec

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "tests" / "published.csv"
SOURCE = ROOT.parent / "shared" / "published.csv"
_NAMES = (
    "box_AP",
    "box_AP50",
    "box_AP75",
    "mask_AP",
    "mask_AP50",
    "mask_AP75",
    "mIoU",
    "mAcc",
    "aAcc",
)
METRICS = {"top1_err": "top1_error", "top5_err": "top5_error", **{n: n.lower() for n in _NAMES}}
NUMBERS = [row for row in csv.DictReader(COPY.open(encoding="utf-8")) if row["metric"] in METRICS]
DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet-1k",
    "coco": "COCO val2017",
    "ade20k": "ADE20K val",
}

# How a table's cell is found in the paper's: the text that identifies it there, from the cell's
# labels.
NAMES = {
    "+ RM (ours)": "RM",
    "PyramidNet-164, α̃=270": "PyramidNet-164(a=270)",
    "CIFAR-10, PyramidNet-200": "CIFAR-10",
    "CIFAR-100, ResNet-18": "CIFAR-100",
    "ImageNet, ResNet-50": "ImageNet-1k",
    "α=0.5": "best alpha",
    "ω=0.1": "best omega",
    "transposed": "RM",
    "without": "RM w/o CL",
    "with": "RM",
}


def name(label):
    return NAMES.get(label, label.removeprefix("+ "))


def published(table, labels, dataset, metric):
    """The numbers of the paper's rows that carry all these labels, each as a whole label."""
    if table == "9":  # one axis of two things: "PSPNet, ResNet-50"
        labels = [part for label in labels for part in label.split(", ")]
    wanted = [name(label) for label in labels]
    found = []
    for row in NUMBERS:
        texts = {
            row["row_label"].removeprefix("+"),
            row["dataset"],
            row["backbone"],
            row["method"],
            row["variant"].partition(";")[0],  # "ATSS;CL=0"
        }
        texts |= {row["row_label"].replace("+", " + ").strip().removeprefix("+ ")}
        of = (row["table"], row["dataset"], METRICS[row["metric"]])
        if of == (table, dataset, metric) and all(label in texts for label in wanted):
            found.append(float(row["value"]))
    return found


def dataset(cell):
    return DATASETS[cell.trials[0].values["dataset"]["name"]]


SPECS = [
    path
    for path in sorted((ROOT / "experiments").glob("*.yaml"))
    if (spec := load_spec(path)).paper is not None
    and not spec.metric.is_measured  # those: test_published_measured.py
]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_published_number_is_the_papers(path):
    checked = 0
    for view in load_spec(path).views:
        for cell in view.cells:
            numbers = published(view.paper.table, cell.labels, dataset(cell), view.metric.name)
            assert numbers == ([] if cell.published is None else [cell.published]), cell.labels
            checked += cell.published is not None
    assert checked


PARTS = ("table1_quoted", "table6_quoted", "roi_box")
"""Specs that show some of a table's numbers again, under another recipe."""


@pytest.mark.parametrize(
    "path", [path for path in SPECS if path.stem not in PARTS], ids=lambda path: path.stem
)
def test_no_published_number_of_its_data_sets_is_left_out(path):
    views = load_spec(path).views
    used = {dataset(cell) for cell in views[0].cells}
    metrics = {view.metric.name for view in views}
    table = views[0].paper.table
    paper = [row for row in NUMBERS if row["table"] == table and row["dataset"] in used]
    assert {METRICS[row["metric"]] for row in paper} == metrics
    assert len(paper) == sum(cell.published is not None for view in views for cell in view.cells)


def test_the_copy_is_the_source():
    if not SOURCE.exists():
        pytest.skip(f"{SOURCE} is not beside this checkout")
    rows = {tuple(row.items()) for row in csv.DictReader(COPY.open(encoding="utf-8"))}
    columns = next(csv.reader(COPY.open(encoding="utf-8")))
    source = [row for row in csv.DictReader(SOURCE.open(encoding="utf-8")) if row["paper"] == "RM"]
    tables = {row["table"] for row in csv.DictReader(COPY.open(encoding="utf-8"))}
    assert rows == {
        tuple((c, row[c]) for c in columns) for row in source if row["table"] in tables
    }
