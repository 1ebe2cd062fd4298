"""Views of pictures: every operation is torchvision's, picture by picture; what is drawn is drawn
as torchvision draws it, once for an epoch; and one data set is seen alike wherever it lies.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.io import write_png
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from rm.datasets import AnnotatedSplit, DataError, Dataset, InMemorySplit
from rm.datasets._pictures import in_memory, listed, of_pictures
from rm.input import view_ops
from rm.input.image_files import crop_transform, whole_transform
from rm.input.view_draws import draw_view
from rm.input.views import Recipe, coloured, open_views, plain_images

CPU = torch.device("cpu")
COUNT = 10
pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding and encoding"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
TOLERANCE = 1e-5
"""Of a pixel in [0, 1]: both compute in float32. Seen: 5e-6 (crop), 1e-6 (blur, hue)."""


@pytest.fixture
def pictures():
    """Noise, and what operations stumble over: grey, black, white, one colour."""
    found = torch.rand(COUNT, 3, 24, 18, generator=torch.Generator().manual_seed(0))
    found[0], found[1], found[2] = found[0, :1], 0, 1
    found[3] = torch.tensor([0.5, 0.5, 0.1]).view(3, 1, 1)
    return found


def each(pictures, operation, *parameters):
    """The operation on one picture after the other, with its own parameters."""
    rows = zip(pictures, *(values.tolist() for values in parameters), strict=True)
    return torch.stack([operation(*row) for row in rows])


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (view_ops.adjust_brightness, tv.adjust_brightness, 0, 2),
        (view_ops.adjust_contrast, tv.adjust_contrast, 0, 2),
        (view_ops.adjust_saturation, tv.adjust_saturation, 0, 2),
        (view_ops.adjust_hue, tv.adjust_hue, -0.5, 0.5),
        (view_ops.gaussian_blur, lambda x, s: tv.gaussian_blur(x, [13, 13], [s, s]), 0.1, 2),
    ],
)
def test_an_operation_is_torchvisions(ours, theirs, low, high, pictures):
    values = torch.linspace(low, high, COUNT)
    before = pictures.clone()
    found = ours(pictures, values)
    assert torch.allclose(found, each(pictures, theirs, values), rtol=0, atol=TOLERANCE)
    assert torch.equal(pictures, before)
    one = pictures[:, :1]  # a picture of one channel
    assert torch.allclose(ours(one, values), each(one, theirs, values), rtol=0, atol=TOLERANCE)
    assert torch.allclose(ours(pictures.double(), values).float(), found, rtol=0, atol=TOLERANCE)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(ours(pictures, values), found), "whatever the default is"
    finally:
        torch.set_default_dtype(torch.float32)


def test_grey_is_torchvisions(pictures):
    expected = each(pictures, lambda x: tv.rgb_to_grayscale(x, 3))
    assert torch.allclose(view_ops.to_grey(pictures), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("height", "width", "size"), [(24, 24, 24), (40, 57, 32), (9, 12, 20)])
def test_a_crop_is_torchvisions(height, width, size):
    """Shrunk or enlarged; against its 8-bit pictures within the one level that it rounds."""
    rng = np.random.default_rng(0)
    stored = torch.from_numpy(rng.integers(0, 256, (COUNT, height, width, 3), dtype=np.uint8))
    top, left = rng.integers(0, height - 4, COUNT), rng.integers(0, width - 4, COUNT)
    stop = np.stack([rng.integers(top + 1, height + 1), rng.integers(left + 1, width + 1)], 1)
    boxes, flip = np.stack([top, left, *stop.T], 1), rng.random(COUNT) < 0.5
    boxes[0] = 0, 0, height, width
    found = view_ops.crop_resize(stored, torch.from_numpy(boxes), torch.from_numpy(flip), size)
    for i, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        pixels = stored[i].permute(2, 0, 1)
        pixels = pixels.flip(2)[:, :, width - x1 : width - x0] if flip[i] else pixels[:, :, x0:x1]
        exact = tv.resize(pixels[:, y0:y1] / 255, [size, size], antialias=True)
        assert torch.allclose(found[i], exact, rtol=0, atol=TOLERANCE)
        rounded = tv.resize(pixels[:, y0:y1], [size, size], antialias=True)
        assert (255 * found[i] - rounded).abs().max() <= 1.01


def test_a_whole_view_is_torchvisions_step_by_step(pictures):
    """Each picture's own steps, in its own order."""
    draws = draw_view(COUNT, Recipe(24), np.random.default_rng(3), None)
    colours = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    found = coloured(pictures, draws)
    for i, expected in enumerate(pictures):
        for step in draws.order[i][draws.order[i] >= 0]:
            expected = colours[step](expected, float(draws.factors[i, step]))
        if draws.grey[i]:
            expected = tv.rgb_to_grayscale(expected, 3)
        if draws.sigma[i]:
            expected = tv.gaussian_blur(expected, [13, 13], [float(draws.sigma[i])] * 2)
        assert torch.allclose(found[i], expected, rtol=0, atol=TOLERANCE)


