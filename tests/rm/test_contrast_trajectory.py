"""Contrastive training by the real loop against one that was written independently
(contrast_reference.py): ten steps in double precision, while the queue wraps twice.
"""

import copy

import numpy as np
import pytest
import torch

from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.amix_c_reference import Clusters, ReferenceAMixC
from tests.support.rm.amix_i_reference import ReferenceAMixI
from tests.support.rm.contrast_reference import (
    Encoders,
    Facts,
    ReferenceContrast,
    projections,
)
from tests.support.trials import contrastive

CPU = torch.device("cpu")
EPOCHS, STEPS, BATCH, QUEUE = 2, 5, 8, 32

CASES = {
    "MoCo": ({"name": "baseline"}, True, Facts()),
    "MixUp": ({"name": "mixup", "alpha": 0.7}, True, Facts("mixup", 0.7)),
    "MixUp, same view": ({"name": "mixup"}, False, Facts("mixup", cross_view=False)),
    "CutMix": ({"name": "cutmix"}, True, Facts("cutmix")),
}


def in_double(trainer):
    trainer.task.double()
    for state in trainer.optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].double()
    trainer.evaluate = dict  # it would show the network images in fp32
    given, real = [], trainer.task.views.batches

    def batches(plan, slices):
        for views in real(plan, slices):
            views = views._replace(query=views.query.double(), key=views.key.double())
            given.append((views.query.clone(), views.key.clone(), views.place))
            yield views

    trainer.task.views.batches = batches
    return given


def trained_beside(values, reference_of):
    """Both trainings of the same views: ours, the reference, and pairs of losses."""
    trainer = Trainer(parse_trial(values), CPU)
    given, network = in_double(trainer), trainer.task.network
    torch.manual_seed(3)
    for parameter in trainer.task.method.parameters():  # masks that are far from constant
        parameter.data += 0.3 * torch.randn_like(parameter)
    ours = copy.deepcopy(network)
    encoders = Encoders(ours.online, ours.projector, list(ours.queue.keys))
    reference = reference_of(encoders, trainer.task)
    losses = []
    for epoch in range(1, EPOCHS + 1):
        reference.start_epoch(epoch)
        for _ in range(trainer.steps_per_epoch):
            loss = float(trainer.train_step().loss.detach())
            losses.append((loss, reference.step(*given.pop())))
        trainer.end_epoch()
    return trainer, reference, losses


def assert_agree(trainer, reference, losses):
    network, encoders = trainer.task.network, reference.encoders
    assert len(losses) == EPOCHS * STEPS
    for our_loss, their_loss in losses:
        assert our_loss == pytest.approx(their_loss, abs=1e-10)
    assert torch.allclose(network.queue.keys, torch.stack(encoders.queue), rtol=0, atol=1e-10)
    assert int(network.queue.position) == reference.oldest == EPOCHS * STEPS * BATCH % QUEUE
    pairs = {
        "q": (network.online, encoders.backbone),
        "q's projector": (network.projector, encoders.projector),
        "k": (network.momentum, encoders.slow_backbone),
        "k's projector": (network.momentum_projector, encoders.slow_projector),
    }
    for name, (mine, theirs) in pairs.items():
        for key, value in mine.state_dict().items():
            other = theirs.state_dict()[key]
            assert torch.allclose(value, other, rtol=0, atol=1e-10), f"{name} {key}"


@pytest.fixture
def values(tiny):
    tiny["dataset"]["limit"] = STEPS * BATCH + 3  # which are shown to nobody
    tiny["schedule"] = {"name": "cosine"}
    return {**tiny, "train": {"epochs": EPOCHS, "batch_size": BATCH}}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_double_precision(values, case):
    method, cross_view, facts = CASES[case]
    trial = {**contrastive(values, queue=QUEUE, cross_view=cross_view), "method": method}
    assert_agree(*trained_beside(trial, lambda encoders, _: ReferenceContrast(encoders, facts, 0)))


@pytest.mark.parametrize("partner_view", ["key", "query"])
@pytest.mark.parametrize("objective", ["infonce + bce", "bce"])
def test_amix_i_equals_its_reference(values, partner_view, objective):
    method = {"name": "amix_i", "objective": objective, "partner_view": partner_view}
    trial = {**contrastive(values, queue=QUEUE), "method": method}

    def reference_of(encoders, task):
        block = copy.deepcopy(dict(task.method.block.state_dict(keep_vars=True)))
        block.pop("value.1.num_batches_tracked")
        return ReferenceAMixI(encoders, Facts(), 0, block, partner_view == "key", objective)

    trainer, reference, losses = trained_beside(trial, reference_of)
    assert_agree(trainer, reference, losses)
    for key, value in trainer.task.method.block.state_dict().items():
        if key in reference.block:
            assert torch.allclose(value, reference.block[key], rtol=0, atol=1e-10), key


@pytest.mark.parametrize("objective", ["ce + bce", "pbce"])
def test_amix_c_equals_its_reference(values, objective):
    """From clusters of the pictures as they are; centroids move at every third step."""
    method = {"name": "amix_c", "objective": objective, "clusters": 3}
    trial = {**contrastive(values, queue=QUEUE), "method": method}

    def reference_of(encoders, task):
        method, pseudo = task.method, task.method.pseudo
        clusters = pseudo.clusters
        with torch.no_grad():
            shown = torch.cat(list(task._pictures())).double()
            slow = copy.deepcopy(encoders.slow_backbone)  # by batch statistics, as in training
            features = projections(slow, encoders.slow_projector, shown)
        clusters.start(features, np.random.default_rng(0))
        clusters.smallest, pseudo.every = 1, 3
        block = copy.deepcopy(dict(method.block.state_dict(keep_vars=True)))
        block.pop("value.1.num_batches_tracked")
        reference = ReferenceAMixC(encoders, Facts(), 0, block, True, objective)
        state = copy.deepcopy([clusters.bank, clusters.labels, clusters.centroids])
        head = copy.deepcopy((method.head.weight, method.head.bias))
        reference.add_clusters(Clusters(*state, head, pseudo.every))
        return reference

    trainer, reference, losses = trained_beside(trial, reference_of)
    assert_agree(trainer, reference, losses)
    method, known = trainer.task.method, reference.clusters
    assert torch.equal(method.pseudo.labels, known.labels)
    for mine, theirs in (
        (method.pseudo.clusters.bank, known.bank),
        (method.pseudo.clusters.centroids, known.centroids),
        (method.head.weight, known.head[0]),
        (method.head.bias, known.head[1]),
        *((v, reference.block[k]) for k, v in method.block.state_dict().items() if "num" not in k),
    ):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-10)
