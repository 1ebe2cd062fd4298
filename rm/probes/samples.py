"""What a method shows the network: real images before and after mixing, as the paper's Fig. 1 to 3
show them.

A real run takes its first steps; what its method is given and what its network sees are kept as
pictures, one a step: `step<n>.png`, two rows of `count` images, above as given, below as seen.
"""

from typing import Annotated

import torch
from torch import Tensor

from rm.backbones import Backbone
from rm.probes import Log
from rm.trainer import Run
from rm.trial import Trial, TrialError


def samples(
    trial: Trial,
    device: torch.device,
    log: Log,
    *,
    steps: Annotated[int, "steps >= 1"] = 5,
    count: Annotated[int, "count >= 1"] = 8,
) -> dict[str, float]:
    """Percent of the pixels that the method changed, mean over the steps.

    Points: changed (%), and area where the method says how much it mixed in.
    """
    from torchvision.io import encode_png  # costs a second, and the other probes need none

    run = Run(trial, device)
    images = min(run.options.batch_size, len(run.train))
    if steps > run.steps_per_epoch or count > images:
        raise TrialError(
            f"samples of {steps} steps with {count} images need at least as many in an epoch and "
            "a batch; "
            f"here they are {run.steps_per_epoch} and {images}"
        )
    witness = _Witness(run)
    changes = []
    for step in range(1, steps + 1):
        log.check()
        run.take_step()
        before, after = witness.given[:count], witness.seen[:count]
        changes.append(100 * float((before != after).any(1).double().mean()))
        area = run.method.observed.get("area")
        log.point(changed=changes[-1], **({} if area is None else {"area": float(area)}))
        rows = [_strip(batch, run.data.mean, run.data.std) for batch in (before, after)]
        log.keep(f"step{step}.png", bytes(encode_png(torch.cat(rows, 1)).numpy()))
    run.close()
    return {"samples": sum(changes) / steps}


class _Witness:
    """Remembers the last images that a run's method was given and that its network saw."""

    given: Tensor
    seen: Tensor

    def __init__(self, run: Run) -> None:
        backbone = next(module for module in run.model.modules() if isinstance(module, Backbone))
        features, loss = backbone.features, run.method.loss

        def seeing(images: Tensor) -> Tensor:
            self.seen = images.detach()
            return features(images)

        def giving(
            model: torch.nn.Module, images: Tensor, *others: object
        ) -> tuple[Tensor, Tensor]:
            self.given = images.detach()
            return loss(model, images, *others)  # type: ignore[arg-type]

        backbone.features = seeing  # type: ignore[method-assign]
        run.method.loss = giving  # type: ignore[method-assign, assignment]


def _strip(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(N, C, H, W) normalised -> (3, H, N * W) uint8, side by side."""
    scale, shift = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (std, mean)
    )
    pixels = (255 * (images.float() * scale + shift)).round().clamp(0, 255).to(torch.uint8).cpu()
    return torch.cat(list(pixels.expand(-1, 3, -1, -1)), 2).contiguous()