def test_crops_are_drawn_as_torchvision_draws_them():
    """Wide pictures too, where many attempts fail; means of 1,000 boxes, within 5 deviations."""
    count, crop = 1000, v2.RandomResizedCrop(8, (0.2, 1.0), antialias=True)
    for shape in ((32, 32), (20, 60)):
        draws = draw_view(count, Recipe(8), np.random.default_rng(0), shape)
        ours = draws.boxes.astype(float)
        assert (ours[:, :2] >= 0).all()
        assert (ours[:, 2:] <= shape).all()
        blank = torch.zeros(3, *shape)
        torch.manual_seed(0)
        rows = [crop.make_params([blank]) for _ in range(count)]
        theirs = np.array(
            [[r[k] for k in ("top", "left", "height", "width")] for r in rows], float
        )
        ours[:, 2:] -= ours[:, :2]
        spread = (ours.std(0) ** 2 + theirs.std(0) ** 2) ** 0.5 / count**0.5
        assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * spread).all()


def test_steps_are_as_frequent_as_the_recipe_says():
    count = 20_000
    draws = draw_view(count, Recipe(8), np.random.default_rng(0), (8, 8))
    jittered = draws.order[:, 0] >= 0
    for share, wanted in (
        (jittered.mean(), 0.8), (draws.grey.mean(), 0.2), ((draws.sigma > 0).mean(), 0.5),
        (draws.flip.mean(), 0.5),
    ):  # fmt: skip
        assert abs(share - wanted) < 0.02
    orders, times = np.unique(draws.order[jittered], axis=0, return_counts=True)
    assert len(orders) == 24, "every order of the four steps"
    assert times.min() > 0.8 * times.mean()
    assert (draws.order[~jittered] == -1).all()
    assert (np.sort(draws.order[jittered], 1) == np.arange(4)).all()
    low, high = draws.factors.min(0), draws.factors.max(0)
    assert np.allclose(low, [0.6, 0.6, 0.6, -0.1], atol=1e-3)
    assert np.allclose(high, [1.4, 1.4, 1.4, 0.1], atol=1e-3)
    assert 0.1 <= draws.sigma[draws.sigma > 0].min() < 0.11 < 1.99 < draws.sigma.max() <= 2


SIDE, FEW = 16, 7
COLOURS_OFF = {"jitter_probability": 0.0, "grey_probability": 0.0, "blur_probability": 0.0}
PLACES = ["device", "array", "files"]


def data_set(place, folder):
    """FEW pictures of one colour each, which a crop does not change; labels from 10 on."""
    labels = torch.arange(10, 10 + FEW)
    pixels = torch.arange(FEW, dtype=torch.uint8).mul(30)[:, None, None, None]
    pixels = pixels.expand(FEW, 3, SIDE, SIDE).contiguous()
    if place == "device":
        split = InMemorySplit(pixels.permute(0, 2, 3, 1).contiguous(), labels)
        return Dataset(split, split, 20, (0.5,) * 3, (0.2,) * 3, padding=4, flip=True)
    if place == "array":
        splits = [
            in_memory(pixels, labels, t) for t in (crop_transform(SIDE), whole_transform(SIDE))
        ]
    else:
        for i, picture in enumerate(pixels):
            write_png(picture[:, : 10 + i].contiguous(), str(folder / f"{i}.png"))
        names = [f"{i}.png" for i in range(FEW)]
        splits = [
            listed(folder, names, labels.numpy(), t)
            for t in (crop_transform(SIDE), whole_transform(SIDE))
        ]
    return of_pictures(*splits, 20)


