"""Batches are made ahead on a stream beside: the same ones, in their turn. On a CPU such a stream
does nothing, but what a GPU does goes through the same lines.
"""

import pytest
import torch

from rm.input import ahead
from rm.input.ahead import BatchesAhead
from tests.support.rm.training import assert_equal_runs, train
from tests.support.trials import contrastive

CPU = torch.device("cpu")


@pytest.fixture
def beside(monkeypatch):
    stream = torch.cpu.Stream()
    monkeypatch.setattr(ahead, "stream_beside", lambda device: stream)
    return stream


def counted(log, count, stream):
    """Batches that note when, and on which stream, they are made."""
    for number in range(count):
        log.append(f"make {number}")
        assert torch.cpu.current_stream() is stream
        yield torch.tensor(number), {"labels": [torch.tensor(number)]}


def steps(batches, log):
    """What comes, with the next one made when a step is under way."""
    for images, _ in batches:
        log.append(f"step {int(images)}")
        batches.make_next()
        batches.make_next()  # it is made already


def test_the_next_batch_is_made_behind_a_step(beside):
    log = []
    batches = BatchesAhead(CPU)
    batches.restart(lambda: counted(log, 3, beside))
    assert not log
    steps(batches, log)
    assert log == ["make 0", "step 0", "make 1", "step 1", "make 2", "step 2"]
    assert next(batches, None) is None


def test_a_cpu_makes_batches_when_they_are_asked_for():
    log = []
    batches = BatchesAhead(CPU)
    batches.restart(lambda: counted(log, 2, torch.cpu.current_stream()))
    next(batches)
    batches.make_next()
    batches.make_next()
    assert log == ["make 0"]


def test_an_error_comes_in_the_turn_of_its_batch(beside):
    def broken():
        yield torch.tensor(0)
        yield torch.tensor(1)
        raise ValueError("no picture")

    batches = BatchesAhead(CPU)
    batches.restart(broken)
    for number in range(2):
        assert int(next(batches)) == number
        batches.make_next()
    for _ in range(2):
        with pytest.raises(ValueError, match="no picture"):
            next(batches)


def test_a_restart_forgets_what_was_made(beside):
    batches, log = BatchesAhead(CPU), []
    batches.restart(lambda: counted(log, 5, beside))
    next(batches)
    batches.make_next()
    batches.restart(lambda: counted(log, 2, beside))
    assert [int(images) for images, _ in batches] == [0, 1]
    batches.close()
    batches.make_next()
    assert list(batches) == []


def test_every_tensor_of_a_batch_is_found():
    parts = [torch.tensor(number) for number in range(4)]
    batch = (parts[0], [{"boxes": parts[1], "meta": {"id": 7}}, {"maps": [parts[2]]}], parts[3])
    assert [int(tensor) for tensor in ahead._tensors(batch)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "method", [{"name": "recursive_mix"}, {"name": "baseline"}], ids=["RM", "baseline"]
)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_training_keeps_its_bits(tiny, tmp_path, monkeypatch, method, graph):
    """With a rest that makes a smaller batch, and when it is interrupted and resumed."""
    tiny["method"], tiny["train"]["cuda_graph"] = method, graph
    _assert_the_same_bits(tiny, tmp_path, monkeypatch, (4, 3))


def test_so_does_one_of_two_views(tiny, tmp_path, monkeypatch):
    _assert_the_same_bits(contrastive(tiny), tmp_path, monkeypatch, (3,))


def _assert_the_same_bits(trial, folder, monkeypatch, stop_before):
    train(trial, folder / "when asked")
    monkeypatch.setattr(ahead, "stream_beside", lambda device: torch.cpu.Stream())
    train(trial, folder / "ahead", stop_before=stop_before)
    assert_equal_runs(folder / "when asked", folder / "ahead")
