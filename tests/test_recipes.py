"""What the sources state of the paper's recipes, held against the specs, value by value."""

import pytest

from launch.paths import EXPERIMENTS
from launch.spec.load import load_spec


def cells(name):
    return {cell.labels: cell for cell in load_spec(EXPERIMENTS / f"{name}.yaml").cells}


def values(cell):
    return cell.trials[0].values


def test_table_2s_rs_is_the_cutmix_row_with_another_filling():
    rows = cells("table2")
    cut, resized = (values(rows[row,])["method"] for row in ("+ CutMix", "+ RS"))
    assert resized == cut | {"resize": True}
    assert (cut["name"], cut["alpha"], cut["resize"]) == ("cutmix", 1.0, False)
    study = cells("cifar10_small")
    assert values(study["+ RS",])["method"] == resized


def test_pvt_v2_b1_is_trained_as_the_paper_states_and_pvt_has_it():
    for (network, _), cell in cells("table5").items():
        if network != "PVTv2-B1":
            continue
        given = values(cell)
        optimizer = given["optimizer"]
        assert (optimizer["name"], optimizer["lr"]) == ("adamw", 5e-4)
        assert optimizer["weight_decay"] == 0.05
        assert (given["train"]["batch_size"], given["train"]["epochs"]) == (512, 300)
        assert not any(key.startswith("optimizer") for key in cell.assumed), "stated"
        assert (given["train"]["repeats"], given["train"]["label_smoothing"]) == (3, 0.1)
        data = given["dataset"]
        assert (data["color_jitter"], data["lighting"], data["random_erasing"]) == (0, 0, 0.25)
        assert data["interpolation"] == "bicubic"
        schedule = given["schedule"]
        assert 5e-4 * schedule["floor"] == pytest.approx(1e-5)
        assert 5e-4 * schedule["warmup_start"] == pytest.approx(1e-6)
        assert {"train.repeats", "dataset.interpolation", "schedule.floor"} <= set(cell.assumed)


@pytest.mark.parametrize("name", ["table1", "table1_quoted"])
def test_the_rows_that_are_quoted_from_cutmixs_paper_have_its_values(name):
    rows = {labels[0]: values(cell)["method"] for labels, cell in cells(name).items()}
    assert (rows["DropBlock"]["block_size"], rows["DropBlock"]["keep_prob"]) == (4, 0.9)
    assert rows["Stochastic Depth"]["last_survival"] == 0.75
    assert rows["Cutout"]["size"] == 16
    assert rows["Mixup"]["alpha"] == rows["Manifold Mixup"]["alpha"] == 1.0
    assert (rows["CutMix"]["alpha"], rows["CutMix"]["probability"]) == (1.0, 0.5)


@pytest.mark.parametrize("name", ["table6", "table6_quoted"])
def test_so_do_imagenets(name):
    rows = {labels[0]: values(cell)["method"] for labels, cell in cells(name).items()}
    assert rows["Cutout"]["size"] == 112
    assert rows["Stochastic Depth"]["last_survival"] == 0.75
    assert rows["Feature CutMix"]["stage"] == "random"
    assert rows["Mixup"]["alpha"] == rows["Manifold Mixup"]["alpha"] == 1.0


def test_cutmixs_recipe_has_no_warmup_another_normalisation_and_on_imagenet_steps():
    cifar = values(cells("table1_quoted")["CutMix",])
    assert cifar["dataset"]["normalisation"] == "cutmix"
    assert cifar["schedule"]["warmup_epochs"] == 0
    imagenet = values(cells("table6_quoted")["CutMix",])
    assert imagenet["train"]["batch_size"] == 256
    assert imagenet["schedule"]["milestones"] == [75, 150, 225]
    assert imagenet["schedule"]["warmup_epochs"] == 0


def test_cutmix_and_moex_have_both_lambdas_of_moexs_sources():
    rows = {labels[0]: values(cell)["method"] for labels, cell in cells("table6").items()}
    assert rows["CutMix + MoEx"]["label_weight"] == 0.95
    assert rows["CutMix + MoEx, λ=0.9"]["label_weight"] == 0.9


def test_the_transposed_box_stands_beside_table_3s_rm_and_shares_its_trials():
    rm = {cell.trials[0].id for (_, method), cell in cells("table3").items() if "RM" in method}
    boxes = cells("roi_box")
    assert {cell.trials[0].id for (_, box), cell in boxes.items() if box == "aligned"} == rm
    assert all(
        values(cell)["method"]["roi"] == "transposed" and cell.published is not None
        for (_, box), cell in boxes.items()
        if box == "transposed"
    )


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_margin_has_a_reason_and_is_smaller_than_what_the_table_is_about(path):
    spec = load_spec(path)
    if spec.paper is None or spec.metric.is_measured or not path.stem.startswith(("table", "fig")):
        return
    if path.stem.startswith(("table7", "table8", "table9", "table10")):
        return  # points of AP and mIoU
    assert spec.margin_why, "why this margin"
    numbers = [cell.published for cell in spec.cells if cell.published is not None]
    assert spec.margin <= 0.3 < max(numbers) - min(numbers)


def test_every_point_of_fig_4_is_claimed_against_the_baseline_and_fig_5s_on_both_data_sets():
    claims = {claim.text: claim.of for claim in load_spec(EXPERIMENTS / "fig4.yaml").claims}
    for tenth in range(1, 10):
        assert claims[f"α=0.{tenth} < Baseline"] is None
    claims = {claim.text: claim.of for claim in load_spec(EXPERIMENTS / "fig5.yaml").claims}
    best = [text for text, of in claims.items() if text.startswith("ω=0.1 < ") and of is None]
    assert len(best) == 9
