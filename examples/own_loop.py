"""RecursiveMix in a training loop of one's own, around torchvision's ResNet-18.

    python examples/own_loop.py [--epochs 3] [--images 1000]

Three lines differ from a plain loop; they are marked. The data are scikit-learn's handwritten
digits (or digits.csv.gz in $RM_DATA_DIR), as nothing has to be downloaded for them.
"""

import argparse

import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import rm
from rm.datasets import Dataset, InMemorySplit, load


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000, help="to train on")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load("digits", {"size": 64}, limit=args.images, test_limit=args.images)
    loader = DataLoader(tensors(data, data.train), batch_size=32, shuffle=True, drop_last=True)

    torch.manual_seed(0)
    model = resnet18(num_classes=data.classes).to(device)
    training = rm.wrap(model, alpha=0.5, omega=0.1)  # (1) the method around the model
    optimizer = torch.optim.SGD(training.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(args.epochs):
        training.train()
        training.start_epoch()  # (2) the last epoch's batch is forgotten
        for images, labels in loader:
            loss = training(images.to(device), labels.to(device))  # (3) the loss
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
        error = evaluate(model, DataLoader(tensors(data, data.test), batch_size=256), device)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test error {error:.2f} %")
    torch.save(model.state_dict(), "resnet18.pt")  # without the second head: plain torchvision
    return error


def tensors(data: Dataset, split: InMemorySplit) -> TensorDataset:
    """Images (N, 3, H, W), normalised; labels (N,)."""
    images = split.images.permute(0, 3, 1, 2).float() / 255
    images = (images - data.mean[0]) / data.std[0]
    return TensorDataset(images.expand(-1, 3, -1, -1), split.labels)


@torch.no_grad()
def evaluate(model: torch.nn.Module, loader: DataLoader, device: str) -> float:
    """The share of wrong answers, in percent."""
    model.eval()
    wrong = sum((model(x.to(device)).argmax(1) != y.to(device)).sum().item() for x, y in loader)
    return 100 * wrong / len(loader.dataset)


if __name__ == "__main__":
    main()
