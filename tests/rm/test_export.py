"""Deployed weights: the backbone alone, computing what the trained network computes."""

import subprocess
import sys

import pytest
import torch

from rm import registry
from rm.export import deployed
from rm.rundir import checkpoint
from rm.train import fit
from rm.trial import parse_trial
from tests.support.trials import ROOT, write_trial


def test_the_second_head_is_left_behind(tiny, tmp_path):
    write_trial(tmp_path, tiny)
    fit(parse_trial(tiny), tmp_path)
    trained = checkpoint.load(tmp_path, torch.device("cpu"))["task"]
    weights = deployed(tmp_path)
    assert "model.second_head.weight" in trained
    assert not any("second" in name or name.startswith("backbone.") for name in weights)
    backbone = registry.load("backbone", "resnet8")(10, 1, width=8)
    backbone.load_state_dict(weights, strict=True)
    assert torch.equal(backbone.head.weight, trained["model.backbone.head.weight"])


@pytest.mark.cluster
def test_the_command(tiny, tmp_path):
    words = [
        sys.executable,
        "-m",
        "rm.export",
        str(tmp_path / "run"),
        str(tmp_path / "weights.pt"),
    ]
    write_trial(tmp_path / "run", tiny)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds no whole checkpoint; run the trial first" in done.stderr
    assert "Traceback" not in done.stderr
    fit(parse_trial(tiny), tmp_path / "run")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "weights.pt", weights_only=True)["head.weight"].shape == (10, 32)
