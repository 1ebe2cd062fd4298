"""Contrastive pre-training: the queue, whose keys are whose, what gets gradients, and that it is
interrupted anywhere and ends with the same bits.
"""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rm import registry
from rm.datasets import DataError, data_dir
from rm.methods._moco import Queue, info_nce
from rm.methods.mixup import Mixup
from rm.schedules import StepContext
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial
from tests.support.rm.training import assert_equal_runs, train
from tests.support.trials import contrastive

CPU = torch.device("cpu")
PARENT = "0123456789ab"
OPTIONS = {name: {"clusters": 4} for name in ("amix_c", "inter_intra")}
OPTIONS["puzzlemix"] = {"pseudo_labels": 4}
ALONE = sorted(
    name for name, entry in registry.entries("method").items() if entry.tasks == ("contrastive",)
)
"""Methods that are for this task alone."""
METHODS = [
    name
    for name, entry in registry.entries("method").items()
    if not entry.tasks or "contrastive" in entry.tasks
]


@pytest.fixture
def trial(tiny):
    return contrastive(tiny)


def trainer_of(trial, **changes):
    return Trainer(parse_trial({**trial, **changes}), CPU)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_queue_wraps_and_the_oldest_keys_leave_first():
    queue, batches = Queue(12, 3), [unit(4, 3, seed=n) for n in range(1, 6)]
    start = queue.keys.clone()
    for number, batch in enumerate(batches):
        queue.add(batch, torch.arange(4) + number)
        assert int(queue.position) == 4 * (number + 1) % 12
        newest = [*reversed(batches[: number + 1]), *[None] * 3][:3]
        for age, kept in enumerate(newest):
            place = 4 * ((number - age) % 3)
            expected = start[place : place + 4] if kept is None else kept
            assert torch.equal(queue.keys[place : place + 4], expected)
            pictures = torch.full((4,), -1) if kept is None else torch.arange(4) + number - age
            assert torch.equal(queue.places[place : place + 4], pictures)


def test_each_image_is_told_from_the_queue_alone():
    """Not from the other images of its batch, and from its own key only as the positive."""
    m, keys, queue = unit(4, 5), unit(4, 5, seed=1), unit(7, 5, seed=2)
    each = info_nce(m, keys, queue, 0.2)
    for i in range(4):
        logits = torch.cat([m[i] @ keys[i : i + 1].T, m[i] @ queue.T]) / 0.2
        assert torch.allclose(each[i], -logits.log_softmax(0)[0])
        assert torch.allclose(info_nce(m[i : i + 1], keys[i : i + 1], queue, 0.2), each[i])
    assert torch.allclose(info_nce(m, keys, queue, 0.2, torch.eye(4)), each)
    orthogonal = torch.eye(6)
    assert info_nce(orthogonal[:1], orthogonal[:1], orthogonal[1:], 0.01).item() < 1e-6


def test_own_and_partner_exchanged_change_nothing():
    images, keys, queue = torch.randn(6, 3, 4, 4), unit(6, 5, seed=1), unit(9, 5, seed=2)
    mixed = Mixup(alpha=1.0).mix(images, torch.eye(6), StepContext(np.random.default_rng(3)))
    found = F.normalize(mixed.images.flatten(1)[:, :5], dim=1)
    loss = info_nce(found, keys, queue, 0.2, mixed.targets)
    # The partners as own images: j with i as its partner and 1 - lambda is the same mixture.
    assert mixed.partner is not None
    swapped = torch.zeros(6, 6)
    for row, partner in enumerate(mixed.partner):
        swapped[row, row] += mixed.area
        swapped[row, mixed.partner.argsort()[row]] += 1 - mixed.area
        again = torch.lerp(images[row], images[partner], mixed.area)
        assert torch.allclose(again, mixed.images[row])
    back = mixed.partner
    other = info_nce(found[back.argsort()], keys, queue, 0.2, swapped)
    assert torch.allclose(other, loss[back.argsort()], atol=1e-6)
    shares = torch.rand(6, 1)
    one, two = (
        info_nce(found, keys, queue, 0.2, torch.eye(6)[order]) for order in (back, [*range(6)])
    )
    mixture = shares * torch.eye(6)[back] + (1 - shares) * torch.eye(6)
    linear = shares[:, 0] * one + (1 - shares[:, 0]) * two
    assert torch.allclose(info_nce(found, keys, queue, 0.2, mixture), linear, atol=1e-6)


def test_keys_are_of_the_second_view_by_the_slow_encoder(trial):
    trainer = trainer_of(trial, method={"name": "mixup"})
    network = trainer.task.network
    trainer.train_step()
    views = next(trainer.task.batches(trainer.epoch_plan, trainer.step))
    before = copy.deepcopy(network)
    trainer.train_step()
    expected = F.normalize(before.project(views.key), dim=1)
    assert torch.equal(network.queue.keys[16:32], expected)
    assert torch.equal(network.queue.keys[:16], before.queue.keys[:16])
    assert torch.equal(network.queue.keys[32:], before.queue.keys[32:])
    for slow, fast, was in zip(*network.followed(), before.followed()[0], strict=True):
        if fast.requires_grad:
            assert torch.equal(slow, torch.lerp(was, fast, 1 - 0.9))
            assert not torch.equal(slow, was)


