"""A fair part of `make smoke`: small copies of the paper's tables really train, on real images,
and end as a report.
"""

import json

import pytest

from analysis import report
from launch import cli
from launch.paths import EXPERIMENTS
from rm.datasets import DataError, load

PARTS = {
    "every kind of row at a ResNet-8": (["quickstart", "cifar10_small"], []),
    "Table 3's ResNet-18": (["table3"], ["backbone=resnet18"]),
    "ImageNet's networks": (["table5", "table6"], ["method=recursive_mix"]),
    "what is measured": (["fig7"], []),
}


@pytest.mark.cluster
@pytest.mark.parametrize("part", PARTS)
def test_a_small_copy_of_a_table_trains_and_is_reported(part, results, capsys):
    names, conditions = PARTS[part]
    for dataset in ("cifar10", "cifar100"):
        try:
            load(dataset, {})
        except DataError as error:
            pytest.skip(str(error))
    specs = [str(EXPERIMENTS / f"{name}.yaml") for name in names]
    where = [word for condition in conditions for word in ("--where", condition)]
    assert cli.main([*specs, "--profile", "smoke", "--workers", "1", "--json", *where]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert trials
    assert {trial["state"] for trial in trials} == {"finished"}
    formats = ["--format", "html,md,latex,csv"]
    assert (
        report.main([*specs, "--profile", "smoke", "--output", str(results / "report"), *formats])
        == 0
    )
    for name in names:
        written = {path.suffix for path in (results / "report").glob(f"{name}*")}
        assert {".md", ".tex", ".csv"} <= written
    assert list((results / "report").glob("*.html"))
