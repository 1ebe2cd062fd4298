"""What a method shows the network: real images before and after mixing, as the paper's Fig. 1 to 3
show them.

A real run takes its first steps; what its method is given and what its network sees are kept as
pictures, one a step: `step<n>.png`, two rows of `count` images, above as given, below as seen.
"""

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rm.methods import MethodOutput
from rm.probes import ProbeLogger
from rm.tasks.classification import Classification
from rm.trainer import Trainer
from rm.trial import Trial, TrialError

METRIC = {"label": "share of pixels changed", "unit": "%", "better": "lower"}
KEEPS_PICTURES = True


def samples(
    trial: Trial,
    device: torch.device,
    log: ProbeLogger,
    *,
    steps: Annotated[int, "steps >= 1"] = 5,
    count: Annotated[int, "count >= 1"] = 8,
    before: Annotated[int, "before >= 0"] = 0,
) -> dict[str, float]:
    """Percent of the pixels that the method changed, mean over the steps.

    before   steps that are trained before those that are kept: masks that are learned need some

    Points: changed (%), and area where the method says how much it mixed in.
    """
    from torchvision.io import encode_png  # costs a second, and the other probes need none

    task = Classification(trial, device)
    trainer = Trainer(trial, device, task=task)
    images = min(trainer.options.batch_size, len(task.images))
    if before + steps > trainer.steps_per_epoch or count > images:
        raise TrialError(
            f"samples of {steps} steps after {before} with {count} images need at least as many "
            f"in an epoch and a batch; here they are {trainer.steps_per_epoch} and {images}"
        )
    seen: list[tuple[Tensor, MethodOutput]] = []

    def watch(method: nn.Module, inputs: tuple[Any, ...], output: MethodOutput) -> None:
        seen.append((inputs[1], output))

    task.method.register_forward_hook(watch)
    changes = []
    for _ in range(before):
        log.raise_if_stopped()
        trainer.train_step()
        seen.clear()
    for step in range(1, steps + 1):
        log.raise_if_stopped()
        trainer.train_step()
        given, output = seen.pop()
        incoming, shown = given[:count], output.mixed.images[:count]
        changes.append(100 * float((incoming != shown).any(1).double().mean()))
        area = output.logs.get("area")
        log.log_point(changed=changes[-1], **({} if area is None else {"area": float(area)}))
        rows = [_strip(batch, task.data.mean, task.data.std) for batch in (incoming, shown)]
        log.save_artifact(f"step{step}.png", bytes(encode_png(torch.cat(rows, 1)).numpy()))
    trainer.close()
    return {"samples": sum(changes) / steps}


def _strip(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(N, C, H, W) normalised -> (3, H, N * W) uint8, side by side."""
    scale, shift = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (std, mean)
    )
    pixels = (255 * (images.float() * scale + shift)).round().clamp(0, 255).to(torch.uint8).cpu()
    return torch.cat(list(pixels.expand(-1, 3, -1, -1)), 2).contiguous()
