"""What AMix's block learns from in Table 1: keys, clusters, and which of them are left out."""

import pytest
import torch
import torch.nn.functional as F

from rm import registry
from rm.methods._block_teacher import BlockTeacher, Lesson, Pair
from rm.schedules import StepContext
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.training import assert_equal_runs, train

CPU = torch.device("cpu")
OBJECTIVES = {
    "CE (PL)": {"pseudo_labels": 4},
    "pBCE (PL)": {"objective": "pbce", "pseudo_labels": 4},
    "BCE": {"objective": "bce"},
    "infoNCE": {"objective": "infonce", "keys": 64},
    "infoNCE (PL)": {
        "objective": "infonce", "keys": 64, "pseudo_labels": 4, "left_out": "same_label",
    },
    "infoNCE (L)": {"objective": "infonce", "keys": 64, "left_out": "same_label"},
}  # fmt: skip
EVERY = pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)


@pytest.fixture
def trial(tiny):
    return lambda options: {**tiny, "method": {"name": "amix", **options}}


def gradients(trainer):
    """Of a step's loss: those of q, of the block, of k, and of what judges the block's images."""
    batch = next(trainer.task.batches(trainer.epoch_plan, 0))
    trainer.task(batch, trainer._step_context()).loss.backward()
    model, teacher = trainer.task.model, trainer.task.method.teacher
    slow = [*model.momentum.parameters(), *model.momentum_other.parameters()]
    parts = (model.online_parameters(), model.block.parameters(), slow, teacher.parameters())
    return [[p.grad for p in part] for part in parts]


@EVERY
def test_it_teaches_the_block_alone(trial, options):
    online, block, slow, head = gradients(Trainer(parse_trial(trial(options)), CPU))
    assert all(grad is None for grad in slow)
    assert any(grad.any() for grad in block)
    assert all(grad.any() for grad in head)
    assert len(head) == (2 if options.get("objective", "ce") in ("ce", "pbce") else 0)
    # Without what judges its images: the block has its mask loss, q what it had.
    trainer = Trainer(parse_trial(trial({**options, "mask_weight": 0.0})), CPU)
    trainer.task.method.teacher.loss = lambda *args: torch.zeros(())
    alone, untaught, _, _ = gradients(trainer)
    assert all(grad is None or not grad.any() for grad in untaught)
    assert all(torch.equal(a, b) for a, b in zip(online, alone, strict=True))


@pytest.mark.parametrize("name", ["CE (PL)", "infoNCE (PL)"])
def test_an_interrupted_training_ends_with_the_same_bits(trial, tmp_path, name):
    options = OBJECTIVES[name]
    for folder, stops in (("whole", ()), ("resumed", (2, 7))):
        train(trial(options), tmp_path / folder, stops)
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")


def test_the_step_knows_which_pictures_it_shows(trial):
    trainer = Trainer(parse_trial(trial({"pseudo_labels": 4})), CPU)
    seen = []
    for _, labels, places in trainer.task.batches(trainer.epoch_plan, 0):
        assert torch.equal(trainer.task.data.train.labels[places], labels)
        seen += places.tolist()
    assert sorted(seen) == list(range(len(trainer.task.data.train)))
    plain = Trainer(parse_trial(trial({})), CPU)
    assert len(next(plain.task.batches(plain.epoch_plan, 0))) == 2


def lesson(places=None, **options):
    torch.manual_seed(0)
    teacher = BlockTeacher(Lesson(**options), 10, 6)
    found, pooled = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    targets, pair = torch.eye(3)[[0, 1, 2, 1]], Pair(0.3, torch.tensor([1, 2, 3, 0]))
    step = StepContext(None, places=places)
    return teacher, found, pooled, targets, pair, step


def test_bce_says_which_of_the_two_pictures_it_is():
    teacher, found, pooled, targets, pair, step = lesson(objective="bce")
    m, keys = F.normalize(found, dim=1), F.normalize(pooled, dim=1)
    expected = 0.0
    for i, j in enumerate(pair.partner.tolist()):
        logits = torch.stack([m[i] @ keys[i], m[i] @ keys[j]]) / 0.2
        expected -= (torch.tensor([0.3, 0.7]) * logits.log_softmax(0)).sum() / 4
    assert torch.allclose(teacher.loss(found, pooled, targets, pair, step), expected, atol=1e-6)


def test_infonce_leaves_out_keys_of_the_label_of_either_source():
    teacher, found, pooled, targets, pair, step = lesson(
        objective="infonce", keys=8, left_out="same_label"
    )
    teacher.queue.places.copy_(torch.tensor([0, 0, 1, 1, 2, 2, -1, -1]))
    m, keys, labels = F.normalize(found, dim=1), F.normalize(pooled, dim=1), [0, 1, 2, 1]
    expected = 0.0
    for i, j in enumerate(pair.partner.tolist()):
        kept = [k for k, c in enumerate(teacher.queue.places) if c not in (labels[i], labels[j])]
        others = m[i] @ teacher.queue.keys[kept].T / 0.2
        for share, key in ((0.3, keys[i]), (0.7, keys[j])):
            logits = torch.cat([(m[i] @ key / 0.2)[None], others])
            expected -= share * logits.log_softmax(0)[0] / 4
    assert torch.allclose(teacher.loss(found, pooled, targets, pair, step), expected, atol=1e-6)


def test_what_has_no_pictures_to_cluster_and_unfit_options_are_refused(trial):
    teacher, *given = lesson(pseudo_labels=2)
    with pytest.raises(RuntimeError, match="which these are nobody has said"):
        teacher.loss(*given)
    for options, why in (
        ({"left_out": "same_label"}, "only infoNCE has negatives"),
        ({"objective": "bce", "pseudo_labels": 4}, "unused"),
    ):
        _, wrong = registry.check("method", {"name": "amix", **options})
        assert why in wrong[0].message
    with pytest.raises(Exception, match="pictures cannot be put into 1000 clusters"):
        Trainer(parse_trial(trial({"pseudo_labels": 1000})), CPU)
