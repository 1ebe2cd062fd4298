"""The tables of detection and segmentation: what they start from, what they share, what they
need.
"""

import pytest

from launch.paths import EXPERIMENTS
from launch.plan import make_plan
from launch.spec.load import load_spec
from rm import registry
from rm.registry import heads

TABLES = ("table7", "table8", "table9", "table10a", "table10b")


def spec(name, profile=None):
    return load_spec(EXPERIMENTS / f"{name}.yaml", profile)


def plain(values):
    """Without what changes no number."""
    return {k: v for k, v in values.items() if k != "train"} | {
        "train": {k: v for k, v in values["train"].items() if k != "keep_best"}
    }


@pytest.mark.parametrize("name", TABLES)
def test_every_trial_starts_from_the_row_of_table_5_that_it_is_labelled_with(name):
    for profile in (None, "smoke"):
        for cell in spec(name, profile).cells:
            (parent,) = cell.parents
            labels = [*parent.cell.labels]
            backbone = parent.trial.values["backbone"]["name"]
            assert cell.trials[0].values["backbone"]["name"] == backbone
            if cell.labels[-1] not in ("with", "without"):
                assert labels[-1] == cell.labels[-1]
                assert labels[0] in cell.row
            assert parent.trial.values["train"]["keep_best"]
            assert cell.trials[0].values["init"]["weights"] == "best"
            small = parent.trial.values["dataset"]["name"] == "cifar10"
            assert small == (profile == "smoke")


def test_rows_with_the_consistency_loss_are_those_of_tables_7_and_9():
    def ids(name, *labels):
        return {
            cell.trials[0].id
            for cell in spec(name).cells
            if all(any(label in part for part in cell.labels) for label in labels)
        }

    detectors = ids("table7", "ResNet-50", "+ RM (ours)")
    networks = ids("table9", "ResNet-50", "+ RM (ours)")
    assert ids("table10a", "with") - ids("table10a", "without") == detectors
    assert ids("table10b", "with") - ids("table10b", "without") == networks
    assert len(detectors) == len(networks) == 2


def test_the_training_without_the_loss_is_table_5s_but_for_the_loss():
    ours = plain(spec("table10_pretraining").trials[0].values)
    cells = {cell.row: cell.trials[0].values for cell in spec("table5").cells}
    theirs = plain(cells["ResNet-50 · + RM (ours)"])
    assert ours["method"] == {**theirs["method"], "omega": 0.0}
    assert {k: v for k, v in ours.items() if k != "method"} == {
        k: v for k, v in theirs.items() if k != "method"
    }


def test_what_the_paper_says_of_upernets_accuracy_is_contradicted_by_its_own_numbers():
    numbers = {cell.labels: cell.also["macc"] for cell in spec("table10b").cells}
    assert numbers["UperNet", "with"] < numbers["UperNet", "without"]
    assert [claim.text for claim in spec("table10b").claims] == ["without < with"]


def test_a_plan_says_which_packages_are_missing_and_what_installs_them(tmp_path, monkeypatch):
    def find(name, *args):
        return None if name in ("mmdet", "mmseg") else object()

    heads._missing.cache_clear()
    monkeypatch.setattr(heads.importlib.util, "find_spec", find)
    try:
        plan = make_plan([spec("table7", "smoke")], tmp_path / "runs")
    finally:
        heads._missing.cache_clear()
    states = {use.spec.name: use.state for use in plan.uses}
    assert states == {"table7": "refused", "table5": "waiting"}
    (refusal,) = plan.refusals()
    assert refusal == (
        "refused: a head needs the packages mmdet, mmseg: `make downstream` installs them"
    )


def test_metrics_are_the_heads_and_options_that_change_no_weight_no_obstacle(write_spec):
    heads_of = {name: entry.metrics for name, entry in registry.entries("head").items()}
    assert heads_of["atss"] == ("box_ap", "box_ap50", "box_ap75")
    assert heads_of["upernet"] == ("miou", "macc", "aacc")
    text = (EXPERIMENTS / "table7.yaml").read_text(encoding="utf-8")
    text = text.replace("also: [box_ap50, box_ap75]", "also: [mask_ap]")
    with pytest.raises(Exception, match=r"head 'atss' of .* reports box_ap, box_ap50, box_ap75"):
        load_spec(write_spec(text, "table7.yaml"))
    strides = {
        cell.labels[0]: cell.trials[0].values["backbone"].get("output_stride")
        for cell in spec("table9").cells
    }
    assert strides["PSPNet, ResNet-50"] == 8
    assert strides["UperNet, ResNet-50"] is None
