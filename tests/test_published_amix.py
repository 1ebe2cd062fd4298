"""Every published number in the second paper's supervised specs is the paper's, cell by cell, and
none of its columns is left out; tests/published_amix.csv holds all its tables.
"""

import csv
from pathlib import Path

import pytest

from launch.spec.load import load_spec

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "tests" / "published_amix.csv"
SOURCE = ROOT.parent / "shared" / "published.csv"
NUMBERS = list(csv.DictReader(COPY.open(encoding="utf-8")))
SUPERVISED = [
    row for row in NUMBERS if row["metric"] == "top1_acc" and not row["variant"].startswith("CL;")
]
SPECS = {
    name: ROOT / "experiments" / "amix" / f"{name}.yaml"
    for name in (
        "table1_supervised", "table2_cifar100", "table2_cub", "table2_aircraft",
        "table3_tiny_resnet18", "table3_tiny_resnext50", "table3_imagenet", "table8_supervised",
    )
}  # fmt: skip
DATASETS = {
    "cifar100": "CIFAR-100", "cub200": "CUB-200", "fgvc_aircraft": "FGVC-Aircraft",
    "tiny_imagenet": "Tiny-ImageNet", "imagenet": "ImageNet-1k", "stl10": "STL-10",
}  # fmt: skip
NETWORKS = {"resnext50_32x4d": "ResNeXt-50(32x4d)"} | {
    f"resnet{n}": f"ResNet-{n}" for n in (18, 34, 50, 101)
}


def plain(label):
    return label.lower().replace("λ", "lambda").replace(" ", "")


def column(cell):
    values = cell.trials[0].values
    network = values["backbone"]["name"].removeprefix("imagenet_")
    return DATASETS[values["dataset"]["name"]], NETWORKS[network]


def cells(path):
    (view, *_) = load_spec(path).views
    assert view.metric.name == "top1_accuracy"
    return view.paper.table, view.cells


@pytest.mark.parametrize("name", SPECS)
def test_every_published_number_is_the_papers(name):
    table, found = cells(SPECS[name])
    checked = 0
    for cell in found:
        dataset, network = column(cell)
        paper = [
            float(row["value"])
            for row in SUPERVISED
            if (row["table"], row["dataset"], row["backbone"]) == (table, dataset, network)
            and plain(row["row_label"]) == plain(cell.labels[-1])
        ]
        assert paper == ([] if cell.published is None else [cell.published]), cell.labels
        checked += cell.published is not None
    assert checked >= 6


def test_no_supervised_number_is_left_out():
    shown = sum(cell.published is not None for path in SPECS.values() for cell in cells(path)[1])
    assert shown == len(SUPERVISED) == 60 + 66 + 18 + 7


def test_tables_that_share_a_cell_share_its_trial():
    trials = {name: {t.id for t in load_spec(path).trials} for name, path in SPECS.items()}
    tiny = trials["table3_tiny_resnet18"]
    assert len(tiny & trials["table8_supervised"]) == 6
    assert len(tiny & trials["table1_supervised"]) == 6


def test_the_copy_is_the_source():
    if not SOURCE.exists():
        pytest.skip(f"{SOURCE} is not beside this checkout")
    rows = csv.DictReader(SOURCE.open(encoding="utf-8"))
    source = [row for row in rows if row["paper"] == "AMix"]
    assert [{c: row[c] for c in NUMBERS[0]} for row in source] == NUMBERS
