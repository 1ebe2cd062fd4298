"""What `run` and `sync` keep of real trials on request: system metrics and weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from launch.cli import main
from launch.spec.load import load_spec
from launch.worker import system_metrics
from rm import registry
from rm.rundir import checkpoint
from tests.support import inprocess
from tests.support.tracking.journals import environment
from tests.support.trials import PATIENCE, ROOT

SEEDS_ONE = {"seeds: [0, 1]": "seeds: [0]"}


@pytest.fixture
def call(stored, tmp_path):
    def run(*words, **variables):
        env = environment(tmp_path / "results", CUDA_VISIBLE_DEVICES="", **variables)
        command = [sys.executable, "launch/run.py", *map(str, words)]
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE
        )

    return run


def mirrored(tmp_path):
    """MLflow's client, and its runs by trial id."""
    client = MlflowClient(f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("recursivemix").experiment_id
    return client, {run.data.tags["trial_id"]: run for run in client.search_runs([experiment])}


@pytest.mark.cluster
def test_system_metrics_of_a_real_trial_stand_in_mlflow_once(write_spec, call, results, tmp_path):
    spec = write_spec(**SEEDS_ONE, **{"epochs: 2": "epochs: 20"})
    done = call(spec, "--workers", "1", "--system-metrics", "0.1", RM_TRACKING="off")
    assert done.returncode == 0, done.stderr
    assert main(["sync"]) == 0
    client, runs = mirrored(tmp_path)
    assert len(runs) == 2
    for trial, run in runs.items():
        lines = (tmp_path / "results" / "runs" / trial / "system.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        assert len(samples) >= 2
        assert run.data.tags["system_samples"] == str(len(samples))
        for name in (
            "cpu_utilization_percentage",
            "system_memory_usage_percentage",
            "process_memory_usage_megabytes",
        ):
            history = client.get_metric_history(run.info.run_id, f"system/{name}")
            assert [(point.step, point.value) for point in history] == [
                (step, sample[name]) for step, sample in enumerate(samples, 1)
            ]
        assert all(0 <= sample["cpu_utilization_percentage"] <= 100 for sample in samples)
        assert max(sample["process_cpu_percentage"] for sample in samples) > 0, "it trained"
        assert min(sample["process_memory_usage_megabytes"] for sample in samples) > 50
        assert not [name for name in run.data.metrics if "gpu" in name]

    killed = next(
        iter(runs.values())
    )  # a mirror that died between the points and their mark sends them again
    client.delete_tag(killed.info.run_id, "system_samples")
    with (tmp_path / "results" / "runs" / killed.data.tags["trial_id"] / "system.jsonl").open(
        "a"
    ) as file:
        file.write('{"time": 1795000000.0, "cpu_uti')  # and a worker in the middle of a line
    assert main(["sync", "--full"]) == 0
    client, again = mirrored(tmp_path)
    for run in again.values():
        steps = [
            p.step
            for p in client.get_metric_history(
                run.info.run_id, "system/cpu_utilization_percentage"
            )
        ]
        assert steps == list(range(1, int(run.data.tags["system_samples"]) + 1))


@pytest.mark.cluster
def test_nothing_is_sampled_unless_it_is_asked_for(write_spec, call, tmp_path, monkeypatch):
    monkeypatch.setenv("RM_TRACKING", "off")  # what is sampled lies beside the journal
    spec = write_spec(**SEEDS_ONE)
    wrong = call(spec, "--system-metrics", "never")
    assert wrong.returncode == 2
    assert "a number of seconds from 0.1 to 3600, found 'never'" in wrong.stderr
    assert call(spec, "--workers", "1").returncode == 0
    assert not list((tmp_path / "results" / "runs").glob("*/system.jsonl"))


def test_gpus_are_left_out_where_there_are_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert system_metrics.gpus() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpus_are_read_by_nvml():
    values = system_metrics.gpus()
    assert 0 <= values["gpu_0_utilization_percentage"] <= 100
    assert 0 < values["gpu_0_memory_usage_percentage"] <= 100
    assert values["gpu_0_memory_usage_megabytes"] > 0
    assert f"gpu_{torch.cuda.device_count()}_memory_usage_megabytes" not in values


@pytest.mark.cluster
def test_weights_arrive_as_artifacts_once_and_load_without_this_project(
    write_spec, stored, results, capsys, tmp_path
):
    spec = write_spec()
    inprocess.train(spec, results, {"RM_TRACKING": "on"})
    capsys.readouterr()
    trials = [trial for cell in load_spec(spec).cells for trial in cell.trials]
    lost = tmp_path / "results" / "runs" / trials[0].id
    for file in lost.glob("*.pt"):
        file.unlink()
    assert main(["sync", "--weights"]) == 1
    said = capsys.readouterr().err
    assert f"error: {lost} could not be exported" in said
    assert "holds no whole checkpoint" in said
    assert "Traceback" not in said

    client, runs = mirrored(tmp_path)
    assert "weights" not in runs[trials[0].id].data.tags
    for trial in trials[1:]:
        run = runs[trial.id]
        path = Path(
            client.download_artifacts(run.info.run_id, run.data.tags["weights"], str(tmp_path))
        )
        weights = torch.load(path, weights_only=True)
        network = registry.load("backbone", "resnet8")(10, 1, width=8)
        network.load_state_dict(weights, strict=True)
        trained = checkpoint.load(tmp_path / "results" / "runs" / trial.id, torch.device("cpu"))[
            "task"
        ]
        head = next(
            trained[name]
            for name in ("model.backbone.head.weight", "model.head.weight")
            if name in trained
        )
        assert torch.equal(network.head.weight, head)

    before = {trial: run.data.tags for trial, run in runs.items()}
    stamps = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "results" / "artifacts").rglob("*.pt")
    }
    assert len(stamps) == len(trials) - 1
    (tmp_path / "results" / "runs" / trials[0].id / "origin.json").write_text(
        "{}"
    )  # a committed run has no checkpoint
    assert main(["sync", "--weights"]) == 0
    assert "the weights of 0 runs are new artifacts" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert {
        trial: run.data.tags.get("weights") for trial, run in mirrored(tmp_path)[1].items()
    } == {trial: tags.get("weights") for trial, tags in before.items()}
