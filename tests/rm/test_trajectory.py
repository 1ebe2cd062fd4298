"""The real loop against a training that was written independently (reference.py): the same
numbers, step by step.
"""

import math

import numpy as np
import pytest
import torch

from rm.schedules import Progress, cosine
from tests.support.rm.reference import Settings, box_area, draw_box, learning_rate
from tests.support.rm.trajectory import (
    BATCH,
    CLASSES,
    EPOCHS,
    IMAGES,
    STEPS,
    differences,
    record,
    without_kinks,
)

CASES = {
    "paper": {},
    "omega=0": {"omega": 0.0},
    "transposed": {"roi": "transposed"},
    "bilinear": {"interpolation": "bilinear"},
    "share_head": {"share_head": True},
    "large boxes": {"alpha": 1.0, "omega": 1.0},
    "often empty": {"alpha": 0.05},
}


@pytest.fixture
def trial(tiny):
    """Five epochs, of which two are run: the second lies on the cosine, with another rate than the
    warmup's.
    """
    tiny["dataset"]["limit"] = IMAGES
    tiny["train"] |= {"epochs": 5, "batch_size": BATCH}
    return tiny


def assert_same_training(trial, recording, tolerance):
    """Losses to `tolerance`; logits and weights, which gather the rounding errors of many numbers,
    to ten times that.
    """
    found = differences(trial, recording)
    assert found["loss"] <= tolerance, found
    assert all(value <= 10 * tolerance for value in found.values()), found


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_double_precision(trial, case):
    trial["method"] |= CASES[case]
    recording = record(trial, torch.float64)
    assert_same_training(trial, recording, 1e-12)
    assert [len(images) for images, _ in recording.batches[EPOCHS]] == [BATCH] * 9 + [2]
    plain = {number for number, step in enumerate(recording.steps) if step.area == 0}
    assert plain >= {0, STEPS // EPOCHS}, "an epoch's first step has no history"
    assert (len(plain) > EPOCHS) == (case == "often empty"), (
        "this case, and no other, meets empty boxes"
    )


@pytest.mark.parametrize("case", ["paper", "transposed", "bilinear", "large boxes"])
def test_equals_the_reference_on_images_that_are_not_square(trial, case):
    trial["method"] |= CASES[case]
    pool = torch.randn(
        IMAGES, 1, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    recording = record(trial, torch.float64, pool=pool)
    assert_same_training(trial, recording, 1e-12)


def test_equals_the_reference_where_the_last_batch_is_whole(trial):
    """Only here would a history show that outlives its epoch: after a short last batch it is too
    small for the next one.
    """
    trial["dataset"]["limit"] = STEPS // EPOCHS * BATCH
    recording = record(trial, torch.float64)
    assert_same_training(trial, recording, 1e-12)
    assert [len(images) for images, _ in recording.batches[EPOCHS]] == [BATCH] * 10


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_single_precision(trial, case):
    """With smoothed labels, which go through mixing and history as one-hot ones do."""
    trial["method"] |= CASES[case]
    trial["train"]["label_smoothing"] = 0.1
    recording = record(trial, prepare=without_kinks)
    assert_same_training(trial, recording, 1e-6)


def test_no_area_is_the_baseline_exactly(trial):
    """alpha -> 0: every box is empty, and the second head, which never speaks, changes nothing."""
    trial["method"]["alpha"] = 1e-9
    mixed, baseline = record(trial), record({**trial, "method": {"name": "baseline"}})
    assert [step.loss for step in mixed.steps] == [step.loss for step in baseline.steps]
    ours, theirs = mixed.final.backbone.state_dict(), baseline.final.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_reference_draws_the_areas_that_the_released_code_drew():
    """At 32 px and alpha 0.5: mean 0.166 after clipping, 0.8 % empty boxes."""
    generator = np.random.default_rng(0)
    areas = np.array([box_area(draw_box(generator, 0.5, 32, 32), 32, 32) for _ in range(20_000)])
    assert areas.mean() == pytest.approx(0.166, abs=4 * areas.std() / math.sqrt(len(areas)))
    assert (areas == 0).mean() == pytest.approx(0.008, abs=0.002)


def test_learning_rates_equal_the_reference():
    settings = Settings(classes=CLASSES, alpha=0.5, omega=0.1, lr=0.1, epochs=200, warmup_epochs=5)
    for epoch in range(1, 201):
        assert 0.1 * cosine(Progress(epoch, 200), warmup_epochs=5) == pytest.approx(
            learning_rate(settings, epoch), abs=1e-15
        )
