"""How nodes are divided into slots, and whether trials fit on a GPU together."""

import copy
import json
import os

import pytest

from launch.backends import Limits, gpu_memory
from launch.backends.local import backend as local
from launch.backends.ray.actor import Worker
from launch.backends.ray.cluster import Slots, capacity, divide, joined
from launch.errors import UsageError
from launch.spec import trial
from launch.spec.load import load_spec
from tests.support.backends import Backend
from tests.support.ray_cluster import Cluster
from tests.support.trials import TINY


@pytest.mark.parametrize("workers", [None, 1, 2, 3, 5, 200])
def test_on_one_node_threads_are_those_of_the_local_backend(workers, monkeypatch):
    """Sums on a CPU depend on the number of threads: the numbers of a trial would depend on what
    ran it.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cores = len(os.sched_getaffinity(0))
    slots = divide([{"CPU": cores}], Limits(workers, 1))
    theirs = local.slots(Limits(workers, 1))
    assert str(slots.threads) == theirs[0]["RM_THREADS"]
    assert slots.wanted == len(theirs)
    assert capacity([{"CPU": cores}], slots) >= slots.wanted
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slots = divide([{"CPU": cores, "GPU": 2}], Limits(workers, 2))
    theirs = local.slots(Limits(workers, 2))
    assert (slots.wanted, str(slots.threads)) == (workers or len(theirs), theirs[0]["RM_THREADS"])


def test_workers_share_several_nodes_evenly():
    assert divide([{"CPU": 4}, {"CPU": 8}], Limits(None, 1)) == Slots(12, 1, 0)
    assert divide([{"CPU": 4}, {"CPU": 8}], Limits(3, 1)) == Slots(3, 4, 0)
    assert divide([{"CPU": 4}, {"CPU": 8}], Limits(4, 1)) == Slots(4, 2, 0), (
        "of 3 CPUs each, only 1 + 2 would fit"
    )
    assert divide(
        [{"CPU": 16, "GPU": 4}, {"CPU": 8, "GPU": 4}, {"CPU": 64}], Limits(None, 2)
    ) == Slots(16, 1, 0.5)
    assert divide([{"CPU": 16, "GPU": 4}], Limits(None, 1)) == Slots(4, 4, 1)
    assert divide([{"CPU": 1, "GPU": 3}], Limits(None, 1)) == Slots(3, 0.3333, 1)
    assert divide([{"CPU": 1, "GPU": 1}], Limits(None, 3)) == Slots(3, 0.3333, 0.3333)
    assert divide([{"CPU": 12, "GPU": 2}], Limits(6, 1)) == Slots(6, 2, 0.3333), (
        "more workers than slots are packed"
    )
    with pytest.raises(UsageError, match="has no CPUs"):
        divide([{"GPU": 2}], Limits(None, 1))


def test_too_many_trials_for_a_gpu_are_refused():
    gpu_memory.refuse_if_too_much(3000, 8000, 2, "GPU 0 of n1")
    with pytest.raises(
        UsageError,
        match=r"3 trials do not fit on GPU 0 of n1: each needs 3900 MiB .* --trials-per-gpu 2",
    ):
        gpu_memory.refuse_if_too_much(3000, 8000, 3, "GPU 0 of n1")
    with pytest.raises(UsageError, match="not even one would fit"):
        gpu_memory.refuse_if_too_much(8000, 8000, 2, "GPU 0 of n1")


def test_trials_alike_need_the_same_memory():
    longer = copy.deepcopy(TINY)
    longer["seed"], longer["train"]["epochs"], longer["optimizer"]["lr"] = 5, 300, 0.7
    assert gpu_memory.footprint(longer) == gpu_memory.footprint(TINY)
    for section, option, value in (
        ("train", "batch_size", 17),
        ("backbone", "width", 5),
        ("method", "alpha", 0.1),
    ):
        other = copy.deepcopy(TINY)
        other[section][option] = value
        assert gpu_memory.footprint(other) != gpu_memory.footprint(TINY)


@pytest.mark.cluster
def test_packing_on_a_node_with_a_gpu(write_spec, results, tmp_path, monkeypatch):
    """This machine may have none: Ray is told of one, and of its memory by a program that answers
    as nvidia-smi would.
    """
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(
        '#!/bin/sh\ncase "$*" in *memory.free*) echo 8000;; *) echo "GPU 0: none";; esac\n'
    )
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    path = write_spec(**{"[0, 1]": "[0]"})
    with Cluster(cpus=2, gpus=1) as cluster:
        backend = Backend(
            "ray",
            results,
            ["--backend", "ray", "--address", cluster.address, "--trials-per-gpu", "2"],
        )
        for seed, peak in enumerate((500.0, 3500.0)):
            alike = trial.Trial({**load_spec(path).trials[0].values, "seed": 90 + seed})
            twin = results / "runs" / alike.id
            twin.mkdir(parents=True)
            (twin / "trial.json").write_text(alike.to_json())
            (twin / "journal.jsonl").write_text(
                json.dumps({"event": "epoch", "time": 0.0, "epoch": 1, "peak_memory_mib": peak})
                + "\n"
            )
        code, _, err = backend.run(path)
        assert code == 2
        assert "2 trials do not fit on GPU 0 of " in err
        assert (
            "each needs 4450 MiB (3500 at its peak, and CUDA's own), 8000 MiB are free; "
            "--trials-per-gpu 1" in err
        )
        assert devices(cluster, 0.5, 2) == ["0", "0"], "two share the GPU"
        assert devices(cluster, 1.0, 1) == ["0"]


def devices(cluster, gpus, count):
    """What actors side by side, with that much of a GPU each, may use."""
    with joined(cluster.address):
        import ray

        options = {"num_cpus": 1, "num_gpus": gpus, "max_concurrency": 2}
        actors = [ray.remote(Worker).options(**options).remote() for _ in range(count)]
        answers = ray.get([actor.arrive.remote("/nowhere") for actor in actors])
        for actor in actors:
            ray.kill(actor)
    return [answer["devices"] for answer in answers]
