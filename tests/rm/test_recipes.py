"""What the sources state of a training beside its method: precision, colours, schedules, the order
of the images, gradients.
"""

import math

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler

from rm.input.device_images import draw_order
from rm.input.image_files import ColorJitter, training_transform
from rm.methods.cutmix import CutMix
from rm.ops import mixed_area, resize_fill, sample_box
from rm.schedules import Progress, StepContext, cosine_floor
from rm.trainer import Trainer
from rm.trial import parse_trial

CPU = torch.device("cpu")
RM = {"name": "recursive_mix", "alpha": 0.5, "omega": 0.1}


def trainer_of(tiny, **train):
    return Trainer(parse_trial(tiny | {"train": tiny["train"] | train}), CPU)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_evaluation_is_in_fp32_whatever_the_precision_of_the_training(tiny, precision):
    """As in the released code, whose test() is under no autocast."""
    assert trainer_of(tiny, precision=precision).evaluate() == trainer_of(tiny).evaluate()


def second_head(trainer):
    return trainer.task.model.second_head.weight.detach().clone()


def test_the_second_head_has_no_gradient_before_its_first_use_and_a_zero_one_after(tiny):
    trainer = trainer_of(tiny | {"method": RM}, batch_size=8)
    start = second_head(trainer)
    trainer.train_step()  # an epoch's first step has no history
    assert torch.equal(second_head(trainer), start), "no gradient: no decay either"
    trainer.train_step()
    used = second_head(trainer)
    assert not torch.equal(used, start)
    trainer.task.method.start_epoch()
    trainer.train_step()  # without history again: momentum and decay go on, as after zero_grad()
    assert not torch.equal(second_head(trainer), used)


def lerped(pixels, amounts, order):
    """clovaai/CutMix-PyTorch's three classes, in words: towards black, the mean grey, the grey."""
    for step in order:
        red, green, blue = pixels
        grey = (0.299 * red + 0.587 * green + 0.114 * blue).expand(3, -1, -1)
        goal = (torch.zeros_like(pixels), torch.full_like(pixels, grey.mean()), grey)[step]
        pixels = torch.lerp(pixels, goal, amounts[step])
    return pixels


def test_jitter_is_clipped_nowhere():
    pixels = 255 * torch.rand(3, 6, 7)
    outside = 0.0
    for seed in range(20):
        torch.manual_seed(seed)
        found = ColorJitter(0.4)(pixels)
        torch.manual_seed(seed)
        amounts = torch.empty(3).uniform_(-0.4, 0.4)
        order = torch.randperm(3).tolist()
        torch.testing.assert_close(found, lerped(pixels, amounts.tolist(), order))
        outside += ((found < 0) | (found > 255)).float().mean().item() / 20
    assert 0.03 < outside < 0.3


def test_a_training_picture_keeps_what_lies_outside():
    torch.manual_seed(3)
    picture = torch.randint(0, 2, (3, 64, 64), dtype=torch.uint8) * 255
    shown = [training_transform(32, 0.4, 0.1, 1.0, "bicubic")(picture) for _ in range(8)]
    assert all(one.dtype == torch.float16 for one in shown)
    assert min(one.min() for one in shown) < 0
    assert max(one.max() for one in shown) > 255
    assert training_transform(32, 0, 0, 0)(picture).dtype == torch.uint8


def test_repeated_augmentation_is_deits_order():
    """RASampler: a permutation, each image three times, of which an epoch sees the first third."""
    order = np.random.default_rng(4).permutation(1000)
    found = draw_order(1000, 3, np.random.default_rng(4))
    assert found.tolist() == [image for image in order for _ in range(3)][:1000]
    assert draw_order(1000, 1, np.random.default_rng(4)).tolist() == order.tolist()


def test_a_trial_repeats_its_images(tiny):
    trainer = trainer_of(tiny, repeats=3)
    index = trainer.epoch_plan.index.tolist()
    assert len(index) == len(trainer.task.images)
    assert len(set(index)) == math.ceil(len(index) / 3)


def test_the_cosine_floor_is_timms():
    parameter = torch.nn.Parameter(torch.zeros(1))
    timms = CosineLRScheduler(
        torch.optim.SGD([parameter], lr=5e-4),
        t_initial=300,
        lr_min=1e-5,
        warmup_t=5,
        warmup_lr_init=1e-6,
    )
    options = {"floor": 0.02, "warmup_epochs": 5, "warmup_start": 0.002}
    for epoch in range(1, 301):
        wanted = timms._get_lr(epoch - 1)[0]
        found = 5e-4 * cosine_floor(Progress(epoch, 300), **options)
        assert found == pytest.approx(wanted, rel=1e-12), epoch


def test_cutmix_with_the_resize_strategy_changes_only_what_fills_the_box():
    """`+ RS` of Table 2: the same draws, labels and area; in the box the whole partner."""
    images, targets = torch.randn(6, 3, 32, 32), torch.eye(6)
    for seed in range(6):
        cut, resized = (
            CutMix(probability=0.8, resize=resize).mix(
                images, targets, StepContext(np.random.default_rng(seed))
            )
            for resize in (False, True)
        )
        assert torch.equal(cut.targets, resized.targets)
        assert cut.area == resized.area
        draws = np.random.default_rng(seed)
        if draws.random() >= 0.8:
            assert torch.equal(resized.images, images)
            continue
        partner = torch.from_numpy(draws.permutation(6))
        box = sample_box((32, 32), 1 - draws.beta(1.0, 1.0), draws)
        assert resized.area == mixed_area(box, (32, 32))
        if resized.area:
            assert torch.equal(resized.images, resize_fill(images, images[partner], box))
