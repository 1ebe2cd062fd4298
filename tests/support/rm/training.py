"""Trainings that are stopped and compared, and data sets that are looked through."""

import json

import numpy as np
import pytest
import torch

from rm.datasets import Dataset, InMemorySplit
from rm.input.stream import open_images
from rm.rundir import checkpoint
from rm.train import Interrupted, fit
from rm.trial import parse_trial
from tests.support.trials import deterministic, write_trial


def train(trial, folder, stop_before=(), **options):
    """Train, being stopped before each of these steps (counted over the whole training) and
    resumed.
    """
    write_trial(folder, trial)
    for step_number in stop_before:
        remaining = iter(range(step_number))
        with pytest.raises(Interrupted):
            fit(
                parse_trial(trial),
                folder,
                stop=lambda left=remaining: next(left, None) is None,
                **options,
            )
    return fit(parse_trial(trial), folder, **options)


def weights(folder):
    """All tensors of the task: parameters, buffers, and what it remembers between steps."""
    found = {}
    for name, value in checkpoint.load(folder, torch.device("cpu"))["task"].items():
        parts = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}{part}": tensor for part, tensor in parts.items()}
    return found


def assert_equal_runs(one, other):
    assert deterministic(one) == deterministic(other)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["metrics"] == results[1]["metrics"]


def assert_is_a_data_set(data, train_images, test_images):
    """Images of one shape with labels, uint8 or with changed colours, however they are kept, and
    the same again as a run is shown them.
    """
    assert isinstance(data, Dataset)
    for split, count in ((data.train, train_images), (data.test, test_images)):
        images = (
            split.images
            if isinstance(split, InMemorySplit)
            else torch.stack([split.reader(int(i), 0) for i in split.index])
        )
        assert images.dtype in (torch.uint8, torch.float16)
        assert images.shape[0] == count == len(split)
        assert images.shape[-1] == data.channels == len(data.mean) == len(data.std)
        assert split.labels.shape == (count,)
        assert 0 <= int(split.labels.min()) <= int(split.labels.max()) < data.classes
    train, test = open_images(data, torch.device("cpu"), 1)
    views = train.sample_epoch(np.random.default_rng(0))
    shown = [
        *train.batches(views, [slice(0, 3), slice(3, train_images)]),
        *test.eval_batches(slice(0, test_images), 4),
    ]
    for shown_images, labels in shown:
        assert shown_images.shape == (len(labels), data.channels, *images.shape[1:3])
        assert shown_images.dtype == torch.float32
    assert sum(len(labels) for _, labels in shown) == train_images + test_images
    train.close()
    test.close()
