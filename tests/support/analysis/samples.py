"""Specs built by hand, and plausible records and curves for them."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis.records.load import COLUMNS
from launch.spec.load import Cell, Claim, FigureSpec, Paper, Spec, TableMetric
from launch.spec.trial import Trial
from rm.metrics import SELECTIONS

RESULTS = tuple(f"{selection}_top1_error" for selection in SELECTIONS)

METHODS = {
    "Baseline": {"name": "baseline"},
    "+ Mixup": {"name": "mixup", "alpha": 1.0},
    "+ CutMix": {"name": "cutmix", "alpha": 1.0},
    "+ RM (ours)": {"name": "recursive_mix", "alpha": 0.5, "omega": 0.1},
}
PUBLISHED = {
    "ResNet-18": [21.70, 20.99, 19.61, 18.64],
    "PyramidNet, α̃=270": [16.67, 16.02, 15.59, 14.65],
}


def trial(
    method: Mapping[str, Any], seed: int, backbone: str = "resnet18", epochs: int = 200
) -> Trial:
    return Trial(
        {
            "backbone": {"name": backbone},
            "method": dict(method),
            "train": {"epochs": epochs},
            "seed": seed,
        }
    )


def grid_spec(profile: str | None = None, seeds: tuple[int, ...] = (0, 1, 2)) -> Spec:
    """Two backbones by four methods with published numbers, as in Table 3."""
    epochs = 1 if profile else 200
    cells = []
    for backbone, numbers in PUBLISHED.items():
        for (label, method), published in zip(METHODS.items(), numbers, strict=True):
            assumed = (
                {"method.alpha": "not in the paper; Mixup's own default"}
                if label == "+ Mixup"
                else {}
            )
            trials = tuple(trial(method, seed, backbone, epochs) for seed in seeds)
            cells.append(Cell((backbone, label), published, trials, assumed))
    claims = (Claim("+ RM (ours) < + CutMix < Baseline", ("+ RM (ours)", "+ CutMix", "Baseline")),)
    return Spec(
        Path("experiments/grid.yaml"),
        "Table 3: CIFAR-100 & <friends>",
        Paper(key="yang2022recursivemix", table="3"),
        TableMetric(name="top1_error", select="best"),
        0.3,
        seeds,
        profile,
        ("smoke",),
        ("backbone", "method"),
        tuple(cells),
        claims,
        (),
    )


def rows_spec() -> Spec:
    """Lines without published numbers and a sweep over α, as in the quickstart."""
    methods = {"Baseline": METHODS["Baseline"], "+ CutMix": METHODS["+ CutMix"]}
    methods |= {
        f"+ RM, α={alpha}": METHODS["+ RM (ours)"] | {"alpha": alpha} for alpha in (0.5, 0.1, 0.9)
    }
    cells = tuple(
        Cell((label,), None, tuple(trial(method, seed, "resnet8", 30) for seed in (0, 1, 2)), {})
        for label, method in methods.items()
    )
    claims = (Claim("+ RM, α=0.5 < Baseline", ("+ RM, α=0.5", "Baseline")),)
    options = {
        "x": "method.alpha",
        "where": {"method.name": "recursive_mix"},
        "baseline": "Baseline",
    }
    return Spec(
        Path("experiments/rows.yaml"),
        "Quickstart: handwritten digits",
        None,
        TableMetric(name="top1_error", select="last"),
        0.3,
        (0, 1, 2),
        None,
        (),
        ("row",),
        cells,
        claims,
        (FigureSpec("alpha", "sweep", options),),
    )


def without_published(spec: Spec) -> Spec:
    return replace(spec, cells=tuple(replace(cell, published=None) for cell in spec.cells))


def fake_records(spec: Spec, skip: tuple[str, ...] = (), std: float = 0.12) -> pd.DataFrame:
    """A finished record for every trial but those skipped, near the published number where there
    is one.
    """
    rows = []
    for i, cell in enumerate(spec.cells):
        for one in cell.trials:
            if one.id in skip:
                continue
            draw = random.Random(f"{i} {one.seed}")
            best = (cell.published or 8.0 - 0.5 * i) + draw.gauss(0.0, std)
            last = best + abs(draw.gauss(0.3, 0.1))
            finals = {"best": best, "last": last, "median_last_10": last - 0.02}
            row: dict[str, Any] = dict.fromkeys((*COLUMNS, *RESULTS))
            row |= {
                "trial_id": one.id,
                "seed": one.seed,
                "status": "FINISHED",
                "run_id": f"run-{one.id}",
            }
            row["experiment_id"] = "1"
            row |= {
                "run_dir": f"results/runs/{one.id}",
                "host": "node-07",
                "device": "NVIDIA H200",
                "git_commit": "4f1c2ab9d07e55aa",
            }
            row |= {f"{selection}_top1_error": value for selection, value in finals.items()}
            row |= {"train_seconds": 1800.0 + draw.random(), "ended": "2026-01-05T12:30:00+00:00"}
            row["link"] = f"https://mlflow.example/#/experiments/1/runs/{row['run_id']}"
            rows.append(row)
    return pd.DataFrame(rows, columns=[*COLUMNS, *RESULTS])


def fake_curve(run_id: str, epochs: int = 30) -> list[tuple[int, float]]:
    draw = random.Random(run_id)
    return [(epoch, 7.0 + 60.0 / epoch + draw.gauss(0.0, 0.4)) for epoch in range(1, epochs + 1)]


def fake_curves(records: pd.DataFrame, epochs: int = 30) -> pd.DataFrame:
    points = [
        (run_id, *point) for run_id in records["run_id"] for point in fake_curve(run_id, epochs)
    ]
    return pd.DataFrame(points, columns=["run_id", "epoch", "value"])


def texts(figure: Figure) -> str:
    """All that is written in a figure."""
    svg = figures.to_bytes(figure, "svg", "test").decode()
    return " ".join(
        "".join(node.itertext())
        for node in ElementTree.fromstring(svg).iter()
        if node.tag.endswith("text")
    )
