"""Journal and checkpoint: what a crash, a full disk or bit rot leaves behind."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch

from rm import files
from rm.rundir import checkpoint
from rm.rundir.journal import Journal, read
from tests.support.trials import ROOT

CPU = torch.device("cpu")


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("started", epochs=3)
        journal.append("epoch", epoch=1, error=12.5, note="α")
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [event["event"] for event in read(path)] == ["started"]
    with Journal(path) as journal:
        journal.append("resumed")
    assert [event["event"] for event in read(path)] == ["started", "resumed"]
    assert read(tmp_path / "none.jsonl") == []


def test_two_generations_and_damage(tmp_path):
    for value in (1, 2, 3):
        checkpoint.save(tmp_path, {"value": value, "tensor": torch.full((100,), float(value))})
    newest, former = tmp_path / "checkpoint.pt", tmp_path / "checkpoint.prev.pt"
    assert checkpoint.load(tmp_path, CPU)["value"] == 3
    whole = newest.read_bytes()
    for damaged in (
        whole[:-1],
        whole[: len(whole) // 2],
        b"",
        whole[:50] + b"\0" + whole[51:] + b"x",
    ):
        newest.write_bytes(damaged)
        assert checkpoint.load(tmp_path, CPU)["value"] == 2
    former.unlink()
    assert checkpoint.load(tmp_path, CPU) is None


def test_no_torch_zip_reader_is_needed_to_notice_any_flipped_bit(tmp_path):
    checkpoint.save(tmp_path, {"tensor": torch.arange(10)})
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for at in range(0, len(whole), 37):
        (tmp_path / "checkpoint.pt").write_bytes(
            whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        )
        assert checkpoint.load(tmp_path, CPU) is None


def test_a_full_disk_is_named_and_the_former_checkpoint_stays(tmp_path):
    """A limit on the size of files stands in for the full disk: the kernel refuses the write, as
    it would there.
    """
    checkpoint.save(tmp_path, {"value": 1})
    code = f"""
import resource, signal, sys, torch
from pathlib import Path
from rm.rundir import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    checkpoint.save(Path({str(tmp_path)!r}), {{"value": torch.zeros(1_000_000)}})
except checkpoint.CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "cannot be written (File too large)" in done.stdout
    assert "the checkpoint before it is intact" in done.stdout
    assert checkpoint.load(tmp_path, CPU)["value"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]


def test_the_journal_takes_back_what_a_full_disk_cut_short(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("started")
        size = path.stat().st_size
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        import signal

        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limit[1]))
        try:
            with pytest.raises(OSError, match=str(path)) as caught:
                journal.append("epoch", note="x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, handler)
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        journal.append("finished")
    assert [event["event"] for event in read(path)] == ["started", "finished"]


def test_write_atomically_leaves_no_half_file(tmp_path):
    files.write_atomically(tmp_path / "a.json", "one")
    files.write_atomically(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two"
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208
