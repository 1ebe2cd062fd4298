"""Trees and tars of pictures that are not as they should be: named, or left out by name."""

import pytest

from rm.datasets import DataError
from rm.datasets.imagenet import imagenet
from rm.input.shards import main as pack
from tests.support.rm.imagenet_tree import CLASSES

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding")


def test_tars_cut_short_are_named(tree, tmp_path, capsys):
    pack([str(tree), str(tmp_path / "imagenet")])
    assert pack([str(tree), str(tmp_path / "imagenet")]) == 1
    assert "expected a folder without tars, found shard-00000.tar" in capsys.readouterr().err
    path = tmp_path / "imagenet" / "val" / "shard-00000.tar"
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(
        DataError, match=r"expected the 1 tars that index.npz names.*cut short.*shard-00000.tar"
    ):
        imagenet(tmp_path)


@pytest.mark.parametrize(
    "case", ["nowhere", "no val", "flat val", "no class", "missing", "empty", "half", "count"]
)
def test_a_wrong_tree_is_named(tree, case):
    first = sorted(tree.glob("val/*"))[0]
    options, message = {}, ""
    if case == "nowhere":
        options, message = (
            {"root": "elsewhere"},
            r"no .*elsewhere/train; .*elsewhere does not exist.*RM_DATA_DIR",
        )
    elif case == "no val":
        (tree / "val").rename(tree / "validation")
        message = r"there is no .*/val; .*imagenet holds train, validation"
    elif case == "flat val":
        for folder in (tree / "val").iterdir():
            for path in folder.iterdir():
                path.rename(tree / "val" / path.name)
            folder.rmdir()
        message = (
            f"expected a folder for each class in .*/val, .*found {CLASSES} images without a class"
        )
    elif case == "no class":
        (tree / "train").rename(tree / "old")
        (tree / "train").mkdir()
        message = r"expected a folder for each class in .*/train, .*found none"
    elif case == "missing":
        first.rename(tree / first.name)
        message = f"1 of .*/train are missing in .*/val: {first.name}$"
    elif case in ("empty", "half"):
        next(first.iterdir()).unlink()
        message = (
            f"in every class folder of .*/val, found none in 1 of {CLASSES}: {first.name}; unpack"
        )
    else:
        options, message = (
            {"val_images": 50_000},
            f"expected 50,000 images in .*/val, found {CLASSES}$",
        )
    with pytest.raises(DataError, match=message):
        imagenet(tree.parent, **options)


def test_hidden_files_are_no_classes_and_other_formats_are_named(tree, capsys):
    first = sorted(tree.glob("train/*"))[0]
    picture = next(first.iterdir())
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    (tree / "train" / ".ipynb_checkpoints" / "0.JPEG").symlink_to(picture)
    (first / f"._{picture.name}").write_bytes(b"of another program")
    for name in ("1.webp", "2.TIFF"):
        (first / name).write_bytes(b"")
    assert len(imagenet(tree.parent).train) == CLASSES
    said = capsys.readouterr().err
    assert (
        f"imagenet: 2 pictures of {tree / 'train'} are left out, as only .jpeg, .jpg, .png" in said
    )
    assert f"{first.name}/1.webp, {first.name}/2.TIFF" in said
