"""Within an epoch the host never waits for the device: nothing is read from it, and what goes to
it goes without waiting.
"""

import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rm import registry
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.trials import ROOT, contrastive

METHODS = sorted(
    name
    for name, entry in registry.entries("method").items()
    if "classification" in (entry.tasks or ("classification",))
)
METHODS.remove("stylecutmix")  # needs files
METHODS.remove("puzzlemix")  # cuts its graph on the host: reading the device is what it does
METHODS.remove("comixup")  # labels its grids there

CONTRASTIVE = ("baseline", "mixup", "cutmix", "manifold_mixup", "amix_i", "amix_c", "inter_intra")

READING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
"""What `.item()`, `float(tensor)` and `if tensor` come to; a GPU's pipeline is empty after
each.
"""

INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
)
"""With a mask they count on the host what is true in it."""


class Watch(TorchDispatchMode):
    """Where the device was read, or written to with waiting, by a line of rm."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.seen: list[str] = []
        whole = torch.Tensor.to

        def to(tensor, *words, **named):
            device = any(isinstance(word, torch.device) for word in (*words, *named.values()))
            if (
                device
                and not named.get("non_blocking")
                and self._is_ours(sys._getframe(1).f_code.co_filename)
            ):
                self._note("to(device), waiting")
            return whole(tensor, *words, **named)

        monkeypatch.setattr(torch.Tensor, "to", to)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func in INDEXING and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func in READING or masked:
            self._note(str(func))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _is_ours(file: str) -> bool:
        """This file's own reading too, which shows that it would be seen."""
        return Path(file).is_relative_to(ROOT / "rm") or file == __file__

    def _note(self, what: str) -> None:
        """One_hot looks at its labels on a CPU alone."""
        frames = traceback.extract_stack()
        own = ("_note", "__torch_dispatch__", "to")
        ours = [
            frame for frame in frames if self._is_ours(frame.filename) and frame.name not in own
        ]
        if ours and "one_hot" not in (ours[-1].line or ""):
            self.seen.append(f"{ours[-1].filename}:{ours[-1].lineno}: {what}")


def test_the_watch_sees_what_it_should(monkeypatch, tiny):
    with Watch(monkeypatch) as watch:
        tensor = torch.tensor([1.0, 2.0])
        for read in (
            lambda: tensor[0].item(),
            lambda: float(tensor.sum()),
            lambda: bool(tensor[0] > 0),
            lambda: tensor[tensor > 1],
        ):
            watch.seen.clear()
            read()
            assert watch.seen
        watch.seen.clear()
        torch.from_numpy(np.arange(2)).to(torch.device("cpu"))
        assert watch.seen
        watch.seen.clear()
        torch.from_numpy(np.arange(2)).to(torch.device("cpu"), non_blocking=True)
        (tensor * 2).sum().detach()
        assert watch.seen == []


def epoch(run: Trainer) -> None:
    while run.step < run.steps_per_epoch:
        run.train_step()


@pytest.mark.parametrize("name", METHODS)
def test_no_step_waits_for_the_device(monkeypatch, tiny, name):
    tiny["method"] = {"name": name}
    run = Trainer(parse_trial(tiny), torch.device("cpu"))
    with Watch(monkeypatch) as watch:
        epoch(run)
    assert watch.seen == []
    assert run.step == 5


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_no_contrastive_step_waits_for_the_device(monkeypatch, tiny, name):
    """But the first, before which clusters are formed, and each tenth, which moves them."""
    options = {"clusters": 4} if name in ("amix_c", "inter_intra") else {}
    values = {**contrastive(tiny), "method": {"name": name, **options}}
    run = Trainer(parse_trial(values), torch.device("cpu"))
    run.train_step()
    with Watch(monkeypatch) as watch:
        epoch(run)
    assert watch.seen == []
    assert 1 < run.step < 10


@pytest.mark.parametrize(
    "train",
    [{"precision": "fp16", "clip_norm": 5.0}, {"precision": "bf16", "batch_norm_groups": 2}],
)
def test_nor_does_it_in_reduced_precision(monkeypatch, tiny, train):
    tiny["train"] |= train
    run = Trainer(parse_trial(tiny), torch.device("cpu"))
    with Watch(monkeypatch) as watch:
        epoch(run)
    assert watch.seen == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_is_never_waited_for(tiny, name, precision):
    """CUDA itself is asked: any call that waits raises."""
    tiny["method"], tiny["train"]["precision"] = {"name": name}, precision
    run = Trainer(parse_trial(tiny), torch.device("cuda"))
    run.train_step()  # what is loaded and tuned once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
