"""trial.json -> Trial, checked: the options of every choice filled in, each within its bounds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rm import registry
from rm.registry import plugins


class TrialError(ValueError):
    """A trial that cannot be trained as written; the message says what is wrong and what would be
    valid.
    """


@dataclass(frozen=True)
class Train:
    """Options of the training loop itself.

    batch_size          images a step, over all processes
    batch_norm_groups   batch norm sees 1/groups of the batch, as when it is spread over that many
                        devices
    precision           fp16 uses a gradient scaler
    label_smoothing     mass epsilon/(K-1) on each other class
    clip_norm           largest gradient norm; 0 is off
    repeats             views of an image an epoch: repeated augmentation (Hoffer et al., 2020) as
                        DeiT samples it: 1/repeats of the images, drawn anew, each that often
    evaluate_every      epochs between evaluations on the test split; the last epoch always has one
    cuda_graph          whole steps on buffers that stay where they are, which a GPU replays as one
                        CUDA graph; on a CPU they run as they stand. It changes no number and is no
                        part of a trial's identity; several processes train without it
    deterministic       a GPU's convolutions sum in one order, so that an interrupted run ends with
                        the bits of an undisturbed one. False is faster (by 14 % for ResNet-18 on
                        an H200) and promises no bits; it is no part of a trial's identity
    sheets              on a CPU, 3x3 convolutions of maps of a few pixels take several images side
                        by side as one wide map: ResNet-18 at 32 px trains 1.4 times as fast in
                        bf16. Sums are taken in another order, as with other threads; it is no part
                        of a trial's identity
    winograd            on a CPU, 3x3 convolutions in fp32 take fewer multiplications, as those of
                        GPUs do unasked (Lavin and Gray, 2016): ResNet-18 at 32 px trains 1.3 to
                        1.7 times as fast, in a third more memory. Results are rounded some five
                        times as much, by 1e-5 of the largest; no part of a trial's identity
    keep_best           also leave the weights of the best epoch, `weights.best.pt`; it changes no
                        number and is no part of a trial's identity
    """

    epochs: Annotated[int, "epochs >= 1"]
    batch_size: Annotated[int, "batch_size >= 1"]
    batch_norm_groups: Annotated[int, "batch_norm_groups >= 1"] = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    label_smoothing: Annotated[float, "0 <= label_smoothing < 1"] = 0.0
    clip_norm: Annotated[float, "clip_norm >= 0"] = 0.0
    repeats: Annotated[int, "repeats >= 1"] = 1
    evaluate_every: Annotated[int, "evaluate_every >= 1"] = 1
    cuda_graph: bool = False
    deterministic: bool = True
    sheets: bool = False
    winograd: bool = False
    keep_best: bool = False


@dataclass(frozen=True)
class Init:
    """The weights that a trial starts from: those that another trial left, or a file.

    trial     id of the other trial, whose `weights` are taken: of its last or its best epoch
    file      a name in $RM_DATA_DIR/weights, or an absolute path; its content has this
              sha256, or one that begins so: torchvision's file names have its first eight digits
    part      what is loaded: the backbone, or the whole model with its head
    """

    trial: Annotated[str | None, "len(trial) == 12"] = None
    weights: Literal["last", "best"] | None = None
    file: Annotated[str | None, "len(file) > 0"] = None
    sha256: Annotated[str | None, "8 <= len(sha256) <= 64"] = None
    part: Literal["backbone", "model"] = "backbone"


@dataclass(frozen=True)
class Trial:
    """The resolved trial: a {name, options} mapping for each choice, the loop's options, the
    seed, what it starts from (None: random weights) and which part of it stays as it was.
    """

    id: str
    seed: int
    train: Train
    choices: Mapping[str, Mapping[str, Any]]
    init: Init | None = None
    freeze: str | None = None

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.name("task") if "task" in self.choices else registry.DEFAULT_TASK

    @property
    def probe(self) -> str | None:
        """What is measured of this trial instead of training it."""
        return self.name("probe") if "probe" in self.choices else None

    def name(self, section: str) -> str:
        return str(self.choices[section]["name"])

    def options(self, section: str) -> dict[str, Any]:
        """The keyword arguments of a section's choice; none of a section that the trial lacks."""
        values = self.choices.get(section, {})
        return {k: v for k, v in values.items() if k not in ("name", "plugin")}


def load_trial(path: Path) -> Trial:
    """Read a trial.json. Options left out take their defaults; raises TrialError for anything
    wrong in it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrialError(f"{path}: not a readable trial: {error}") from None
    if not isinstance(data, dict):
        raise TrialError(f"{path}: a trial is a JSON object, found {type(data).__name__}")
    here = registry.numerics(data)
    numerics = data.pop("numerics", here)
    if numerics != here:
        raise TrialError(
            f"{path}: written for numerics {numerics}, but this rm computes numerics {here}; "
            "plan it again"
        )
    try:
        for plugin in sorted((path.parent / plugins.FOLDER).glob("*.py")):
            registry.use_plugin(plugin, again=True)
        return parse_trial(data)
    except (TrialError, registry.RegistryError) as error:
        raise TrialError(f"{path}: {error}") from None


def parse_trial(data: Mapping[str, Any]) -> Trial:
    """A trial from plain values; raises TrialError for unknown sections, choices, options, and
    values out of range, for all of them at once.
    """
    unknown = set(data) - {"id", "seed", *registry.TRIAL_SECTIONS}
    missing = {"seed", "train"} - set(data)
    if unknown or missing:
        raise TrialError(
            f"unknown sections {sorted(unknown)}, missing sections {sorted(missing)}; valid: "
            f"seed, {', '.join(registry.TRIAL_SECTIONS)}"
        )
    if type(data["seed"]) is not int or data["seed"] < 0:
        raise TrialError(f"seed must be a whole number >= 0, found {data['seed']!r}")
    values, wrong = registry.check_trial(
        {key: value for key, value in data.items() if key not in ("id", "seed")}
    )
    if wrong:
        raise TrialError("; ".join(violation.message for violation in wrong))
    init = Init(**values["init"]) if "init" in values else None
    return Trial(
        str(data.get("id", "unnamed")),
        data["seed"],
        Train(**values["train"]),
        {name: values[name] for name in values if name in registry.SECTIONS},
        init,
        values.get("freeze"),
    )