def test_only_the_online_encoder_has_gradients(trial):
    trainer = trainer_of(trial, method={"name": "cutmix"})
    task, network = trainer.task, trainer.task.network
    views = next(task.batches(trainer.epoch_plan, 0))
    views = views._replace(key=views.key.requires_grad_(), query=views.query.requires_grad_())
    output = task(views, trainer._step_context())
    queue = network.queue.keys.clone()
    output.loss.backward()
    assert views.key.grad is None
    assert views.query.grad.abs().sum() > 0
    assert not task.pending[0].requires_grad
    assert torch.equal(queue, network.queue.keys), "a batch's keys are not its own negatives"
    for name, parameter in network.named_parameters():
        fast = name.startswith(("online.", "projector.")) and not name.startswith("online.head.")
        assert (parameter.grad is not None) == fast, name
    assert {id(p) for p in trainer.trained} == {
        id(p) for p in network.parameters() if p.grad is not None
    }


def test_keys_of_the_mixed_view_collapse(trial):
    """With keys of the very view that is mixed, colours and shape give an image away: the loss
    falls to less, and says nothing.
    """
    trial["train"] |= {"epochs": 12, "evaluate_every": 12}
    trial["optimizer"]["lr"], trial["schedule"] = 0.1, {"name": "constant"}
    losses = {}
    for cross_view in (True, False):
        task = {**trial["task"], "cross_view": cross_view, "smallest_area": 0.08}
        trainer = trainer_of(trial, method={"name": "mixup"}, task=task)
        found = []
        for _ in range(12):
            for _ in range(trainer.steps_per_epoch):
                trainer.train_step()
            found.append(trainer.end_epoch()["mix_loss"])
        losses[cross_view] = np.mean(found[4:])
    assert losses[False] < losses[True] - 0.1


@pytest.mark.parametrize("name", METHODS)
def test_any_method_that_mixes_does_so_inside_it(trial, name):
    """By its `mix` or `show` alone: a mixed loss beside the clean one, and another network."""
    if registry.missing_files(registry.check("method", {"name": name})[0], data_dir()):
        pytest.skip(f"{name} needs files")
    method = {"name": name, **OPTIONS.get(name, {})}
    trainer, plain = trainer_of(trial, method=method), trainer_of(trial)
    outputs = [trainer.train_step() for _ in range(2)]
    plain.train_step()
    for output in outputs:
        assert torch.isfinite(output.loss)
        assert ("mix_loss" in output.logs) == (name != "baseline")
    assert outputs[0].logs["clean_loss"] / 16 == pytest.approx(
        float(plain.sums["clean_loss"]) / 16, rel=1e-4
    )


@pytest.mark.parametrize("method", ["baseline", "mixup", "puzzlemix", *ALONE])
def test_it_resumes_in_mid_epoch_bit_for_bit(trial, tmp_path, method):
    trial |= {"method": {"name": method, **OPTIONS.get(method, {})}}
    for name, stops in (("whole", ()), ("stopped", (7, 3, 1))):
        train(trial, tmp_path / name, stops)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert 0 <= result["metrics"]["last_neighbour_accuracy"] <= 100
    assert result["pictures"] == 70


def test_a_linear_evaluation_leaves_every_bit_of_what_was_pretrained(trial, tiny, tmp_path):
    train(trial, tmp_path / PARENT)
    left = torch.load(tmp_path / PARENT / "weights.pt", weights_only=True)
    assert not any(name.startswith("head.") for name in left)
    init = {"trial": PARENT, "weights": "last", "part": "backbone"}
    probe = {**tiny, "method": {"name": "baseline"}, "init": init, "freeze": "backbone"}
    train(probe, tmp_path / "probe")
    ended = torch.load(tmp_path / "probe" / "weights.pt", weights_only=True)
    assert left.keys() == {name for name in ended if not name.startswith("head.")}
    assert all(torch.equal(ended[name], value) for name, value in left.items())


def test_a_random_backbone_can_be_frozen_as_a_control(tiny, tmp_path):
    values = {**tiny, "method": {"name": "baseline"}, "freeze": "random backbone"}
    trainer = trainer_of(values)
    before = trainer.task.deployed()
    trainer.train_step()
    after = trainer.task.deployed()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    init = {"trial": PARENT, "weights": "last", "part": "backbone"}
    with pytest.raises(TrialError, match="a random backbone has no init; valid with init"):
        parse_trial({**values, "init": init})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.queue": 100}, r"task.queue % train.batch_size == 0: the queue takes whole"),
        ({"train.label_smoothing": 0.1}, "two views of a picture, and no labels"),
        ({"method": {"name": "recursive_mix"}}, "'recursive_mix' is not for task 'contrastive'"),
        ({"method": {"name": "stochastic_depth"}}, "is not for task 'contrastive'; valid: "),
        ({"freeze": "backbone"}, "task 'contrastive' does not read 'freeze'"),
        ({"dataset": {"name": "coco"}}, "dataset 'coco' is not for task 'contrastive'"),
    ],
)
def test_what_cannot_be_trained_is_refused(trial, changes, message):
    for key, value in changes.items():
        section, _, option = key.partition(".")
        trial[section] = {**trial[section], option: value} if option else value
    with pytest.raises(TrialError, match=message):
        parse_trial(trial)


def test_too_few_pictures_and_unfit_batches_are_refused(trial):
    trial["dataset"]["limit"] = 10
    with pytest.raises(DataError, match="has 10 pictures to train on, which make no batch of 16"):
        trainer_of(trial)
    trial["train"]["batch_norm_groups"] = 3
    with pytest.raises(TrialError, match="batch_size 16 one of batch_norm_groups"):
        trainer_of(trial)
