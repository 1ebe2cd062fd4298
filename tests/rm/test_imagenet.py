"""Pictures read from disk: trained on, interrupted, counted once, the same for any number of
readers; wrong trees named.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from rm import registry
from rm.datasets import DataError, _whole, load
from rm.datasets.imagenet import imagenet
from rm.input import stream
from rm.input.shards import main as pack
from rm.rundir.journal import read
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.imagenet_tree import CLASSES
from tests.support.rm.training import assert_equal_runs, assert_is_a_data_set, train
from tests.support.trials import PATIENCE, ROOT, write_trial

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding and encoding"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.fixture
def pictures(tiny, tree):
    """Two epochs of three steps at 64 px: 5, 5 and 2 pictures."""
    tiny["dataset"] = {"name": "imagenet", "size": 64, "random_erasing": 0.5}
    tiny["train"] = {"epochs": 2, "batch_size": 5}
    return tiny


def epoch_of(run):
    """All that a run shows in its present epoch, from its present step on."""
    found = list(run.task.batches(run.epoch_plan, run.step))
    return torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found])


def test_the_contract_of_a_data_set(tree):
    assert_is_a_data_set(load("imagenet", {"size": 64}, limit=10, test_limit=7), 10, 7)
    assert load("imagenet", {}).classes == CLASSES


def test_training_interrupted_anywhere_equals_undisturbed(pictures, tmp_path):
    result = train(pictures, tmp_path / "undisturbed")
    assert result["test_images"] == CLASSES
    assert result["metrics"]["last_top1_error"] >= 0
    train(
        pictures, tmp_path / "stopped", stop_before=(1, 1, 2)
    )  # in epoch 1, at its end, inside epoch 2
    assert_equal_runs(tmp_path / "undisturbed", tmp_path / "stopped")
    assert multiprocessing.active_children() == [], "whatever the end, the readers end too"


def test_the_number_of_readers_changes_nothing(pictures, monkeypatch):
    shown = []
    for readers in ("1", "3"):
        monkeypatch.setenv("RM_LOADER_WORKERS", readers)
        run = Trainer(parse_trial(pictures), CPU)
        before = torch.get_rng_state()
        first, labels = epoch_of(run)
        assert torch.equal(torch.get_rng_state(), before), (
            "nothing is taken from the training's own generator"
        )
        run.step = 2
        assert torch.equal(epoch_of(run)[0], first[10:]), (
            "a resumed run sees what it would have seen"
        )
        shown.append(first)
        assert sorted(labels.tolist()) == list(range(CLASSES))
        assert first.shape == (CLASSES, 3, 64, 64)
        assert first.is_contiguous(memory_format=torch.channels_last)
        run.epoch = 2
        run.start_epoch()
        assert not torch.equal(epoch_of(run)[0], first), "another epoch, other views"
        run.close()
    assert torch.equal(*shown)


def test_two_processes_show_what_one_shows(pictures, monkeypatch):
    monkeypatch.setattr("torch.distributed.new_group", lambda backend: None)
    monkeypatch.setattr("rm.distributed.ProcessGroup.wrap", lambda self, model: model)
    pictures["train"] |= {"batch_size": 4, "batch_norm_groups": 2}
    whole = Trainer(parse_trial(pictures), CPU)
    both = [Trainer(parse_trial(pictures), CPU, stream_processes(rank)) for rank in (0, 1)]
    shares = [list(run.task.batches(run.epoch_plan, run.step)) for run in both]
    for (images, labels), first, second in zip(
        whole.task.batches(whole.epoch_plan, 0), *shares, strict=True
    ):
        assert torch.equal(images, torch.cat([first[0], second[0]]))
        assert torch.equal(labels, torch.cat([first[1], second[1]]))
    for run in (whole, *both):
        run.close()


def stream_processes(rank):
    from rm.distributed import ProcessGroup

    return ProcessGroup(rank, 2)


def test_evaluation_counts_every_picture_once(pictures, monkeypatch):
    run = Trainer(parse_trial(pictures), CPU)
    whole = run.evaluate()
    monkeypatch.setattr(stream, "EVALUATION_BATCH", 5)
    assert run.evaluate() == pytest.approx(whole)
    found = list(run.task.test_images.eval_batches(slice(0, CLASSES), 500))
    assert [len(labels) for _, labels in found] == [5, 5, 2]
    assert torch.cat([labels for _, labels in found]).tolist() == list(range(CLASSES))
    run.close()


def test_evaluation_shows_the_middle_as_torchvision_cuts_it(tree):
    data = imagenet(tree.parent, size=64)
    reference = v2.Compose([v2.Resize(73), v2.CenterCrop(64)])
    for number, path in enumerate(sorted(tree.glob("val/*/*"))):
        expected = reference(decode_image(str(path), ImageReadMode.RGB)).permute(1, 2, 0)
        assert torch.equal(data.test.reader(number, 0), expected)


def test_recipes_differ_where_they_should(tree):
    """Without options a training picture is a crop; jitter and light change its colours, erasing a
    part of it, the seed all.
    """
    plain = imagenet(tree.parent, size=64, color_jitter=0, lighting=0).train.reader
    assert torch.equal(plain(2, 5), plain(2, 5))
    assert not torch.equal(plain(2, 5), plain(2, 6))
    lit = imagenet(tree.parent, size=64, color_jitter=0, lighting=0.5).train.reader
    shift = lit(2, 5).double() - plain(2, 5).double()
    assert shift.abs().sum() > 0
    assert (shift - shift[0, 0]).abs().max() <= 0.25, "one colour is added to all pixels, uncut"
    erased = imagenet(
        tree.parent, size=64, color_jitter=0, lighting=0, random_erasing=1.0
    ).train.reader
    changed = [(erased(2, seed) != plain(2, seed)).any(2) for seed in range(20)]
    shares = np.array([change.float().mean().item() for change in changed])
    assert ((shares > 0.01) & (shares < 0.34)).all()
    rows, columns = (changed[0].any(axis).sum().item() for axis in (1, 0))
    assert changed[0].sum().item() > 0.95 * rows * columns, "a box"
    assert not torch.equal(
        imagenet(tree.parent, size=64, lighting=0).train.reader(2, 5), plain(2, 5)
    )


def test_lighting_has_the_spread_of_the_published_components():
    from rm.input.image_files import Lighting

    torch.manual_seed(0)
    grey = torch.full((3, 1, 1), 128.0)
    shifts = torch.stack([Lighting(0.1)(grey).flatten().double() - 128 for _ in range(4000)])
    # standard deviation of 255 * 0.1 * sum_j E_cj a_j v_j
    expected = [(0.01 * 255**2 * row) ** 0.5 for row in (0.015424, 0.015984, 0.016266)]
    assert shifts.std(0).tolist() == pytest.approx(expected, rel=0.05)
    assert torch.corrcoef(shifts.T)[0, 2].item() > 0.9, "mostly brightness"


def test_tars_hold_the_same_data_set(pictures, tree, tmp_path, monkeypatch, capsys):
    assert pack([str(tree), str(tmp_path / "packed" / "imagenet")]) == 0
    assert f"{CLASSES} images of {CLASSES} classes in 1 tars" in capsys.readouterr().out
    monkeypatch.setattr("rm.input.shards.pack.__defaults__", (100_000,))
    assert pack([str(tree), str(tmp_path / "many" / "imagenet")]) == 0
    whole = imagenet(tree.parent, size=64)
    assert len(list((tmp_path / "many" / "imagenet" / "train").glob("*.tar"))) > 1
    (tmp_path / "many" / "imagenet" / "val" / "index.npz").unlink()  # the headers suffice
    for folder in (tmp_path / "packed", tmp_path / "many"):
        packed = imagenet(folder, size=64)
        for ours, theirs in ((packed.train, whole.train), (packed.test, whole.test)):
            assert ours.labels.tolist() == theirs.labels.tolist()
            assert all(torch.equal(ours.reader(i, 7), theirs.reader(i, 7)) for i in range(CLASSES))
    train(pictures, tmp_path / "tree")
    monkeypatch.setenv("RM_DATA_DIR", str(tmp_path / "many"))
    _whole.cache_clear()
    train(pictures, tmp_path / "tars")
    assert_equal_runs(tmp_path / "tree", tmp_path / "tars")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_an_unreadable_picture_is_named_and_fails_the_run(pictures, tree, tmp_path, content):
    path = sorted(tree.glob("train/*/*"))[4]
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    else:
        path.write_bytes(whole[:100])  # cut off inside the header
    with pytest.raises(
        DataError, match=f"{path.name}: expected a readable JPEG or PNG image, found \\d+ bytes"
    ) as caught:
        train(pictures, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert read(tmp_path / "run" / "journal.jsonl")[-1]["event"] == "failed"


def test_a_wrong_number_of_readers_is_refused(tree, monkeypatch):
    monkeypatch.setenv("RM_LOADER_WORKERS", "none")
    with pytest.raises(
        DataError, match="RM_LOADER_WORKERS must be a whole number >= 0, found 'none'"
    ):
        stream.workers(1)
    monkeypatch.delenv("RM_LOADER_WORKERS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(48)), raising=False)
    assert [stream.workers(count) for count in (1, 8, 100)] == [8, 6, 1]


@pytest.mark.cluster
def test_a_signal_to_all_processes_of_the_job_interrupts_cleanly(pictures, tree, tmp_path):
    """As a scheduler sends it: the readers get it too, the trainer writes a checkpoint, and the
    next start goes on from there.
    """
    pictures["train"]["epochs"] = 10
    train(pictures, tmp_path / "undisturbed")
    folder = tmp_path / "stopped"
    command = [sys.executable, "-m", "rm.train", str(write_trial(folder, pictures)), str(folder)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while sum(event["event"] == "epoch" for event in read(folder / "journal.jsonl")) < 1:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 75, error
    train(pictures, folder)
    assert_equal_runs(tmp_path / "undisturbed", folder)


def test_resnet50_sees_224_pixels(tree):
    data = imagenet(tree.parent)
    normalise = stream.Normalise(data.mean, data.std, CPU)
    pixels = torch.stack(
        [data.train.reader(0, 1), data.train.reader(1, 2), data.test.reader(CLASSES - 1, 0)]
    )
    network = registry.load("backbone", "imagenet_resnet50")(data.classes, data.channels).eval()
    images = normalise(pixels)
    assert images.shape == (3, 3, 224, 224)
    expected = v2.functional.normalize(
        pixels.float().permute(0, 3, 1, 2) / 255, data.mean, data.std
    )
    assert torch.allclose(images, expected, atol=1e-5)
    with torch.inference_mode():
        assert network.features(images).shape == (3, 2048, 7, 7)
        assert torch.isfinite(network(images)).all()
