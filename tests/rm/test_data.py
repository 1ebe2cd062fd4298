"""Batches gathered on the device against torchvision's crop and flip; real CIFAR where it is; what
happens where it is not.
"""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from rm.datasets import DataError, InMemorySplit, data_dir, load
from rm.datasets.cifar import cifar100
from rm.input.device_images import DeviceImages, plan_epoch

CPU = torch.device("cpu")


def test_gathered_views_equal_torchvisions_crop_and_flip():
    pixels = torch.randint(0, 256, (9, 10, 14, 3), dtype=torch.uint8)  # not square
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    images = DeviceImages(InMemorySplit(pixels, torch.arange(9)), 3, mean, std, CPU)
    views = plan_epoch(9, 3, True, np.random.default_rng(0), CPU)
    batch, labels = images.batch(views, slice(2, 9))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == views.index[2:].tolist()
    for i, position in enumerate(range(2, 9)):
        image = pixels[views.index[position]].permute(2, 0, 1)
        top, left = int(views.top[position]), int(views.left[position])
        expected = tv.crop(tv.pad(image, [3, 3, 3, 3]), top, left, 10, 14)
        expected = tv.horizontal_flip(expected) if views.flip[position] else expected
        expected = tv.normalize(expected.float() / 255, mean, std)
        assert torch.allclose(batch[i], expected, atol=1e-5)
    plain, _ = images.plain(slice(4, 6))
    assert torch.allclose(
        plain[0], tv.normalize(pixels[4].permute(2, 0, 1).float() / 255, mean, std), atol=1e-5
    )


def test_views_cover_every_image_and_every_offset():
    views = plan_epoch(5000, 2, True, np.random.default_rng(0), CPU)
    assert sorted(views.index.tolist()) == list(range(5000))
    assert set(views.top.tolist()) == set(views.left.tolist()) == set(range(5))
    assert views.flip.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert not plan_epoch(50, 2, False, np.random.default_rng(0), CPU).flip.any()


def test_digits_are_the_1797_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = load("digits", {"size": 8})
    reference = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    images = torch.cat([data.train.images, data.test.images])[:, :, :, 0].numpy()
    assert np.array_equal(images, np.round(reference.images[order] * 255 / 16))
    assert (
        torch.cat([data.train.labels, data.test.labels]).tolist()
        == reference.target[order].tolist()
    )
    whole = load("digits", {"size": 32})
    pixels = whole.train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(whole.mean[0], abs=0.002)
    assert pixels.std().item() == pytest.approx(whole.std[0], abs=0.03)


def test_a_limit_is_the_same_subset_always():
    small, large = load("digits", {}, limit=20), load("digits", {}, limit=1000)
    assert torch.equal(load("digits", {}, limit=20).train.images, small.train.images)
    assert len(large.train) == 1000
    assert len(small.test) == 797


def test_what_is_held_out_comes_from_the_training_set_and_leaves_it():
    whole, part = load("digits", {}), load("digits", {}, held_out=200, limit=100)
    assert (len(part.train), len(part.test)) == (100, 200)
    rows = {tuple(image.flatten().tolist()) for image in whole.train.images}
    held = {tuple(image.flatten().tolist()) for image in part.test.images}
    rest = {
        tuple(image.flatten().tolist()) for image in load("digits", {}, held_out=200).train.images
    }
    assert held < rows
    assert rest < rows
    assert not held & rest
    with pytest.raises(DataError, match="only"):
        load("digits", {}, held_out=len(whole.train))


def test_missing_cifar_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(
        CIFAR100, "url", "http://127.0.0.1:9/cifar.tar.gz"
    )  # nothing listens there: no network
    with pytest.raises(DataError) as caught:
        cifar100(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / "cifar-100-python") in str(caught.value)
    assert "RM_DATA_DIR" in str(caught.value)


def test_real_cifar100():
    if not (data_dir() / "cifar-100-python" / "train").exists():
        pytest.skip(f"CIFAR-100 is not in {data_dir()}")
    data = cifar100(data_dir())
    assert data.train.images.shape == (50_000, 32, 32, 3)
    assert data.test.images.shape == (10_000, 32, 32, 3)
    assert torch.bincount(data.train.labels).tolist() == [500] * 100
    assert (data.train.images.float().mean((0, 1, 2)) / 255).tolist() == pytest.approx(
        [0.5071, 0.4865, 0.4409], abs=1e-3
    )
