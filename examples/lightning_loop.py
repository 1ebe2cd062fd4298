"""RecursiveMix in a LightningModule: python examples/lightning_loop.py [EPOCHS IMAGES]."""

import sys

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import rm
from rm.datasets import load


class Classifier(lightning.LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.training_loss = rm.wrap(resnet18(num_classes=classes), alpha=0.5, omega=0.1)

    def on_train_epoch_start(self) -> None:
        self.training_loss.start_epoch()

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return self.training_loss(*batch)

    def optimizer_zero_grad(self, epoch: int, index: int, optimizer: torch.optim.SGD) -> None:
        optimizer.zero_grad(set_to_none=False)

    def configure_optimizers(self) -> torch.optim.SGD:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


if __name__ == "__main__":
    epochs, count = map(int, sys.argv[1:] or (3, 1000))
    data = load("digits", {"size": 64}, limit=count)
    images = data.train.images.permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1) / 255
    loader = DataLoader(TensorDataset(images, data.train.labels), 32, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False)
    trainer.fit(module := Classifier(data.classes), loader)
    print(f"after {epochs} epochs: loss {module.training_loss.last.loss.item():.3f}")
