"""What this machine cannot do is said in a sentence, before anything is made: backends, devices,
data sets.
"""

import pytest
import torch

from launch import cli
from launch.backends import Limits, get
from launch.backends.ray.backend import RayBackend
from launch.errors import UsageError
from launch.plan import make_plan
from launch.spec.load import load_spec
from rm import evaluate
from rm.registry import entries
from tests.support.trials import ROOT

NO_SBATCH = "sbatch is not on the PATH of this machine; --backend slurm"
TABLE5 = ROOT / "experiments" / "table5.yaml"


@pytest.fixture
def nowhere(monkeypatch):
    """No SLURM and no GPU."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--slurm", "partition=gpu"],
            "sbatch is not on the PATH of this machine; --backend slurm",
        ),
        (["--wait"], NO_SBATCH),
        (["--on-slurm", "nodes=2", "--slurm", "partition=gpu"], "of this machine; --on-slurm is"),
        (["--backend", "local", "--address", "auto"], "--address is an option of --backend ray"),
        (["--backend", "slurm", "--address", "auto"], "--address is an option of --backend ray"),
        (
            ["--backend", "ray", "--slurm", "partition=gpu"],
            "--slurm is an option of --backend",
        ),
        (["--slurm", "time=1", "--address", "auto"], "are of different backends: name the one"),
        (
            ["--trials-per-gpu", "2"],
            "there is no GPU on this machine that may be used",
        ),
    ],
)
def test_an_option_of_a_backend_chooses_it_or_is_refused(
    write_spec, results, nowhere, capsys, words, said
):
    assert cli.main([str(write_spec()), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "running" not in err
    assert not results.exists()


def test_an_address_alone_means_ray(write_spec, results, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(RayBackend, "run", lambda self, *_: asked.append(self.address) or {})
    assert cli.main([str(write_spec()), "--address", "10.0.0.1:6379"]) == 0
    assert asked == ["10.0.0.1:6379"]
    assert "--address is an option of --backend ray, which it chooses" in capsys.readouterr().err


def test_a_slurm_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    for name in ("sbatch", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\necho first >&2; echo no controller >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    from launch.backends.slurm import cli as slurm

    slurm.configuration.cache_clear()
    with pytest.raises(UsageError, match=r"nothing is submitted \(no controller\)$"):
        slurm.check_login_node("--backend slurm")


def test_a_device_that_is_not_there_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--task", "detection", "--head", "atss", "--weights", "w.pth", "--device"]
    expected = {"cuda:0": "there is no GPU here that torch can use", "cdua": "no device 'cdua'"}
    for device, said in expected.items():
        with pytest.raises(SystemExit, match="2"):
            evaluate.parser("evaluate").parse_args([*words, device])
        assert f"argument --device: {said}" in capsys.readouterr().err
    assert evaluate.parser("evaluate").parse_args([*words, "cpu"]).device == torch.device("cpu")


def test_a_data_set_that_is_not_here_is_found_once(tmp_path, monkeypatch, results, capsys):
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    spec = load_spec(TABLE5)
    plan = make_plan([spec], results / "runs")
    assert {use.state for use in plan.uses} == {"refused"}
    (said,) = plan.refusals()
    assert said.startswith(
        f"refused: data set 'imagenet' is not on this machine: there is no {tmp_path}/imagenet/"
    )
    assert cli.main([str(TABLE5)]) == 3
    assert capsys.readouterr().err.count("is not on this machine") == 1
    elsewhere = make_plan([spec], results / "runs", data=False)
    assert {use.state for use in elsewhere.uses} == {"waiting"}
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split).mkdir(parents=True)
    assert {use.state for use in make_plan([spec], results / "runs").uses} == {"waiting"}


def test_every_data_set_says_where_it_looks_or_needs_nothing():
    """CIFAR is downloaded, the digits come with a package."""
    silent = {name for name, entry in entries("dataset").items() if not entry.looks_for}
    assert silent == {"cifar10", "cifar100", "digits"}


def test_local_runs_take_any_limits_without_gpus_but_trials_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    get("local")().check(Limits(workers=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    get("local")().check(Limits(trials_per_gpu=3))
