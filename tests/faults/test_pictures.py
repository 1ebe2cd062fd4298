"""Pictures as people have them: 16 bits deep, animated, cut short, behind a disk that hangs."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from rm.datasets import DataError, DiskSplit
from rm.input import stream
from rm.input.image_files import ImageReader, evaluation_transform, training_transform
from rm.input.stream import ReadingPool
from tests.support.processes import children_of, is_gone, kernel_function, words_of
from tests.support.trials import PATIENCE, ROOT

pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding and encoding"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


class Files:
    """Pictures by their paths."""

    def __init__(self, *paths):
        self.paths = paths

    def read(self, image):
        return self.paths[image].read_bytes()

    def name(self, image):
        return str(self.paths[image])


def depth16(path, values):
    Image.fromarray(values.astype(np.uint16)).save(path, "PNG")
    return path


def test_sixteen_bits_are_the_same_picture_in_eight(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (40, 50))
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "8.png")
    depth16(tmp_path / "16.png", values * 257)
    files = Files(tmp_path / "8.png", tmp_path / "16.png")
    for transform in (evaluation_transform(16), training_transform(16, 0.4, 0.1, 0.5)):
        read = ImageReader(files, transform)
        assert read(1, 5).dtype == read(0, 5).dtype
        assert torch.equal(read(0, 5), read(1, 5))
    depth16(tmp_path / "16.png", np.full((32, 32), 300))  # a dark one: not white
    assert ImageReader(files, evaluation_transform(16))(1, 0).max() == 1


def spoilt(path, kind):
    picture = Image.fromarray(np.zeros((30, 30, 3), np.uint8))
    if kind == "animation":
        other = Image.fromarray(np.full((30, 30, 3), 255, np.uint8))
        picture.save(path, "GIF", save_all=True, append_images=[other])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        picture.save(path, "PNG")
        path.write_bytes(path.read_bytes()[:40])
    elif kind == "folder":
        path.mkdir()
    elif kind == "unaugmentable":
        picture.save(path, "PNG")
    return path


@pytest.mark.parametrize(
    "kind", ["animation", "empty", "cut", "folder", "missing", "unaugmentable"]
)
def test_whatever_is_wrong_with_a_picture_its_file_is_named_and_nothing_hangs(tmp_path, kind):
    good = tmp_path / "good.png"
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(good)
    files = Files(good, good, spoilt(tmp_path / "odd.jpg", kind))
    reader = ImageReader(files, evaluation_transform(16))
    if kind == "unaugmentable":
        reader = ImageReader(files, lambda pixels: pixels if pixels.sum() < 0 else 1 / 0)
        files.paths = (files.paths[2],) * 3
    split = DiskSplit(reader, np.arange(3), torch.zeros(3, dtype=torch.int64))
    pool = ReadingPool([split], 1, pin=False)
    requests = [(0, np.array([i]), np.array([0])) for i in range(3)]
    with pytest.raises(DataError, match=r"odd\.jpg: ") as caught:
        list(pool.read(requests))
    assert "\n" not in str(caught.value)
    pool.close()


HANGS = """
import os, sys, numpy as np, torch
from pathlib import Path
from rm.datasets import DiskSplit
from rm.input.stream import ReadingPool
def read(image, seed):
    open(sys.argv[1])  # a pipe that nobody writes to
split = DiskSplit(read, np.arange(1), torch.zeros(1, dtype=torch.int64))
for _ in ReadingPool([split], 1, pin=False).read([(0, np.array([0]), np.array([0]))]): pass
"""


def readers_of(trainer):
    """Its forks, not what libraries start to ask something."""
    return {pid for pid in children_of(trainer) if words_of(pid) == words_of(trainer) != []}


def until(condition, pause=0.05):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(pause)
    return found


def is_waiting_for_pipe(pid):
    return "wait_for_partner" in kernel_function(pid)


@pytest.fixture
def trainer_of_a_hanging_disk(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    environment = {**os.environ, "RM_LOADER_WORKERS": "2", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-c", HANGS, str(tmp_path / "pipe")]
    with subprocess.Popen(words, cwd=ROOT, env=environment) as process:
        yield process
        process.kill()


def test_readers_end_with_their_trainer_even_while_a_disk_hangs(trainer_of_a_hanging_disk):
    process, told = trainer_of_a_hanging_disk, set()

    def started():
        assert process.poll() is None, "a reader was ended"
        readers = readers_of(process.pid)
        for reader in readers - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(reader, signal.SIGTERM)  # as a scheduler does to all, at any moment
        told.update(readers)
        return any(map(is_waiting_for_pipe, readers)) and readers

    readers = until(started, pause=0.0005)
    for reader in readers:
        os.kill(reader, signal.SIGTERM)
    time.sleep(0.2)
    assert len(readers) == 2
    assert not any(map(is_gone, readers))
    process.kill()
    process.wait()
    until(lambda: all(map(is_gone, readers)))


def test_a_disk_that_hangs_is_said_and_its_readers_are_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("RM_LOADER_WORKERS", "1")
    monkeypatch.setattr(stream, "READ_SECONDS", 1.0)
    os.mkfifo(tmp_path / "pipe")
    reader = ImageReader(Files(tmp_path / "pipe"), evaluation_transform(16))
    split = DiskSplit(reader, np.arange(1), torch.zeros(1, dtype=torch.int64))
    pool = ReadingPool([split], 1, pin=False)
    others = children_of(os.getpid())  # of earlier tests in this process
    with pytest.raises(DataError, match=r"the pictures are not read any more: .*timed out"):
        list(pool.read([(0, np.array([0]), np.array([0]))]))
    readers = set(children_of(os.getpid())).difference(others)
    assert readers
    pool.close()
    until(lambda: all(map(is_gone, readers)))


LEFT_OPEN = """
import os, sys, numpy as np, torch
from rm.datasets import DiskSplit
from rm.input.stream import ReadingPool
split = DiskSplit(lambda image, seed: torch.zeros(2, 2, 3), np.arange(4), torch.zeros(4).long())
pool = ReadingPool([split], 1, pin=False)
reading = pool.read([(0, np.array([i]), np.array([0])) for i in range(4)])
next(reading)
print(*(process.pid for process in pool._loader._iterator._workers), flush=True)
exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("1 / 0", 1), ("sys.exit(3)", 3), ("", 0), ("del pool, reading", 0), ("pool.close()", 0)],
)
def test_a_script_that_leaves_a_pool_open_ends_with_its_readers(end, status):
    """They ignore the SIGTERM by which multiprocessing would ask them to, and then wait."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, end],
        cwd=ROOT,
        env={**os.environ, "RM_LOADER_WORKERS": "2"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == status, done.stderr
    assert ("ZeroDivisionError" in done.stderr) == (status == 1)
    readers = [int(pid) for pid in done.stdout.split()]
    assert len(readers) == 2
    assert all(is_gone(pid) for pid in readers)
