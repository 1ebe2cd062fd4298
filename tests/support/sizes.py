"""Specs whose trials take several GPUs, for trainings that sleep."""

from pathlib import Path

SPEC = """\
title: "{name}"
seeds: {seeds}
resources: {{gpus: {gpus}}}
trial:
  dataset: {{name: digits, size: 8}}
  backbone: {{name: resnet8, width: 8}}
  method: baseline
  train: {{epochs: 1, batch_size: 16, batch_norm_groups: {gpus}}}
  optimizer: {{name: sgd, lr: 0.1}}
  schedule: constant{init}
rows:
  - {{row: "{name}"}}
"""


def write(folder: Path, name: str, seeds: int, gpus: int, init: str = "") -> None:
    """A spec `name` of one row `name`."""
    text = SPEC.format(name=name, seeds=list(range(seeds)), gpus=gpus, init=init)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
