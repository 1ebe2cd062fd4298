"""What a trial is trained on: read from the spec, kept in the run directory, refused where it
cannot be.
"""

import json
import re

import pytest

from launch.backends import Limits
from launch.backends.local import backend as local
from launch.backends.ray.cluster import Slots, divide_among_groups
from launch.errors import UsageError
from launch.runs.resources import keep, wanted
from launch.spec.load import SpecError, load_spec
from launch.spec.resources import ONE, Resources, incompatibility
from tests.support.trials import ROOT


def lines(error: SpecError) -> list[str]:
    return str(error).splitlines()


def test_a_spec_a_row_and_a_labelled_group_say_what_they_take(write_spec):
    path = write_spec(
        **{
            "trial:\n": "resources: {gpus: 2}\ntrial:\n",
            "batch_size: 16": "batch_size: 16, batch_norm_groups: 4",
            "axes:\n": "axes:\n  size:\n    small: {}\n    large: {resources: {nodes: 2, gpus: "
            "2}, seeds: [0]}\n",
        }
    )
    spec = load_spec(path)
    assert {cell.labels[0]: cell.resources for cell in spec.cells} == {
        "small": Resources(1, 2),
        "large": Resources(2, 2),
    }
    assert {cell.resources for cell in load_spec(path, "smoke").cells} == {ONE}, (
        "a smaller copy is for any machine"
    )
    text = path.read_text().replace(
        "{train.epochs: 1, seeds: [3]}", "{train.epochs: 1, resources: {gpus: 4}}"
    )
    path.write_text(text)
    assert {cell.resources for cell in load_spec(path, "smoke").cells} == {Resources(1, 4)}


def test_resources_are_no_part_of_a_trial(write_spec):
    plain = {"batch_size: 16": "batch_size: 16, batch_norm_groups: 2"}
    alone = load_spec(write_spec(**plain)).trials
    together = load_spec(
        write_spec(**plain, **{"trial:\n": "resources: {nodes: 2}\ntrial:\n"})
    ).trials
    assert [trial.id for trial in alone] == [trial.id for trial in together]


@pytest.mark.parametrize(
    ("written", "where", "said"),
    [
        ("{gpu: 8}", 4, "resources has no 'gpu'; did you mean 'gpus'?"),
        ("{gpus: 0}", 4, "resources.gpus must be a whole number >= 1, found 0"),
        ("{nodes: true}", 4, "resources.nodes must be a whole number >= 1, found True"),
        ("8", 4, "resources must be a mapping such as {nodes: 1, gpus: 8}, found 8"),
        (
            "{gpus: 3}",
            4,
            "cannot be shared by 3 processes (3 GPUs): both must be multiples of it; valid: 1, "
            "2, 4",
        ),
        (
            "{nodes: 4, gpus: 2}",
            4,
            "by 8 processes (4 nodes with 2 GPUs each): both must be multiples",
        ),
    ],
)
def test_mistakes_have_their_place(write_spec, written, where, said):
    path = write_spec(
        **{
            "trial:\n": f"resources: {written}\ntrial:\n",
            "batch_size: 16": "batch_size: 16, batch_norm_groups: 4",
        }
    )
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    (line,) = lines(caught.value)
    assert re.match(rf"{re.escape(str(path))}:{where}:\d+: ", line)
    assert said in line


def test_the_imagenet_specs_take_what_the_authors_had_and_their_smoke_profile_nothing():
    for name in ("table5", "table6"):
        spec = load_spec(ROOT / "experiments" / f"{name}.yaml")
        assert {cell.resources for cell in spec.cells} == {Resources(1, 8)}
        assert {cell.resources for cell in load_spec(spec.path, "smoke").cells} == {ONE}
    for name in ("table4a", "table4b"):
        cells = load_spec(ROOT / "experiments" / f"{name}.yaml").cells
        assert {
            c.resources for c in cells if c.trials[0].values["dataset"]["name"] == "imagenet"
        } == {Resources(1, 8)}
        assert {
            c.resources for c in cells if c.trials[0].values["dataset"]["name"] != "imagenet"
        } == {ONE}


def test_a_run_that_has_begun_keeps_its_number_of_processes(tmp_path):
    keep(tmp_path, Resources(2, 4))
    assert wanted(tmp_path) == Resources(2, 4)
    keep(tmp_path, ONE)
    assert wanted(tmp_path) == ONE
    assert not (tmp_path / "resources.json").exists()
    (tmp_path / "journal.jsonl").write_text(
        json.dumps({"event": "started", "time": 0.0, "processes": 4}) + "\n"
    )
    assert wanted(tmp_path) == ONE, "what left no checkpoint begins anew"
    (tmp_path / "checkpoint.pt").touch()
    assert wanted(tmp_path) == Resources(1, 4)
    keep(tmp_path, Resources(2, 2))
    assert wanted(tmp_path) == Resources(2, 2), "as many, elsewhere"


def test_gpus_of_this_machine_are_given_out_whole(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    found = local.group_slots(2, None)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in found] == ["0,1", "2,3"]
    with pytest.raises(UsageError, match="take 8 GPUs each, and this machine has 5; --gpus N"):
        local.group_slots(8, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert [slot["RM_THREADS"] for slot in local.group_slots(4, None)] == ["1", "1"]
    assert [slot["RM_THREADS"] for slot in local.group_slots(4, 1)] == ["2"]


def test_on_ray_a_trial_stays_on_one_node():
    assert divide_among_groups([{"CPU": 16, "GPU": 8}, {"CPU": 8, "GPU": 4}], None, 4) == Slots(
        3, 8, 4, 4
    )
    assert divide_among_groups([{"CPU": 16, "GPU": 8}, {"CPU": 64}], None, 4) == Slots(2, 8, 4, 4)
    assert divide_among_groups([{"CPU": 8}], None, 4) == Slots(2, 4, 0, 4)
    assert divide_among_groups([{"CPU": 8}], 1, 4).threads == 2
    with pytest.raises(
        UsageError, match="no node of the Ray cluster has more than 4; --backend slurm"
    ):
        divide_among_groups([{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 4}], None, 8)


def test_threads_of_a_worker_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert {slot["OMP_WAIT_POLICY"] for slot in local.slots(Limits(workers=2))} == {"PASSIVE"}
    assert local.group_slots(2, None)[0]["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert local.slots(Limits(workers=1))[0]["OMP_WAIT_POLICY"] == "ACTIVE"


def test_parts_of_a_batch_are_shared_by_processes():
    values = {
        "train": {"batch_size": 16, "batch_norm_groups": 1},
        "task": {"name": "detection", "micro_batches": 4},
        "head": {"name": "atss"},
    }
    for count in (1, 2, 4, 8):
        assert incompatibility(values, Resources(1, count)) is None
    values["train"]["batch_size"] = 48
    said = incompatibility(values, Resources(1, 3))
    assert said is not None
    assert "task.micro_batches 4 cannot be shared by 3 processes (3 GPUs): one must be a" in said
