"""A small spec for tests of the launcher."""

import textwrap
from pathlib import Path

SPEC = """
    # two methods, two seeds
    title: "Two methods on a few digits"
    seeds: [0, 1]
    trial:
      dataset: {name: digits, size: 16, limit: 70, test_limit: 60}
      backbone: {name: resnet8, width: 8}
      train: {epochs: 2, batch_size: 16}
      optimizer: {name: sgd, lr: 0.05}
      schedule: {name: cosine}
    axes:
      method:
        Baseline: baseline
        RM: {name: recursive_mix, alpha: 0.5, omega: 0.5}
    claims: ["RM < Baseline"]
    profiles:
      smoke: {train.epochs: 1, seeds: [3]}
"""
PRETRAINING = """
    # two methods of pre-training without labels, and their linear evaluations
    title: "Linear evaluations on a few digits"
    metric: {name: linear_top1, select: last}
    trial:
      dataset: {name: digits, size: 16, limit: 70, test_limit: 60}
      backbone: {name: resnet8, width: 8}
      method: baseline
      train: {epochs: 2, batch_size: 16}
      optimizer: {name: sgd, lr: 0.05}
      schedule: {name: cosine}
    rows:
      - row: MoCo
        init: {trial: {task: &task {name: contrastive, queue: 80, hidden: 16, colours: false}}}
        freeze: backbone
      - row: AMix-C
        init: {trial: {task: *task, method: {name: amix_c, clusters: 4}}}
        freeze: backbone
"""

PROBE = """
    # a measurement that takes hours
    title: "A probe"
    metric: {name: NAME, select: measured}
    seeds: [0]
    trial:
      dataset: digits
      backbone: {name: resnet8, width: 8}
      train: {epochs: 300, batch_size: 16}
      optimizer: {name: sgd, lr: 0.1}
      schedule: constant
      method: {name: recursive_mix, alpha: 0.5, omega: 0.5}
    rows:
      - {row: LABEL, probe: {name: NAME, OPTIONS}}
"""


def write_spec(
    folder: Path, text: str = SPEC, name: str = "small.yaml", **replacements: str
) -> Path:
    """Write a spec file (by default SPEC), with replacements made; returns its path."""
    text = textwrap.dedent(text).lstrip("\n")
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
