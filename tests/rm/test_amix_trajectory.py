"""AutoMix and AMix by the real loop against a training that was written independently
(amix_reference.py): the same losses and, at the end, the same weights and statistics.
"""

import copy

import pytest
import torch

from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.amix_reference import Facts, Networks, ReferenceTraining

EPOCHS, BATCH, IMAGES = 2, 8, 27  # three batches of 8 and one of 3
CPU = torch.device("cpu")

CASES = {
    "amix": ({"name": "amix"}, Facts(joint=True)),
    "amix, all else": (
        {
            "name": "amix",
            "rescale": 0.25,
            "adjust": 0.5,
            "mask_decay": "cosine",
            "fixed_points": False,
            "block_lr_factor": 0.5,
            "block_floor": 0.01,
            "ema_end": 0.99999,
            "ema_hold": 0.3,
        },
        Facts(
            joint=True,
            rescale=0.25,
            adjust=0.5,
            cosine_beta=True,
            derange=True,
            block_lr=0.025,
            block_floor=0.00025,
            ema_end=0.99999,
            ema_hold=0.3,
        ),
    ),
    "amix, adjusted as released": (
        {"name": "amix", "adjust": 1.0, "adjust_to": "block"},
        Facts(joint=True, adjust=1.0, released_adjusting=True),
    ),
    "automix": ({"name": "automix"}, Facts(joint=False)),
    "automix, lambda channel": (
        {"name": "automix", "lam_channel": True},
        Facts(joint=False, channel=True),
    ),
}


@pytest.fixture
def trial(tiny):
    tiny["dataset"]["limit"] = IMAGES
    tiny["train"] |= {"epochs": EPOCHS, "batch_size": BATCH}
    tiny["schedule"] = {"name": "cosine_floor", "floor": 0.5}
    return tiny


def reference_of(network, facts):
    """The reference's networks: copies of ours before the first step."""
    ours = copy.deepcopy(network)
    block = dict(ours.block.state_dict(keep_vars=True))
    block.pop("value.1.num_batches_tracked", None)  # the reference does not count
    if not facts.joint:
        block.pop("key.weight"), block.pop("key.bias")  # the query's, under a second name
    heads = {"mix": ours.online.head, "one": ours.online_other}
    return Networks(ours.online, heads, block)


def trained(trial, facts):
    """Both trainings of the same batches: our network, the reference's, and pairs of losses."""
    trainer = Trainer(parse_trial(trial), CPU)
    task = trainer.task
    task.model.double()
    for state in trainer.optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].double()
    torch.manual_seed(3)
    for parameter in task.model.block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)  # masks that are far from constant
    networks = reference_of(task.model, facts)
    reference = ReferenceTraining(networks, facts, trial["seed"], "stage3")
    given, losses, real, targets = [], [], task.images.batch, task._targets
    task._targets = lambda labels: targets(labels).double()

    def batch(views, positions):
        images, labels = real(views, positions)
        given.append((images.double().clone(), labels))
        return images.double(), labels

    task.images.batch = batch
    trainer.evaluate = dict  # it would show the model images in fp32
    for epoch in range(1, EPOCHS + 1):
        reference.start_epoch(epoch)
        for _ in range(trainer.steps_per_epoch):
            output = trainer.train_step()
            losses.append((float(output.loss.detach()), reference.step(*given.pop())))
        trainer.end_epoch()
    return task.model, networks, losses


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_double_precision(trial, case):
    trial["method"], facts = CASES[case]
    facts.lr, facts.floor = 0.05, 0.025
    if "block_lr_factor" not in trial["method"]:
        facts.block_lr, facts.block_floor = facts.lr, facts.floor
    model, networks, losses = trained(trial, facts)
    assert len(losses) == 8
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, abs=1e-10)
    pairs = {
        "online": (model.online, networks.online),
        "momentum": (model.momentum, networks.momentum),
        "one_q": (model.online_other, networks.heads_q["one"]),
        "one_k": (model.momentum_other, networks.heads_k["one"]),
        "mix_k": (model.momentum.head, networks.heads_k["mix"]),
    }
    for name, (ours, theirs) in pairs.items():
        for key, value in ours.state_dict().items():
            assert torch.allclose(value, theirs.state_dict()[key], rtol=0, atol=1e-10), name + key
    for key, value in networks.block.items():
        assert torch.allclose(model.block.state_dict()[key], value, rtol=0, atol=1e-10), key
