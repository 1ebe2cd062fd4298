"""Every published number in the second paper's contrastive specs is the paper's, none is left
out, and cells that tables share are one trial.
"""

import csv

import pytest

from launch.paths import EXPERIMENTS
from launch.spec.load import load_spec
from tests.support.trials import ROOT

ROWS = list(csv.DictReader((ROOT / "tests" / "published_amix.csv").open(encoding="utf-8")))
NUMBERS = [
    row
    for row in ROWS
    if row["metric"] not in ("top1_acc", "top1_acc_gain") or row["variant"].startswith("CL;")
]
METRICS = {"linear_top1": ("linear_top1_acc", "top1_acc"), "box_ap": ("AP",),
           "box_ap50": ("AP50",), "box_ap75": ("AP75",)}  # fmt: skip
SPECS = {
    "table1_contrastive_stl10": 9, "table1_contrastive_tiny": 9, "table4_stl10": 48,
    "table5_tiny": 18, "table5_imagenet": 20, "table6_voc": 24, "table7_contrastive": 14,
    "table8_contrastive": 7,
}  # fmt: skip
"""Name -> cells with a number."""
DATASETS = {"stl10": "STL-10", "tiny": "Tiny-ImageNet", "imagenet": "ImageNet-1k"}
NAMES = {"mocov2": "moco.v2", "swav": "swav*(c)", "un-mix": "unmix"}


def plain(label):
    found = label.lower().replace("λ", "lambda").replace(" ", "")
    return NAMES.get(found, found)


def in_the_paper(name, spec, cell):
    """The paper's numbers in rows that the labels of a cell, and its spec's name, point at."""
    *others, last = cell.labels
    data = DATASETS.get(name.rpartition("_")[2])
    found = []
    for row in NUMBERS:
        labels = {plain(row["row_label"]), plain(row["method"])}
        where = {row["dataset"], row["backbone"].replace("ResNet-", "R-"), f"{row['epochs']}ep"}
        if (
            row["table"] == spec.paper.table
            and row["metric"] in METRICS[spec.metric.name]
            and plain(last) in labels
            and where >= set(others)
            and data in (None, row["dataset"])
            and row["value"]
        ):
            found.append(float(row["value"]))
    return found


@pytest.fixture(scope="module")
def specs():
    return {name: load_spec(EXPERIMENTS / "amix" / f"{name}.yaml") for name in SPECS}


@pytest.mark.parametrize("name", SPECS)
def test_every_published_number_is_the_papers(name, specs):
    shown = 0
    for view in specs[name].views:
        for cell in view.cells:
            paper = in_the_paper(name, view, cell)
            assert paper == ([] if cell.published is None else [cell.published]), cell.labels
            shown += cell.published is not None
    assert shown == SPECS[name]


def test_no_number_is_left_out():
    assert sum(SPECS.values()) == sum(bool(row["value"]) for row in NUMBERS) == 149


def ids(spec, *labels):
    (cell,) = [cell for cell in spec.cells if set(labels) <= set(cell.labels)]
    return {trial.id for trial in cell.trials}


def test_cells_that_tables_share_are_one_trial(specs):
    """As the tables' own numbers say, which print some of them differently."""
    four, five, seven = (specs[n] for n in ("table4_stl10", "table5_tiny", "table7_contrastive"))
    stl10, tiny = specs["table1_contrastive_stl10"], specs["table1_contrastive_tiny"]
    for one, other in (
        (ids(four, "R-18", "400ep", "AMix-I"), ids(seven, "STL-10", "infoNCE")),
        (ids(four, "R-18", "400ep", "AMix-C"), ids(seven, "STL-10", "CE (C)")),
        (ids(stl10, "CE (PL), K=100"), ids(seven, "STL-10", "CE (C)")),
        (ids(stl10, "Mixup"), ids(four, "R-18", "400ep", "MixUp")),
        (ids(stl10, "BCE"), ids(seven, "STL-10", "BCE")),
        (ids(five, "R-18", "AMix-I"), ids(seven, "Tiny-ImageNet", "infoNCE + BCE")),
        (ids(five, "R-18", "AMix-C"), ids(seven, "Tiny-ImageNet", "CE (C) + BCE")),
        (ids(five, "R-18", "AMix-C"), ids(specs["table8_contrastive"], "+ λ adjusting")),
        (ids(tiny, "CE (PL), K=200"), ids(seven, "Tiny-ImageNet", "CE (C)")),
        (ids(tiny, "infoNCE"), ids(seven, "Tiny-ImageNet", "infoNCE")),
        (ids(tiny, "Mixup"), ids(five, "R-18", "MixUp")),
    ):
        assert one == other
        assert len(one) == 3


def test_probes_start_from_pre_training_of_their_row_and_detectors_from_table_5s(specs):
    for name, spec in specs.items():
        for cell in spec.cells:
            assert bool(cell.quoted) == (not cell.trials)
            for parent in cell.parents:
                values = parent.trial.values
                assert values["task"]["name"] == "contrastive"
                assert plain(cell.labels[-1]) == plain(parent.cell.labels[-1]), name
                if name != "table6_voc":
                    assert cell.trials[0].values["freeze"] == "backbone"
                    data = cell.trials[0].values["dataset"]["name"]
                    assert values["dataset"]["name"] == data
    networks = {p.trial.id for cell in specs["table6_voc"].cells for p in cell.parents}
    shown = {
        p.trial.id
        for cell in specs["table5_imagenet"].cells
        if cell.labels[-1] in ("MoCo v2", "MixUp", "CutMix", "AMix-I") and "R-50" in cell.labels
        for p in cell.parents
    }
    assert networks == shown
    assert len(shown) == 12
