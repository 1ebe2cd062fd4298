"""`train.cuda_graph`: a step on buffers that stay has the bits of a plain one, and calls nothing
that a graph could not replay. Where there is a GPU, its graphs are compared too.
"""

import json

import pytest
import torch

from rm import graph, registry
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial
from tests.support.rm.tape import Tape, recorded
from tests.support.rm.training import assert_equal_runs, train
from tests.support.trials import write_trial

CLASSIFYING = {
    name: entry
    for name, entry in registry.entries("method").items()
    if "classification" in (entry.tasks or ("classification",)) and name != "stylecutmix"
}  # stylecutmix needs files
REFUSING = {
    name for name, entry in CLASSIFYING.items() if "not train.cuda_graph" in entry.together
}
METHODS = sorted(set(CLASSIFYING) - REFUSING)
OPTIONS = {
    "recursive_mix": {"alpha": 0.9, "omega": 0.5},
    "moex": {"probability": 0.5},
    "cutmix_moex": {"moex_probability": 0.5},
    "stochastic_depth": {"last_survival": 0.9},
}
CPU = torch.device("cpu")


class Taped(graph._Buffers):
    """In place of a GPU's graph: recorded at the first step of its kind, then played back."""

    replays = 0

    def __init__(self, tensors):
        super().__init__(tensors)
        self.tape: Tape | None = None

    def step(self, call):
        if self.tape is None:
            self.found, self.tape = recorded(call)
        else:
            Taped.replays += 1
            self.tape.replay()
        return self.found


@pytest.fixture
def taped(monkeypatch):
    monkeypatch.setattr(graph, "_Buffers", Taped)
    Taped.replays = 0


def trained(trial, device=CPU, **options):
    """All that a trainer holds after two epochs, as its checkpoint has it, and the metrics."""
    values = {**trial, "train": {**trial["train"], **options}}
    run = Trainer(parse_trial(values), device)
    for _ in range(2):
        while run.step < run.steps_per_epoch:
            run.train_step()
        run.end_epoch()
    state = run.state_dict()
    speeds = ("seconds", "images_per_second", "peak_memory_mib")
    numbers = [{k: v for k, v in epoch.items() if not k.endswith(speeds)} for epoch in run.epochs]
    return {"task": state["task"], "optimizer": state["optimizer"]}, numbers


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", METHODS)
def test_a_played_back_step_has_the_bits_of_a_plain_one(taped, tiny, name):
    tiny["method"] = {"name": name, **OPTIONS.get(name, {})}
    plain, played = trained(tiny), trained(tiny, cuda_graph=True)
    assert played[1] == plain[1]
    assert same(played[0], plain[0])
    assert Taped.replays >= 3, "the comparison was one of plain steps"


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"precision": "fp16", "clip_norm": 1.0},
        {"batch_norm_groups": 2, "label_smoothing": 0.1, "channels_last": False},
    ],
)
def test_so_it_has_with_every_option_of_the_loop(taped, tiny, change):
    tiny["method"] |= OPTIONS["recursive_mix"]
    tiny["train"] |= change
    plain, played = trained(tiny), trained(tiny, cuda_graph=True)
    assert played[1] == plain[1]
    assert same(played[0], plain[0])
    assert Taped.replays >= 3


@pytest.mark.parametrize(
    "schedule", [{"name": "poly"}, {"name": "cosine", "warmup_epochs": 1}], ids=lambda s: s["name"]
)
def test_each_step_has_its_own_learning_rate(taped, tiny, schedule):
    tiny["optimizer"] = {"name": "adamw", "lr": 1e-2}
    tiny["schedule"] = schedule
    plain, played = trained(tiny), trained(tiny, cuda_graph=True)
    assert same(played, plain)
    assert all(type(group["lr"]) is float for group in played[0]["optimizer"]["param_groups"])


def test_a_number_that_is_not_in_a_tensor_would_be_found(taped, tiny, monkeypatch):
    """The tape is no eager step in disguise: what is left to Python stays at its first value."""
    from rm.methods.baseline import Baseline

    computed, scale = Baseline.compute, iter(range(1, 100))

    def scaled(self, model, kind, tensors):
        output = computed(self, model, kind, tensors)
        return output._replace(loss=output.loss * next(scale))

    monkeypatch.setattr(Baseline, "compute", scaled)
    tiny["method"] = {"name": "baseline"}
    trained(tiny, cuda_graph=True)
    assert next(scale) == 2


@pytest.mark.parametrize("stops", [(3, 4, 6), (1, 9)])
def test_it_resumes_in_mid_epoch_with_the_same_bits(tiny, tmp_path, stops):
    train(tiny, tmp_path / "plain")
    tiny["train"]["cuda_graph"] = True
    train(tiny, tmp_path / "stopped", stop_before=stops)
    assert_equal_runs(tmp_path / "plain", tmp_path / "stopped")


def test_a_run_may_go_on_with_it_or_without(tiny, tmp_path):
    train(tiny, tmp_path / "plain")
    remaining = iter(range(4))
    from rm.train import Interrupted, fit

    folder = tmp_path / "changed"
    write_trial(folder, tiny)
    with pytest.raises(Interrupted):
        fit(parse_trial(tiny), folder, stop=lambda: next(remaining, None) is None)
    tiny["train"]["cuda_graph"] = True
    fit(parse_trial(tiny), folder)
    assert_equal_runs(tmp_path / "plain", folder)


@pytest.mark.parametrize("name", sorted(CLASSIFYING))
def test_a_method_can_or_says_why_not(tiny, name):
    tiny["method"] = {"name": name, **OPTIONS.get(name, {})}
    tiny["train"]["cuda_graph"] = True
    if name in REFUSING:
        with pytest.raises(TrialError, match=rf"{name}.* must satisfy not train.cuda_graph: \w+"):
            parse_trial(tiny)
    method = registry.load("method", name)(**OPTIONS.get(name, {}))
    assert method.has_fixed_shapes == (name not in REFUSING)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_replays_the_bits_of_its_plain_steps(tiny, name, precision):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        tiny["method"] = {"name": name, **OPTIONS.get(name, {})}
        tiny["train"]["precision"] = precision
        device = torch.device("cuda")
        plain, played = (trained(tiny, device, cuda_graph=choice) for choice in (False, True))
        assert json.dumps(played[1]) == json.dumps(plain[1])
        assert same(played[0], plain[0])
    finally:
        torch.use_deterministic_algorithms(False)
