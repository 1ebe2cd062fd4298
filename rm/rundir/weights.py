"""Weights that trials leave and start from: `weights.pt` and `weights.best.pt` of a run directory,
and files from elsewhere; of each, the sha256 is what counts.
"""

import hashlib
import io
import json
import pickle
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.datasets import DataError, data_dir
from rm.files import UNGUARDED, Permit, write_atomically
from rm.trial import Init

FILES = {"last": "weights.pt", "best": "weights.best.pt"}
"""`init.weights` -> the file of a run directory."""


def save(path: Path, weights: Mapping[str, Tensor], permit: Permit = UNGUARDED) -> str:
    """Write a state dict, durably and whole; returns the sha256 of the file."""
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    write_atomically(path, buffer.getvalue(), permit)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


class InitialWeights(NamedTuple):
    """What a trial starts from.

    state    plain name -> tensor, on the CPU
    part     backbone: without its head; model: with it, where its shape fits
    source   the file, for messages
    sha256   of the file
    """

    state: Mapping[str, Tensor]
    part: str
    source: Path
    sha256: str

    def load_into(self, backbone: Backbone) -> None:
        """Fill a network from its plain names; DataError names what is missing or too much. It
        draws no random number: what is left out stays as it was.
        """
        own = {backbone.plain_name(name): name for name in backbone.state_dict()}
        heads = {plain for plain, name in own.items() if name.startswith("head.")}
        current = backbone.state_dict()
        fits = all(
            plain in self.state and self.state[plain].shape == current[own[plain]].shape
            for plain in heads
        )
        left_out = set() if self.part == "model" and fits else heads
        names = {plain: name for plain, name in own.items() if plain not in left_out}
        self.load_named(backbone, names, backbone.title, known=set(own))

    def load_named(
        self,
        module: nn.Module,
        names: Mapping[str, str],
        title: str,
        known: Set[str] = frozenset(),
    ) -> None:
        """Fill what `names` (plain name -> name in the module's state dict) says; DataError names
        what is missing or too much.

        known   further plain names that may be there
        """
        current = module.state_dict()
        # Files from before PyTorch 0.4.1 have no such counter; nothing here reads it.
        missing = sorted(
            plain
            for plain in set(names) - set(self.state)
            if not plain.endswith("num_batches_tracked")
        )
        unexpected = sorted(set(self.state) - set(names) - known)
        there = set(names) & set(self.state)
        misshapen = sorted(
            f"{plain} {tuple(self.state[plain].shape)} for {tuple(current[names[plain]].shape)}"
            for plain in there
            if self.state[plain].shape != current[names[plain]].shape
        )
        if missing or unexpected or misshapen:
            raise DataError(
                f"{self.source} does not hold the weights of a {title}: missing "
                f"{_some(missing)}; unexpected {_some(unexpected)}; of another shape "
                f"{_some(misshapen)}"
            )
        loaded = {names[plain]: self.state[plain] for plain in there}
        module.load_state_dict(loaded, strict=False)  # no entry of `current` is read or copied


def read_init(init: Init, run_dir: Path) -> InitialWeights:
    """The weights that `init` names: those of the trial beside this run directory, or a file in
    $RM_DATA_DIR/weights. DataError where they are missing, damaged, or others.
    """
    if init.trial is not None:
        path, expected = _of_trial(run_dir.resolve().parent / init.trial, init.weights or "last")
    else:
        path = data_dir() / "weights" / str(init.file)  # an absolute path stays itself
        expected = str(init.sha256).lower()
        if not path.is_file():
            raise DataError(
                f"init: there is no file {path}; put it there, or set RM_DATA_DIR to the folder "
                "whose folder weights holds it"
            )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(expected):
        remedy = (
            f"remove {path.parent} and train {init.trial} again"
            if init.trial is not None
            else "fetch it again, or correct init.sha256"
        )
        raise DataError(f"init: {path} has sha256 {found}, not {expected}: {remedy}")
    return InitialWeights(_state_dict(data, path), init.part, path, found)


def read_file(path: Path, part: str) -> InitialWeights:
    """A file of weights, whoever wrote it; DataError where it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return InitialWeights(_state_dict(data, path), part, path, hashlib.sha256(data).hexdigest())


def _of_trial(run_dir: Path, which: str) -> tuple[Path, str]:
    """The weights of a finished trial and the sha256 that its result gives them."""
    path = run_dir / FILES[which]
    try:
        result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
        expected = result["weights"][FILES[which]]
    except FileNotFoundError:
        raise DataError(
            f"init: trial {run_dir.name} is not finished in {run_dir.parent}: run it first"
        ) from None
    except KeyError:
        remedy = "train it with `train: {keep_best: true}`" if which == "best" else "run it again"
        raise DataError(
            f"init: trial {run_dir.name} left no {FILES[which]} in {run_dir}: {remedy}"
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"init: {run_dir / 'result.json'} is damaged: {error}") from None
    if not path.is_file():
        raise DataError(
            f"init: {path} is missing, though trial {run_dir.name} is finished: its weights are "
            f"not on this machine. Copy them there, or remove {run_dir} and run the trial again"
        )
    return path, str(expected)


def _state_dict(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a file, wrapped as training scripts wrap them or not."""
    try:
        content: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"init: {path} is no file of weights: {reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise DataError(f"init: {path} holds a {type(content).__name__}, not a state dict")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return (", ".join(listed[:5]) + more) or "nothing"
