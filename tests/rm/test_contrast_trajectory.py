"""Contrastive training by the real loop against one that was written independently
(contrast_reference.py): ten steps in double precision, while the queue wraps twice.
"""

import copy

import pytest
import torch

from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.contrast_reference import Encoders, Facts, ReferenceContrast
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
            given.append((views.query.clone(), views.key.clone()))
            yield views

    trainer.task.views.batches = batches
    return given


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_double_precision(tiny, case):
    method, cross_view, facts = CASES[case]
    values = contrastive(tiny, queue=QUEUE, cross_view=cross_view)
    values |= {"method": method, "train": {"epochs": EPOCHS, "batch_size": BATCH}}
    values["dataset"]["limit"] = STEPS * BATCH + 3  # which are shown to nobody
    values["schedule"] = {"name": "cosine"}
    trainer = Trainer(parse_trial(values), CPU)
    given, network = in_double(trainer), trainer.task.network
    ours = copy.deepcopy(network)
    encoders = Encoders(ours.online, ours.projector, list(ours.queue.keys))
    reference = ReferenceContrast(encoders, facts, values["seed"])
    losses = []
    for epoch in range(1, EPOCHS + 1):
        reference.start_epoch(epoch)
        for _ in range(trainer.steps_per_epoch):
            loss = float(trainer.train_step().loss.detach())
            losses.append((loss, reference.step(*given.pop())))
        trainer.end_epoch()
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
