"""RecursiveMix around any classifier of timm: ResNet, ConvNeXt, ViT, PVT, ...

    python examples/timm_loop.py --model pvt_v2_b1 [--steps 50] [--size 224] [--batch-size 64]

The images are random, so nothing is learnt: it shows that the method fits around the model, what
the step costs, and the loop to start from.
"""

import argparse
import time

import timm
import torch

import rm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="a name of timm.list_models()")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    takes_size = {"img_size": args.size} if args.model.startswith(("vit", "deit", "swin")) else {}
    model = timm.create_model(args.model, num_classes=10, **takes_size).to(device)
    training = rm.wrap(model, alpha=0.5, omega=0.1).train()
    optimizer = torch.optim.AdamW(training.parameters(), lr=5e-4, weight_decay=0.05)
    training.start_epoch()
    began = time.perf_counter()
    for step in range(args.steps):
        images = torch.randn(args.batch_size, 3, args.size, args.size, device=device)
        labels = torch.randint(10, (args.batch_size,), device=device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = training(images, labels)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        area = float(training.last.mixed.area)
        print(f"step {step + 1}: loss {loss.item():.3f}, mixed area {area:.3f}")
    seconds = (time.perf_counter() - began) / args.steps
    print(f"{args.model}: {1000 * seconds:.0f} ms a step of {args.batch_size} images")


if __name__ == "__main__":
    main()
