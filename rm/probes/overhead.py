"""What a method costs over the plain training of the same network: the paper's Table 11, on this
machine.

The images are noise: nothing is read from disk. Time: steps of the method and of the baseline in
turn, the median of their ratios, so that a machine that slows down slows both; single steps on a
CPU, and on a GPU blocks of some, with no wait inside, as a training has none. Memory: the peak
while training, of the GPU's allocator, or of a process of its own on a CPU, less what it held
before. FLOPs are multiply-adds of a step's forward pass (torch's counter counts each twice).
"""

import dataclasses
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rm import registry
from rm.backbones import Backbone
from rm.datasets import Dataset, InMemorySplit
from rm.methods import Method
from rm.methods._consistency import ConsistencyNetwork
from rm.probes import ProbeLogger
from rm.schedules import StepContext
from rm.tasks.classification import Classification
from rm.trainer import Trainer
from rm.trial import Trial, TrialError

METRIC = {"label": "overhead over the baseline", "unit": "%", "better": "lower"}
USES = ("backbone", "method", "train", "optimizer", "schedule")

_WARM_UP = 2
"""Pairs that are not counted, of steps or of blocks of them."""
_GPU_BLOCK = 10
"""Steps; a step that `train.cuda_graph` replays takes so many, at most, to be captured."""
_MEMORY_STEPS = 3
"""The second step is the first that has a history; the third begins with all that is ever held."""
_MIB = 2**20


