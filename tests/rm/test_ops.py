"""Every op against cases computed by hand and slow references written from the equations,
non-square images included.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rm.ops import cut_fill, mix_targets, mixed_area, resize_fill, sample_box, soft_cross_entropy

sides = st.integers(1, 12)


@st.composite
def sizes_and_boxes(draw):
    height, width = draw(sides), draw(sides)
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return (height, width), (
        y0,
        x0,
        draw(st.integers(y0 + 1, height)),
        draw(st.integers(x0 + 1, width)),
    )


class Fixed:
    """A generator whose integers are given beforehand."""

    def __init__(self, *values: int) -> None:
        self.values = list(values)

    def integers(self, high: int) -> int:
        value = self.values.pop(0)
        assert 0 <= value < high
        return value


@pytest.mark.parametrize(
    ("size", "area", "centre", "box"),
    [
        ((32, 32), 0.25, (16, 16), (8, 8, 24, 24)),  # sides 16
        ((32, 32), 0.25, (0, 31), (0, 23, 8, 32)),  # clipped at two edges
        ((32, 32), 0.5, (16, 16), (5, 5, 27, 27)),  # int(22.6) = 22, half 11
        ((10, 20), 0.25, (5, 10), (3, 5, 7, 15)),  # int(5)//2 = 2 and int(10)//2 = 5: not square
        ((32, 32), 0.003, (16, 16), (16, 16, 16, 16)),  # int(1.75)//2 = 0: empty
        ((32, 32), 1.0, (16, 16), (0, 0, 32, 32)),
    ],
)
def test_sample_box_by_hand(size, area, centre, box):
    assert sample_box(size, area, Fixed(*centre)) == box


def test_mean_clipped_area_is_the_one_seen_in_the_released_code():
    """At 32 px and alpha 0.5 the mean lambda is 0.166, not 0.25, and 0.8 % of the boxes
    are empty.
    """
    generator = np.random.default_rng(1)
    areas = np.array(
        [
            mixed_area(sample_box((32, 32), generator.uniform(0, 0.5), generator), (32, 32))
            for _ in range(40_000)
        ]
    )
    assert areas.mean() == pytest.approx(0.166, abs=0.002)
    assert (areas == 0).mean() == pytest.approx(0.008, abs=0.0015)


def test_resize_fill_by_hand():
    images = torch.zeros(1, 1, 2, 4)
    previous = torch.arange(8.0).reshape(1, 1, 2, 4)
    mixed = resize_fill(images, previous, (0, 1, 1, 3))
    assert mixed.tolist() == [
        [[[0, 0, 2, 0], [0, 0, 0, 0]]]
    ]  # nearest: columns 0 and 2 of row 0, at columns 1 and 2


@given(sizes_and_boxes(), st.sampled_from(["nearest", "bilinear"]))
@settings(max_examples=60, deadline=None)
def test_resize_fill_against_a_slow_reference(size_box, mode):
    (height, width), (y0, x0, y1, x1) = size_box
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    previous = torch.randn(3, 3, height, width, generator=generator, dtype=torch.float64)
    expected = images.clone()
    for y in range(y0, y1):
        for x in range(x0, x1):
            for sample in range(2):
                expected[sample, :, y, x] = resized(
                    previous[sample], y - y0, x - x0, y1 - y0, x1 - x0, mode
                )
    mixed = resize_fill(images, previous, (y0, x0, y1, x1), mode)
    assert torch.allclose(mixed, expected, atol=1e-12)
    outside = torch.ones(height, width, dtype=torch.bool)
    outside[y0:y1, x0:x1] = False
    assert torch.equal(mixed[:, :, outside], images[:, :, outside])


def resized(image, y, x, height, width, mode):
    """One pixel of an image resized to height x width, from the definitions."""
    if mode == "nearest":
        return image[:, y * image.shape[1] // height, x * image.shape[2] // width]
    at_y = y * (image.shape[1] - 1) / (height - 1) if height > 1 else 0.0
    at_x = x * (image.shape[2] - 1) / (width - 1) if width > 1 else 0.0
    value = 0
    for row in {math.floor(at_y), math.ceil(at_y)}:
        for column in {math.floor(at_x), math.ceil(at_x)}:
            value = value + image[:, row, column] * (1 - abs(at_y - row)) * (
                1 - abs(at_x - column)
            )
    return value


@given(sizes_and_boxes())
@settings(max_examples=40, deadline=None)
def test_area_counts_the_pixels_that_changed(size_box):
    size, box = size_box
    images, previous = torch.zeros(1, 1, *size), torch.ones(2, 1, *size)
    for mixed in (resize_fill(images, previous, box), cut_fill(images, previous, box)):
        assert mixed.mean().item() == pytest.approx(mixed_area(box, size))
    assert images.sum() == 0


@given(st.floats(0, 1), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_mixed_targets_keep_their_mass(area, batch):
    targets, previous = torch.eye(7)[:batch], torch.full((batch + 1, 7), 1 / 7)
    mixed = mix_targets(targets, previous, area)
    assert torch.allclose(mixed.sum(1), torch.ones(batch))
    assert torch.allclose(mixed, (1 - area) * targets + area / 7, atol=1e-6)
    assert torch.equal(targets, torch.eye(7)[:batch])


def test_soft_cross_entropy_against_loops():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
    targets = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        norm = sum(math.exp(v) for v in row)
        total -= sum(t * math.log(math.exp(v) / norm) for t, v in zip(target, row, strict=True))
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(total / 2, abs=1e-12)
    hard = torch.eye(3, dtype=torch.float64)[[2, 0]]
    assert soft_cross_entropy(logits, hard) == torch.nn.functional.cross_entropy(
        logits, torch.tensor([2, 0])
    )
    assert soft_cross_entropy(logits.bfloat16(), targets.float()).dtype == torch.float32
