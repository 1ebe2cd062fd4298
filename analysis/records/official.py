"""The authors' own runs: learning curves of their released logs, which stand in the report beside
ours, labelled as theirs.

A log speaks for one cell of one spec, and so for every cell of any spec that has the same trial.
The four that the authors released with the paper are in `official_curves.csv` (columns log, split,
step_unit, step, metric, value; errors in percent); `python -m analysis.import_official` adds
others.
"""

import csv
import io
import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.paths import ROOT
from analysis.records.recorded import values_of
from launch.spec.load import Spec, SpecError, load_spec
from rm.metrics import METRICS, from_recorded, recorded_as, select

_PRIMARY = "top1_error"
COMMITTED = Path(__file__).with_name("official_curves.csv")
COLUMNS = ("log", "split", "step_unit", "step", "metric", "value")
PLACES = {
    "cifar10_300epoch_pyramidnet_rm": ("table1", "RM"),
    "imagenet_300epoch_r50_rm": ("table5", "ResNet-50 · + RM (ours)"),
}
"""How a released log's name begins -> the spec and the cell, by its labels, that the log speaks
for.
"""

_SUFFIXES = (".xz", ".log", ".json", ".txt")
_LINE = re.compile(
    r"Epoch\(val\)\s*\[(\d+)\].*?Test Acc@1:?\s*([\d.]+)(?:.*?(?:Test )?Acc@5:?\s*([\d.]+))?"
)


class LogError(ValueError):
    """A file that holds no such log; the message names it and says what was looked for."""


@dataclass(frozen=True)
class OfficialRun:
    """One log: where its curves belong. curves is metric -> epoch -> value, of the test set, in
    percent.
    """

    name: str
    spec: str
    cell: str
    curves: Mapping[str, Mapping[int, float]]

    def curve(self, metric: str) -> dict[int, float]:
        """Epoch -> value in order; of an accuracy from the error that the log is kept as."""
        recorded = self.curves.get(recorded_as(metric), {})
        return {epoch: from_recorded(metric, recorded[epoch]) for epoch in sorted(recorded)}

    def finals(self, metric: str) -> dict[str, float]:
        """A metric under each selection, as our own runs record it: top-5 is that of the epoch
        chosen by top-1, and the median needs ten epochs of the last tenth.
        """
        known = [name for name in self.curves if name in METRICS]
        names = sorted(known, key=lambda name: name != _PRIMARY)  # it alone chooses the epoch
        if not names:
            return {}
        evaluated = self.curves[names[0]]
        names = [name for name in names if evaluated.keys() <= self.curves[name].keys()]
        epochs = [
            {"epoch": epoch, **{f"test_{name}": self.curves[name][epoch] for name in names}}
            for epoch in sorted(evaluated)
        ]
        results = select(epochs, [METRICS[name] for name in names], max(evaluated, default=0))
        return values_of(metric, results)


def load_official(folder: Path | None = None) -> list[OfficialRun]:
    """The committed logs, and those that were imported into this folder; of two with one name the
    imported one.
    """
    files = [COMMITTED, *(sorted(folder.glob("*.csv")) if folder and folder.is_dir() else [])]
    runs = {run.name: run for file in files for run in read_curves(file)}
    return [runs[name] for name in sorted(runs)]