def overhead(
    trial: Trial,
    device: torch.device,
    log: ProbeLogger,
    *,
    of: Literal[
        "parameters", "deployed_parameters", "flops", "memory", "time", "inference", "history"
    ] = "time",
    steps: Annotated[int, "steps >= 1"] = 20,
    classes: Annotated[int, "classes >= 2"] = 1000,
    size: Annotated[int, "size >= 2"] = 224,
) -> dict[str, float]:
    """Percent over the baseline; `value` and `reference` are the method's and the baseline's own
    numbers.

    of      parameters: millions, with whatever the method adds for training; deployed_parameters:
            without it; flops: billions of multiply-adds an image; memory: MiB; time: ms a step;
            inference: ms to evaluate a batch, with what the method adds to the network;
            history: MiB that the method holds from step to step, over the baseline's memory
    steps   pairs of steps, for time and inference; points: value and reference of each pair, on a
            GPU of each ten
    """
    plain = _with_method(trial, {"name": "baseline"})
    if of in ("time", "inference"):
        block = _GPU_BLOCK if device.type == "cuda" else 1
        pairs = -(-steps // block)
        noise = _noise(trial, (_WARM_UP + pairs) * block, classes, size)
        trainers = [_trainer(each, device, noise) for each in (plain, trial)]
        calls = [one.train_step if of == "time" else _inference(one) for one in trainers]
        return _time(calls[0], calls[1], device, log, pairs, block)
    if of == "history":
        reference = _memory(plain, device, classes, size)
        value = _history(trial, device, classes, size)
        return {"overhead": 100 * value / reference, "value": value, "reference": reference}
    measures: dict[str, Callable[[Trial], float]] = {
        "flops": lambda each: _multiply_adds(each, classes, size),
        "memory": lambda each: _memory(each, device, classes, size),
        "parameters": lambda each: _parameters(each, classes, deployed=False),
        "deployed_parameters": lambda each: _parameters(each, classes, deployed=True),
    }
    count = measures[of]
    reference = count(plain)
    log.raise_if_stopped()
    value = count(trial)
    return {"overhead": 100 * (value / reference - 1), "value": value, "reference": reference}


def _with_method(trial: Trial, method: dict[str, object]) -> Trial:
    return dataclasses.replace(trial, choices={**trial.choices, "method": method})


def _inference(trainer: Trainer) -> Callable[[], object]:
    """Evaluate one batch: of RM with the second head, which reads the whole image, although it is
    dropped when deployed.
    """
    task: Any = trainer.task
    images, _ = next(iter(task.eval_batches()))
    images = images[: trainer.options.batch_size]
    model = task.model.eval()
    box = (0, 0, images.shape[-2], images.shape[-1])
    inputs = (images, box) if isinstance(model, ConsistencyNetwork) else (images,)
    return torch.inference_mode()(lambda: model(*inputs))


def _history(trial: Trial, device: torch.device, classes: int, size: int) -> float:
    """MiB of all tensors in the method's own state after two steps."""
    trainer = _trainer(trial, device, _noise(trial, _MEMORY_STEPS, classes, size))
    for _ in range(2):
        trainer.train_step()
    task: Any = trainer.task
    held = sum(tensor.nbytes for tensor in _tensors(task.method.state_dict()))
    trainer.close()
    return held / _MIB


def _tensors(state: Any) -> Iterator[Tensor]:
    """Of mappings within mappings."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)


def _time(
    plain: Callable[[], object],
    method: Callable[[], object],
    device: torch.device,
    log: ProbeLogger,
    count: int,
    block: int,
) -> dict[str, float]:
    """Of so many pairs of blocks, in ms a step."""
    calls = (plain, method)
    pairs = []
    for number in range(_WARM_UP + count):
        log.raise_if_stopped()
        # Who goes first changes, as the second finds the caches warm.
        order = (0, 1) if number % 2 else (1, 0)
        seconds = {which: _seconds(calls[which], device, block) for which in order}
        if number >= _WARM_UP:
            pairs.append((1000 * seconds[1], 1000 * seconds[0]))
            log.log_point(value=pairs[-1][0], reference=pairs[-1][1])
    ratio = statistics.median(value / reference for value, reference in pairs)
    value, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"overhead": 100 * (ratio - 1), "value": value, "reference": reference}


def _seconds(call: Callable[[], object], device: torch.device, times: int) -> float:
    """Of one call."""
    _wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (time.perf_counter() - began) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _noise(trial: Trial, steps: int, classes: int, size: int) -> Dataset:
    """As many batches as there are steps, of one batch of noise: its images are shown again and
    again.
    """
    generator = np.random.default_rng(trial.seed)
    batch = trial.train.batch_size
    images = torch.from_numpy(generator.integers(256, size=(batch, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(generator.integers(classes, size=batch))
    whole = InMemorySplit(images.repeat(steps, 1, 1, 1), labels.repeat(steps))
    third = (0.5, 0.5, 0.5)
    return Dataset(whole, whole, classes, mean=third, std=third, padding=0, flip=True)


def _parameters(trial: Trial, classes: int, *, deployed: bool) -> float:
    """Millions."""
    with torch.device("meta"):
        backbone: Backbone = registry.load("backbone", trial.name("backbone"))(
            classes, 3, **trial.options("backbone")
        )
        network = backbone if deployed else _method(trial).wrap_model(backbone)
    return sum(p.numel() for p in network.parameters()) / 1e6


def _method(trial: Trial) -> Method:
    method: Method = registry.load("method", trial.name("method"))(**trial.options("method"))
    return method


def _multiply_adds(trial: Trial, classes: int, size: int) -> float:
    """Billions an image, of the second step's forward pass and loss; on torch's meta device, where
    nothing is computed.
    """
    count = 2
    with torch.device("meta"):
        method = _method(trial)
        model = method.wrap_model(
            registry.load("backbone", trial.name("backbone"))(
                classes, 3, **trial.options("backbone")
            )
        )
        images, targets = torch.empty(count, 3, size, size), torch.empty(count, classes)
    step = StepContext(np.random.default_rng(trial.seed))
    method.start_epoch()
    try:
        method(model, images, targets, step)
        with FlopCounterMode(display=False) as counter:
            method(model, images, targets, step)
    except (NotImplementedError, RuntimeError) as error:
        raise TrialError(
            f"{trial.name('method')} looks at its images, so its FLOPs cannot be counted: {error}"
        ) from None
    return float(counter.get_total_flops()) / 2 / count / 1e9


def _memory(trial: Trial, device: torch.device, classes: int, size: int) -> float:
    """MiB at the peak of three steps, over what was held before them."""
    if device.type == "cuda":
        return _gpu_peak(trial, device, classes, size)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_cpu_peak, trial, classes, size, torch.get_num_threads()).result()


def _gpu_peak(trial: Trial, device: torch.device, classes: int, size: int) -> float:
    # The first training in a process also leaves workspaces of cuBLAS and cuDNN.
    _train(trial, device, classes, size)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _train(trial, device, classes, size)
    return (torch.cuda.max_memory_allocated(device) - before) / _MIB


def _cpu_peak(trial: Trial, classes: int, size: int, threads: int) -> float:
    torch.set_num_threads(threads)
    before = _peak()
    _train(trial, torch.device("cpu"), classes, size)
    return _peak() - before


def _train(trial: Trial, device: torch.device, classes: int, size: int) -> None:
    trainer = _trainer(trial, device, _noise(trial, _MEMORY_STEPS, classes, size))
    for _ in range(_MEMORY_STEPS):
        trainer.train_step()
    trainer.close()


def _trainer(trial: Trial, device: torch.device, data: Dataset) -> Trainer:
    return Trainer(trial, device, task=Classification(trial, device, data=data))


def _peak() -> float:
    """MiB that this process has held at most. The kernel's ru_maxrss would count its parent's
    too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(
            line
            for line in status.read_text(encoding="ascii").splitlines()
            if line.startswith("VmHWM")
        )
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
