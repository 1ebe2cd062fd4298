"""RecursiveMix as a plain training script writes it, in the style of the authors' released code:
what ours is measured against.

fp32, NCHW, eager; a second Linear on torchvision's RoIAlign; interpolate and slice assignment; a
DataLoader with PIL crops and flips.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import datasets, transforms
from torchvision.ops import roi_align

from rm.backbones import Backbone


class PlainRecursiveMix:
    """Network, second head, SGD and history; `step` is one training step on (B, 3, 32, 32) images
    and (B,) labels.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        device: torch.device,
        *,
        fp16: bool = False,
        mix: bool = True,
    ) -> None:
        self.backbone, self.classes, self.device, self.mix = (
            backbone.to(device),
            classes,
            device,
            mix,
        )
        self.second = nn.Linear(backbone.num_features, classes).to(device)
        parameters = [*self.backbone.parameters(), *(self.second.parameters() if mix else [])]
        self.optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        self.autocast = torch.autocast(device.type, torch.float16, enabled=fp16)
        self.last: tuple[Tensor, Tensor, Tensor] | None = None
        self.random = np.random.default_rng(0)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Returns the loss, read from the device at once, as such scripts do for their progress
        line.
        """
        images, labels = (
            images.to(self.device, non_blocking=True),
            labels.to(self.device, non_blocking=True),
        )
        targets = F.one_hot(labels, self.classes).float()
        box = None
        if self.mix and self.last is not None:
            box = self._box(images.shape[2], images.shape[3], self.random.uniform(0, 0.5))
            y0, x0, y1, x1 = box
            area = (y1 - y0) * (x1 - x0) / (images.shape[2] * images.shape[3])
            if area > 0:
                previous, previous_targets, _ = self.last
                count = len(images)
                images[:, :, y0:y1, x0:x1] = F.interpolate(
                    previous[:count], size=(y1 - y0, x1 - x0), mode="nearest"
                )
                targets = targets * (1 - area) + previous_targets[:count] * area
            else:
                box = None
        with self.autocast:
            features = self.backbone.features(images)
            logits = self.backbone.head(F.adaptive_avg_pool2d(features, 1).flatten(1))
            loss = -(targets * F.log_softmax(logits.float(), 1)).sum(1).mean()
            if box is not None and self.last is not None:
                corners = torch.tensor(
                    [[i, x0, y0, x1, y1] for i in range(len(images))], dtype=torch.float32
                ).to(self.device)
                scale = features.shape[2] / images.shape[2]
                region = roi_align(
                    features.float(), corners, 1, scale, sampling_ratio=-1, aligned=True
                ).flatten(1)
                said = F.softmax(self.last[2][: len(images)], 1)
                loss = (
                    loss
                    + 0.1
                    * area
                    * -(said * F.log_softmax(self.second(region).float(), 1)).sum(1).mean()
                )
        self.last = (images.clone(), targets.clone(), logits.detach().float().clone())
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def _box(self, height: int, width: int, area: float) -> tuple[int, int, int, int]:
        half_y, half_x = int(height * area**0.5) // 2, int(width * area**0.5) // 2
        y, x = self.random.integers(height), self.random.integers(width)
        return (
            max(y - half_y, 0),
            max(x - half_x, 0),
            min(y + half_y, height),
            min(x + half_x, width),
        )


def cifar_data(folder: Path) -> datasets.CIFAR100:
    """CIFAR-100's training images through PIL, cropped, flipped and normalised one by one."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ]
    )
    return datasets.CIFAR100(str(folder), train=True, transform=transform)


def cifar_loader(folder: Path, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """CIFAR-100 through PIL and a DataLoader, as the released code reads it."""
    loader = torch.utils.data.DataLoader(
        cifar_data(folder),
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    while True:
        yield from loader