def colour_of(views, data):
    """(B,) the stored value of pictures of one colour."""
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return 255 * (views.mean((2, 3)) * std + mean).mean(1)


@pytest.fixture(autouse=True)
def one_reader(monkeypatch):
    monkeypatch.setenv("RM_LOADER_WORKERS", "0")


@pytest.mark.parametrize("place", PLACES)
def test_views_are_of_the_pictures_that_they_say(place, tmp_path):
    """Also where the split is a part of its pictures; every picture once an epoch."""
    whole = data_set(place, tmp_path)
    data = replace(whole, train=whole.train.subset(5))
    views = open_views(data, Recipe(**COLOURS_OFF), CPU, 1)
    shown = [*plain_images(data.train, data, CPU, 1).eval_batches(slice(0, 5), 3)]
    values = colour_of(torch.cat([images for images, _ in shown]), data)
    labels = torch.cat([labels for _, labels in shown])
    assert torch.allclose(values, 30.0 * (labels - 10), atol=1e-3)
    assert torch.equal(labels, data.train.labels)
    plan = views.sample_epoch(np.random.default_rng(0))
    batches = list(views.batches(plan, [slice(0, 3), slice(3, len(views))]))
    assert sorted(torch.cat([batch.place for batch in batches]).tolist()) == list(range(5))
    for query, key, place in batches:
        assert query.shape == key.shape == (len(place), 3, SIDE, SIDE)
        assert query.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(colour_of(query, data), values[place], atol=1e-2)
        assert torch.allclose(colour_of(key, data), values[place], atol=1e-2)
    views.close()


@pytest.mark.parametrize("place", PLACES)
def test_an_epoch_can_be_entered_anywhere_and_shared_out(place, tmp_path):
    """The bits are the same from whichever step on; two views differ; so do two epochs."""
    views = open_views(data_set(place, tmp_path), Recipe(8), CPU, 1)
    generator = np.random.default_rng(1)
    plan, later = views.sample_epoch(generator), views.sample_epoch(generator)
    slices = [slice(0, 3), slice(3, 6), slice(6, 7)]
    through = list(views.batches(plan, slices))
    again = views.sample_epoch(np.random.default_rng(1))
    (resumed,) = views.batches(again, slices[1:2])
    assert all(torch.equal(a, b) for a, b in zip(resumed, through[1], strict=True))
    shares = list(views.batches(plan, [slice(3, 4), slice(4, 6)]))
    for name in ("query", "key", "place"):
        shared = torch.cat([getattr(share, name) for share in shares])
        assert torch.allclose(shared, getattr(through[1], name), rtol=0, atol=1e-5)
    assert not torch.equal(through[0].query, through[0].key)
    (other,) = views.batches(later, slices[:1])
    assert not torch.equal(other.query, through[0].query)
    views.close()


def test_views_of_digits_have_one_channel():
    split = InMemorySplit(torch.full((4, 8, 8, 1), 90, dtype=torch.uint8), torch.zeros(4).long())
    data = Dataset(split, split, 2, (0.3,), (0.3,), padding=1, flip=False)
    views = open_views(data, Recipe(), CPU, 1)
    (batch,) = views.batches(views.sample_epoch(np.random.default_rng(0)), [slice(0, 4)])
    assert batch.query.shape == (4, 1, 8, 8)
    assert batch.query.isfinite().all()


def test_pictures_with_annotations_have_no_views():
    split = AnnotatedSplit(lambda position, seed: {}, np.arange(3))
    data = Dataset(split, split, 2, (0.3,) * 3, (0.3,) * 3, padding=0, flip=False)
    for opened in (
        lambda: open_views(data, Recipe(8), CPU, 1),
        lambda: plain_images(split, data, CPU, 1),
    ):
        with pytest.raises(DataError, match="annotations are for detection"):
            opened()
