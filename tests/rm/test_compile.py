"""`compile: true` computes what eager does, whatever box is drawn, without compiling again for
it.
"""

import pytest
import torch

from rm.trainer import Trainer
from rm.trial import parse_trial


@pytest.mark.cluster
def test_a_compiled_run_follows_the_eager_one(tiny):
    from torch import _dynamo
    from torch._dynamo.utils import counters

    _dynamo.reset()
    counters.clear()  # of this process, in which other tests have compiled
    tiny["dataset"] |= {"limit": 64}
    losses = {}
    for compiled in (False, True):
        tiny["train"]["compile"] = compiled
        run = Trainer(parse_trial(tiny), torch.device("cpu"))
        for _ in range(2):
            while run.step < run.steps_per_epoch:
                run.train_step()
            metrics = run.end_epoch()
        losses[compiled] = metrics
    assert losses[True]["train_loss"] == pytest.approx(losses[False]["train_loss"], rel=1e-3)
    assert losses[True]["area"] == losses[False]["area"]
    assert counters["stats"]["unique_graphs"] <= 4, (
        "training and evaluation, full and last batches"
    )
