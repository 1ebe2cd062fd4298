"""SaliencyMix, FMix and ResizeMix's clipped boxes: the maps against plain loops, and what is mixed
against its labels.
"""

import numpy as np
import pytest
import torch

from rm.methods import saliencymix
from rm.methods.fmix import FMix, brightest, low_frequency_image
from rm.methods.puzzlemix import _draw_blocks
from rm.methods.resizemix import ResizeMix
from rm.methods.saliencymix import SaliencyMix, fine_grained, fine_grained_of_floats
from rm.schedules import StepContext
from tests.support.rm.networks import batch, labels_of


def context(seed=0):
    return StepContext(np.random.default_rng(seed))


def marked(size=6, side=(16, 20)):
    """Images whose every pixel says which image it is of, with one label each."""
    images = torch.arange(float(size))[:, None, None, None].expand(-1, 3, *side).contiguous()
    return images, torch.eye(size)


def slow_saliency(picture):
    """OpenCV's map by its definition: every window summed pixel by pixel. (H, W, 3) uint8."""
    c = picture.astype(np.int64)
    grey = (3735 * c[..., 0] + 19235 * c[..., 1] + 9798 * c[..., 2] + 2**14) >> 15
    height, width = grey.shape
    for _ in range(2):
        wide = np.pad(grey, 1, mode="reflect")
        grey = np.zeros_like(grey)
        for dy, dx, weight in [
            (dy, dx, (1, 2, 1)[dy] * (1, 2, 1)[dx]) for dy in range(3) for dx in range(3)
        ]:
            grey += weight * wide[dy : dy + height, dx : dx + width]
        grey = (grey + 8) >> 4
    on, off = np.zeros_like(grey), np.zeros_like(grey)
    for reach in (12, 24, 48, 28, 56, 112):
        for y in range(height):
            for x in range(width):
                top, left = max(y - reach + 1, 0), max(x - reach + 1, 0)
                window = grey[top : y + reach + 1, left : x + reach + 1]
                mean = np.float32(window.sum() - grey[y, x]) / np.float32(window.size - 1)
                on[y, x] += int(max(np.float32(grey[y, x]) - mean, 0))
                off[y, x] += int(max(mean - np.float32(grey[y, x]), 0))
    on, off = (
        (255.0 * (v.astype(np.float32) / np.float32(v.max())).astype(float)).astype(int)
        for v in (on, off)
    )
    return (255 * (on + off) // max(on.max(), off.max())) % 256


@pytest.mark.parametrize("size", [(32, 32), (17, 23)])
def test_saliency_is_the_plain_loops(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = fine_grained(torch.from_numpy(picture).permute(2, 0, 1))
    assert np.array_equal(found.numpy(), slow_saliency(picture))


def test_the_released_saliency_reads_bytes():
    """Only the first quarter of each row of floats is ever a centre, and the peaks are elsewhere
    than those of the picture.
    """
    size = (32, 32)
    torch.manual_seed(0)
    peaks = {"grey": [], "released": []}
    smooth = torch.nn.functional.interpolate(torch.randn(20, 3, 4, 4), size=size, mode="bicubic")
    for picture in smooth:
        changed = picture.clone()
        changed[:, :, 16:] *= 0.9
        one = fine_grained_of_floats(picture)
        assert one.shape == size
        same = (one - fine_grained_of_floats(changed)).abs() <= 8
        assert same.double().mean() > 0.9, "the rest is never a centre, and hardly a surround"
        peaks["released"].append(saliencymix.first_peak(one))
        peaks["grey"].append(saliencymix.first_peak(fine_grained(saliencymix.to_bytes(picture))))
    found = {name: torch.stack(all_).double() for name, all_ in peaks.items()}
    near = (found["grey"] - found["released"]).abs().amax(1) <= 4
    assert near.double().mean() < 0.3
    assert len(found["released"].unique(dim=0)) > 5, "no one place for every picture"


@pytest.mark.parametrize("saliency", ["released", "grey"])
@pytest.mark.parametrize("side", [(16, 20), (7, 9), (2, 2)])
def test_saliencymix_pastes_a_clipped_box_of_its_area(saliency, side):
    method, (images, targets) = SaliencyMix(saliency=saliency), marked(side=side)
    areas = []
    for seed in range(12):
        mixed = method.mix(images, targets, context(seed))
        pasted = mixed.images[:, 0] != torch.arange(6.0)[:, None, None]
        own = mixed.partner == torch.arange(6)
        share = pasted.double().mean((1, 2))[~own]
        assert torch.allclose(share, mixed.area.double().expand(len(share)), atol=1e-6)
        assert torch.allclose(
            mixed.targets, labels_of(images, mixed.partner, 1 - mixed.area), atol=1e-6
        )
        areas.append(float(mixed.area))
    assert 0 <= min(areas) < max(areas) < 1 or side == (2, 2)


@pytest.mark.parametrize("saliency", ["released", "grey"])
@pytest.mark.parametrize("value", [0.0, -1.7, float(2**20)])
def test_a_constant_picture_has_a_peak_too(saliency, value):
    images = torch.full((3, 3, 8, 8), value)
    mixed = SaliencyMix(saliency=saliency).mix(images, torch.eye(3), context())
    assert torch.equal(mixed.images, images)
    assert torch.isfinite(mixed.targets).all()


def test_the_box_lies_around_the_first_peak():
    salient = torch.zeros(9, 11, dtype=torch.long)
    salient[3, 7] = salient[3, 9] = salient[5, 1] = 4
    peak = saliencymix.first_peak(salient)
    assert peak.tolist() == [3, 7]
    rows, columns = saliencymix.box_mask(peak, (9, 11), 0.5).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 5, 8)
    assert not saliencymix.box_mask(peak, (9, 11), 0.0).any()


@pytest.mark.parametrize("spectrum", ["released", "full"])
@pytest.mark.parametrize("side", [(16, 20), (7, 9), (1, 5), (2, 1)])
def test_fmix_takes_lambda_of_the_pixels_and_keeps_it_for_the_labels(spectrum, side):
    method, (images, targets) = FMix(spectrum=spectrum), marked(side=side)
    for seed in range(6):
        mixed = method.mix(images, targets, context(seed))
        kept, pixels = 1 - mixed.area, side[0] * side[1]
        moved = mixed.partner != torch.arange(6)
        own = (mixed.images[:, 0] == torch.arange(6.0)[:, None, None]).sum((1, 2))[moved]
        assert set(own.tolist()) <= {int(kept * pixels), int(kept * pixels) + 1}
        assert torch.allclose(mixed.targets, labels_of(images, mixed.partner, kept), atol=1e-6)


def test_fmix_takes_the_brightest():
    grey = np.random.default_rng(1).random((5, 6))
    for seed in range(4):
        mask = brightest(grey, 0.31, np.random.default_rng(seed))
        assert mask.sum() in (9, 10)
        assert grey[mask].min() > grey[~mask].max()
    assert brightest(grey, 0.0, np.random.default_rng(0)).sum() == 0
    assert brightest(grey, 1.0, np.random.default_rng(0)).all()


def test_released_masks_have_two_horizontal_frequencies():
    """Of the power 22 % at 0 and 78 % at 1, none above; as meant 43, 54 and 3 %."""
    shares = {}
    for full in (False, True):
        power = np.zeros(33)
        for seed in range(200):
            grey = low_frequency_image((64, 64), np.random.default_rng(seed), full=full)
            found = np.abs(np.fft.rfft2(grey - grey.mean())) ** 2
            power += found.sum(0) / found.sum()
        shares[full] = power / power.sum()
        assert grey.min() == 0
        assert grey.max() == 1
    assert shares[False][2:].sum() < 1e-12
    assert shares[False][0] == pytest.approx(0.22, abs=0.06)
    assert shares[True][:2] == pytest.approx([0.43, 0.54], abs=0.06)
    assert 0.01 < shares[True][2:].sum() < 0.06


def test_a_clipped_patch_is_smaller_and_holds_the_whole_partner():
    row = torch.arange(16.0).expand(6, 3, 16, 16) + 100 * torch.arange(6.0)[:, None, None, None]
    method, areas = ResizeMix(placement="clipped"), []
    for seed in range(20):
        mixed = method.mix(row.contiguous(), torch.eye(6), context(seed))
        pasted = mixed.images != row
        moved = mixed.partner != torch.arange(6)
        if mixed.area and moved.any():
            one = int(moved.nonzero()[0, 0])
            shares = (mixed.images[one] // 100 == mixed.partner[one]).double().mean()
            assert shares == pytest.approx(mixed.area)
            taken = mixed.images[one][pasted[one]] % 100
            assert taken.min() == 0, "resized, not cut: its first column is there"
        assert torch.allclose(
            mixed.targets, labels_of(row, mixed.partner, 1 - mixed.area), atol=1e-6
        )
        areas.append(mixed.area)
    assert max(areas) <= 0.64
    assert len(set(areas)) > 10


def test_puzzlemix_can_be_kept_from_small_blocks():
    images, _ = batch(side=32)
    drawn = {_draw_blocks(images, np.random.default_rng(s), 8) for s in range(30)}
    assert drawn == {2, 4, 8}
    with pytest.raises(ValueError, match="2 x 2 blocks or more"):
        _draw_blocks(images[:, :, :4, :4], np.random.default_rng(0), 1)
