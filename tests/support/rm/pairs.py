"""A second task, to show that the trainer knows none: it pulls two noisy views of a vector
together, by two passes of one network a step, and is judged by a whole list. As a script it is
trained by several processes: `python -m torch.distributed.run ... pairs.py TRIAL.json RUN_DIR`.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from rm.distributed import ProcessGroup, join
from rm.metrics import Metric
from rm.optimizers import ParameterGroup
from rm.rundir.journal import Journal
from rm.tasks import ListEvaluator, StepOutput, Task
from rm.train import train
from rm.trainer import Trainer
from rm.trial import load_trial

SAMPLES, SIZE, BATCH, TESTED = 22, 6, 8, 9


class Pairs(Task):
    """Encoder and projector with learning rates of their own, and a momentum copy of the
    encoder.
    """

    def __init__(self, group=None):
        super().__init__()
        self.group = group or ProcessGroup()
        torch.manual_seed(7)
        self.vectors = torch.randn(SAMPLES, SIZE)
        self.encoder, self.projector = nn.Linear(SIZE, 5), nn.Linear(5, 3)
        self.unused = nn.Linear(2, 2)
        self.momentum = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("steps_seen", torch.tensor(0))
        self.progress = []

    @property
    def steps_per_epoch(self):
        return -(-SAMPLES // BATCH)

    def epoch_plan(self, generator):
        return generator.permutation(SAMPLES)

    def batches(self, plan, start):
        for first in range(start * BATCH, SAMPLES, BATCH):
            positions = self.group.share(first, min(first + BATCH, SAMPLES))
            yield self.vectors[plan[positions]]

    def forward(self, batch, step):
        # One draw for the whole batch, alike in every process.
        noise = torch.from_numpy(step.generator.normal(size=(2, SIZE))).to(batch.dtype)
        self.progress.append(step.progress)
        one, other = (self.projector(self.encoder(batch + each)) for each in noise)
        with torch.no_grad():
            key = self.projector(self.momentum(batch))
        loss = -F.cosine_similarity(one, other).mean() - F.cosine_similarity(one, key).mean()
        norms = one.detach().norm(dim=1).double().sum()
        return StepOutput(loss, {"norm": norms}, len(batch))

    def after_step(self, step):
        self.steps_seen += 1
        with torch.no_grad():
            for slow, fast in zip(
                self.momentum.parameters(), self.encoder.parameters(), strict=True
            ):
                slow.lerp_(fast, 0.1)

    def parameter_groups(self):
        rest = [*self.projector.parameters(), *self.unused.parameters()]
        return [
            ParameterGroup(list(self.encoder.parameters())),
            ParameterGroup(rest, lr_factor=0.1, schedule=lambda at: 1 - at.fraction),
            ParameterGroup(list(self.momentum.parameters())),
        ]

    def eval_batches(self):
        positions = self.group.share(0, TESTED)
        for first in range(positions.start, positions.stop, 2):
            yield torch.arange(first, min(first + 2, positions.stop))

    def evaluator(self):
        return _RankEvaluator(self)

    def metrics(self):
        return [Metric("order", "order", "", "higher")]

    def deployed_names(self):
        return {name: f"encoder.{name}" for name in self.encoder.state_dict()}


class _RankEvaluator(ListEvaluator):
    """The mean step between neighbours of the list, which no sum over shares gives."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def update(self, batch):
        self.add([(int(i), self.task.encoder(self.task.vectors[i])) for i in batch])

    def compute(self):
        assert [number for number, _ in self.results] == list(range(TESTED))
        codes = torch.stack([code for _, code in self.results])
        return {"order": float(codes.diff(dim=0).norm(dim=1).mean())}


def main(trial_path, run_dir):
    group, device = join()
    trial = load_trial(Path(trial_path))
    trainer = Trainer(trial, device, group, task=Pairs(group))
    with Journal(Path(run_dir) / "journal.jsonl", silent=not group.is_first) as journal:
        train(trainer, Path(run_dir), journal, lambda: False, 1e9)
    if group.is_first:
        state = {name: value.tolist() for name, value in trainer.task.state_dict().items()}
        Path(run_dir, "state.json").write_text(json.dumps([state, trainer.epochs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
