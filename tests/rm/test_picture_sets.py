"""Tiny-ImageNet, CUB, Aircraft, STL-10 and folders of pictures in their own layouts, with pictures
made here; reflected borders; and what is said where something is missing.
"""

import hashlib

import numpy as np
import pytest
import torch
from torchvision.datasets import STL10
from torchvision.io import write_jpeg
from torchvision.transforms.v2 import functional as tv

from rm.datasets import DataError, InMemorySplit, _whole, load
from rm.input.device_images import DeviceImages, padded, plan_epoch
from rm.input.image_files import crop_transform
from rm.tasks.classification import Classification
from rm.trial import TrialError, parse_trial
from tests.support.rm.training import assert_is_a_data_set
from tests.support.trials import TINY

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding and encoding"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
NAMES = ["tiny_imagenet", "cub200", "fgvc_aircraft", "stl10", "image_folder"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """$RM_DATA_DIR, empty."""
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RM_LOADER_WORKERS", "1")
    _whole.cache_clear()
    yield tmp_path
    _whole.cache_clear()


def picture(path, value, size=(20, 28), channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 256, (channels, *size), dtype=np.uint8)
    write_jpeg(torch.from_numpy(noise), str(path))


def make_tiny(folder):
    """Three classes with two pictures; the folders' order is not that of wnids.txt."""
    place = folder / "tiny-imagenet-200"
    for number, name in enumerate(("n03", "n01", "n02")):
        for i in range(2):
            file = place / "train" / name / "images" / f"{name}_{i}.JPEG"
            picture(file, 10 * number + i, (64, 64), channels=1 if i else 3)
        picture(place / "val" / "images" / f"val_{number}.JPEG", number, (64, 64))
    rows = [f"val_{i}.JPEG\t{name}\t0\t0\t1\t1\n" for i, name in enumerate(("n03", "n01", "n02"))]
    (place / "val" / "val_annotations.txt").write_text("".join(rows))
    (place / "wnids.txt").write_text("n03\nn01\nn02\n")


def make_cub(folder):
    place = folder / "CUB_200_2011"
    rows = [(1, "001.A/a.jpg", 1, 1), (2, "001.A/b.jpg", 1, 0), (3, "002.B/c.jpg", 2, 1)]
    rows += [(10, "002.B/d.jpg", 2, 0), (11, "002.B/e.jpg", 2, 1), (12, "002.B/f.jpg", 2, 1)]
    for number, name, *_ in rows:
        picture(place / "images" / name, number)
    (place / "images.txt").write_text("".join(f"{n} {name}\n" for n, name, *_ in rows))
    (place / "image_class_labels.txt").write_text("".join(f"{r[0]} {r[2]}\n" for r in rows))
    (place / "train_test_split.txt").write_text("".join(f"{r[0]} {r[3]}\n" for r in rows))


def make_aircraft(folder):
    data = folder / "fgvc-aircraft-2013b" / "data"
    for number in range(5):
        picture(data / "images" / f"{number:07}.jpg", number)
    (data / "variants.txt").write_text("707-320\nA 380\n")
    kinds = ["A 380", "707-320", "A 380", "707-320", "A 380"]
    for split, numbers in (("trainval", (0, 1, 2, 4)), ("test", (3,))):
        rows = "".join(f"{number:07} {kinds[number]}\n" for number in numbers)
        (data / f"images_variant_{split}.txt").write_text(rows)


def make_stl(folder, monkeypatch):
    """Five training, four test and six unlabelled pictures, with their own md5."""
    place = folder / "stl10_binary"
    place.mkdir()
    rng, lists = np.random.default_rng(0), {"train": 5, "test": 4, "unlabeled": 6}
    (place / "class_names.txt").write_text("\n".join("abcdefghij") + "\n")
    sums = {}
    for split, count in lists.items():
        pixels = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        pixels.tofile(place / f"{split}_X.bin")
        (np.arange(count, dtype=np.uint8) + 1).tofile(place / f"{split}_y.bin")
    for file in place.iterdir():
        sums[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    for name in ("train_list", "test_list"):
        entries = [[file, sums[file]] for file, _ in getattr(STL10, name)]
        monkeypatch.setattr(STL10, name, entries)


def make_folder(folder):
    for split in ("train", "val"):
        for i, name in enumerate(("cat", "dog", "cat", "dog")):
            picture(folder / "pictures" / split / name / f"{i}.png.jpg", i)


def test_tiny_imagenet(folder):
    make_tiny(folder)
    data = load("tiny_imagenet", {"complete": False})
    assert_is_a_data_set(data, 6, 3)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [2, 0, 1], "classes in the order of their names"
    one, again = (data.test.reader(1, seed) for seed in (0, 7))
    assert torch.equal(one, again), "evaluated as they are"
    with pytest.raises(DataError, match=r"expected 100,000 pictures in .*train, found 6"):
        load("tiny_imagenet", {})
    (folder / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("val_0.JPEG\n")
    _whole.cache_clear()
    with pytest.raises(DataError, match=r"val_annotations.txt:1: expected two columns"):
        load("tiny_imagenet", {"complete": False})
    (folder / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("val_0.JPEG n9\n")
    with pytest.raises(DataError, match="has the class n9, for which there is no folder"):
        load("tiny_imagenet", {"complete": False})


def test_cub(folder):
    make_cub(folder)
    data = load("cub200", {"complete": False, "size": 16})
    assert_is_a_data_set(data, 4, 2)
    assert data.train.labels.tolist() == [0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.reader.source.names[:2] == ("001.A/a.jpg", "002.B/c.jpg")
    with pytest.raises(DataError, match="expected 5,994 pictures of split 1, found 4"):
        load("cub200", {})
    (folder / "CUB_200_2011" / "images" / "002.B" / "c.jpg").unlink()
    _whole.cache_clear()
    with pytest.raises(DataError, match=r"1 of 4 pictures are missing in .*images, 002.B/c.jpg"):
        load("cub200", {"complete": False})


def test_aircraft(folder):
    make_aircraft(folder)
    data = load("fgvc_aircraft", {"complete": False, "size": 16})
    assert_is_a_data_set(data, 4, 1)
    assert data.classes == 2
    assert data.train.labels.tolist() == [1, 0, 1, 1]
    with pytest.raises(DataError, match="expected 6,667 pictures in images_variant_trainval"):
        load("fgvc_aircraft", {})
    (folder / "fgvc-aircraft-2013b" / "data" / "images" / "0000003.jpg").unlink()
    _whole.cache_clear()
    with pytest.raises(DataError, match="1 of 1 pictures are missing"):
        load("fgvc_aircraft", {"complete": False})


def test_stl10(folder, monkeypatch):
    make_stl(folder, monkeypatch)
    data = load("stl10", {})
    assert_is_a_data_set(data, 5, 4)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4]
    stored = np.fromfile(folder / "stl10_binary" / "test_X.bin", dtype=np.uint8)
    first = stored.reshape(4, 3, 96, 96)[0].transpose(2, 1, 0)  # each channel column by column
    assert np.array_equal(data.test.reader(0, 3).numpy(), first)
    free = load("stl10", {"train": "unlabelled"})
    assert free.train.labels.tolist() == [-1] * 6
    assert data.labelled is None
    assert free.labelled.labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(TrialError, match=r"no labels.*for contrastive training"):
        Classification(parse_trial(TINY), CPU, data=free)
    (folder / "stl10_binary" / "train_X.bin").write_bytes(b"x")
    _whole.cache_clear()
    with pytest.raises(DataError, match=r"not found, or damaged, in .*stl10_binary"):
        load("stl10", {})


def test_a_folder_of_pictures(folder):
    make_folder(folder)
    data = load("image_folder", {"size": 16, "interpolation": "bicubic", "shorter_side": True})
    assert_is_a_data_set(data, 4, 4)
    assert data.train.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_named_with_where_it_is_looked_for(name, folder):
    with pytest.raises(DataError) as raised:
        load(name, {})
    said = str(raised.value)
    assert str(folder) in said
    assert "$RM_DATA_DIR" in said or "set RM_DATA_DIR" in said
    assert name == "image_folder" or "iB, http" in said, "how large, and where to get it"


def test_a_reflected_border_is_numpys():
    pixels = torch.randint(0, 256, (3, 7, 9, 3), dtype=torch.uint8)
    found = padded(pixels, 4, "reflect")
    expected = np.pad(pixels.numpy(), ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    assert np.array_equal(found.numpy(), expected)
    assert torch.equal(padded(pixels, 0, "reflect"), pixels)
    with pytest.raises(ValueError, match="7 pixels cannot be mirrored 7"):
        padded(pixels, 7, "reflect")
    split, plain = InMemorySplit(pixels, torch.arange(3)), ((0.0,) * 3, (1 / 255,) * 3)
    images = DeviceImages(split, 4, *plain, CPU, border="reflect")
    views = plan_epoch(3, 4, False, np.random.default_rng(0), CPU)
    shown, _ = images.batch(views, slice(0, 3))
    for i in range(3):
        top, left = int(views.top[i]), int(views.left[i])
        part = expected[views.index[i], top : top + 7, left : left + 9].transpose(2, 0, 1)
        assert torch.allclose(shown[i], torch.from_numpy(part.copy()).float(), atol=1e-3)
    assert torch.equal(images.plain(slice(0, 3))[0].round().byte().permute(0, 2, 3, 1), pixels)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_of_everything_is_a_resize(interpolation):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    crop = crop_transform(16, interpolation=interpolation, smallest_area=1.0)
    mode = tv.InterpolationMode(interpolation)
    expected = tv.resize(image, [16, 16], interpolation=mode, antialias=True)
    found = [crop(image) for _ in range(12)]
    shown = [one for one in found if torch.equal(one, expected)]
    flipped = [one for one in found if torch.equal(one, expected.flip(2))]
    assert shown
    assert flipped