def read_curves(path: Path, place: tuple[str, str] | None = None) -> list[OfficialRun]:
    """The runs of a CSV of learning curves. Those without a place, and curves by iteration, are
    left out.

    place  spec and cell for all of them; else `PLACES`, or the columns spec and cell that an
           imported file has
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise LogError(
                f"{path}: not a CSV of learning curves; valid: the columns {', '.join(COLUMNS)}"
            )
        curves: dict[str, dict[str, dict[int, float]]] = {}
        places: dict[str, tuple[str, str]] = {}
        for line in reader:
            where = place or (
                (line["spec"], line["cell"]) if line.get("cell") else place_of(line["log"])
            )
            if where and line["split"] == "test" and line["step_unit"] == "epoch":
                places[line["log"]] = where
                try:
                    point = {int(line["step"]): float(line["value"])}
                except ValueError:
                    raise LogError(
                        f"{path}:{reader.line_num}: step and value are numbers, found {line}"
                    ) from None
                curves.setdefault(line["log"], {}).setdefault(line["metric"], {}).update(point)
    return [OfficialRun(name, *places[name], curves[name]) for name in curves]


def read_log(path: Path, place: tuple[str, str]) -> OfficialRun:
    """A training log of the authors' code, as it is or packed with xz: lines `Epoch(val) [e] Test
    Acc@1: … Test Acc@5: …`.

    Accuracies are fractions, as their code prints them, where none in the whole log exceeds 1;
    else percent. An epoch that is there twice, as after a resumption, counts as last written.
    """
    try:
        data = path.read_bytes()
        data = lzma.decompress(data) if path.suffix == ".xz" else data
    except (lzma.LZMAError, EOFError) as error:
        raise LogError(f"{path}: not a whole xz file ({error})") from None
    accuracies: dict[str, dict[int, float]] = {"top1_error": {}, "top5_error": {}}
    for line in data.decode("utf-8", errors="replace").splitlines():
        match = _LINE.search(line)
        if match:
            for metric, accuracy in zip(accuracies, match.groups()[1:], strict=True):
                if accuracy:
                    accuracies[metric][int(match[1])] = _number(path, accuracy)
    if not accuracies["top1_error"]:
        raise LogError(
            f"{path}: no line 'Epoch(val) [e] Test Acc@1 …'; valid: a training log of the "
            "authors' code"
        )
    scale = 100 if max(max(one.values(), default=0) for one in accuracies.values()) <= 1 else 1
    curves = {
        metric: {epoch: round(100 - scale * value, 4) for epoch, value in curve.items()}
        for metric, curve in accuracies.items()
        if curve
    }
    return OfficialRun(name_of(path.name), *place, curves)


def name_of(file: str) -> str:
    """A log by its file's name, as the committed curves call it: without suffixes, and without
    the `log_` before the released ones.
    """
    while file.endswith(_SUFFIXES):
        file = file.rpartition(".")[0]
    return file.removeprefix("log_")


def place_of(log: str) -> tuple[str, str] | None:
    """Spec and cell of a released log, by its name; None for one that is not known."""
    name = name_of(log)
    return next((where for start, where in PLACES.items() if name.startswith(start)), None)


def to_csv(runs: Iterable[OfficialRun]) -> str:
    """The curves in the format of `read_curves`, with two columns for the place."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, "spec", "cell"))
    for run in runs:
        for metric, curve in run.curves.items():
            for epoch in sorted(curve):
                writer.writerow(
                    (
                        run.name,
                        "test",
                        "epoch",
                        epoch,
                        metric,
                        f"{curve[epoch]:.4g}",
                        run.spec,
                        run.cell,
                    )
                )
    return text.getvalue()


def by_trial(runs: Iterable[OfficialRun], specs: Iterable[Spec]) -> dict[str, list[OfficialRun]]:
    """The logs by the first trial of the cell that each speaks for; the cell's spec is one of
    these, or in `experiments/`.

    A log whose spec or cell is not there any more speaks for nothing.
    """
    known = {spec.name: spec for spec in specs if spec.variant is None}
    logs: dict[str, list[OfficialRun]] = {}
    for run in runs:
        if run.spec not in known:
            try:
                known[run.spec] = load_spec(ROOT / "experiments" / f"{run.spec}.yaml")
            except SpecError:
                continue
        trials = [
            cell.trials[0].id
            for cell in known[run.spec].cells
            if cell.trials and cell.row == run.cell
        ]
        for trial in trials:
            logs.setdefault(trial, []).append(run)
    return logs


def _number(path: Path, accuracy: str) -> float:
    try:
        value = float(accuracy)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise LogError(f"{path}: an accuracy lies between 0 and 1, or 100, found {accuracy}")
    return value
