"""`plan --seeds-for-power`: how many seeds the claims of a spec need."""

import pytest

from launch import cli
from launch.commands._power import comparisons
from launch.paths import EXPERIMENTS
from launch.spec.load import load_spec


def test_comparisons_are_those_of_which_the_paper_prints_both_numbers():
    found = {one.name: one.gain for one in comparisons(load_spec(EXPERIMENTS / "table3.yaml"))}
    assert len(found) == 15
    assert found["ResNet-34 · + RM (ours) < + CutMix"] == pytest.approx(17.89 - 17.15)
    assert list(comparisons(load_spec(EXPERIMENTS / "quickstart.yaml"))) == []


def test_the_plan_says_it_in_seeds_trials_and_gpu_hours(capsys):
    spec = str(EXPERIMENTS / "table3.yaml")
    assert cli.main(["plan", spec, "--seeds-for-power", "0.8"]) == 0
    told = capsys.readouterr().out
    assert "  5 seeds: 10.7 of 15 expected to hold, 9 with a power of 0.8 or more" in told
    assert "100 trials, about 115 GPU-hours" in told
    assert "ResNet-18 · + RM (ours) < + CutMix (by 0.97): 5 seeds" in told
    assert cli.main(["plan", spec, "--seeds-for-power", "0.8", "--spread", "0.1"]) == 0
    assert "ResNet-18 · + RM (ours) < + CutMix (by 0.97): 4 seeds" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["1.5"], ["0.8", "--spread", "0"]])
def test_what_is_no_probability_is_refused(options, capsys):
    spec = str(EXPERIMENTS / "table3.yaml")
    assert cli.main(["plan", spec, "--seeds-for-power", *options]) == 2
    assert "lies between 0 and 1" in capsys.readouterr().err
