"""PuzzleMix: blocks of two images are joined so that the most salient of both are kept (Kim et
al., ICML 2020, arXiv 2009.06962).

Saliency: norm over channels of the loss's gradient at the clean image. Mask z: the exact minimum
over a grid of n x n blocks of sum_p (1 - z_p) s1_p + z_p s2_p + eta prior_lambda(z_p), plus
neighbours' b (1 + gamma D) (z_p - z_q)^2, b = beta / (16 n), D from pixel differences across the
border (Eq. 5). Each image's salient blocks are then moved into its part of the mask (Eq. 6), and x
= z x1' + (1 - z) x2', y = mean(z) y1 + (1 - mean(z)) y2, with lambda ~ Beta(alpha, alpha) and n in
{2, 4, 8, 16} per batch.

After snu-mllab/PuzzleMix, `mixup.py`, `main.py`, `imagenet/train.py`. The saliency pass is in
evaluation mode and leaves nothing behind in the parameters (official `clean_lam 0`, the default
and the one used for CIFAR and 300-epoch ImageNet).

Cost, beyond another method's step: a forward and a backward pass with respect to the images, and
the minimum cuts on the CPU, for 128 images with three labels about 5 / 15 / 50 / 250 ms at n = 2 /
4 / 8 / 16 on one core.

Ours: the mask is the global minimum (`rm/methods/_graph_cut.py`; the official alpha-beta swap
finds a local one for three labels); n must divide the image's sides; the loss is soft
cross-entropy (as `imagenet/train.py`; `main.py` has binary cross-entropy of softmax).

Rows: CIFAR as the defaults (README, 1,200-epoch CIFAR-100). ImageNet ResNet-50: neighbourhood 2,
transport_size 0, pixel_std 0.226, the rest as here (`imagenet/train.py`; the authors' 21.24 % are
step learning rate, batch 256, 300 epochs).
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.methods import Mixed, TrainingPictures, draw_partner
from rm.methods._clustered import ClusteredMethod
from rm.methods._graph_cut import cut_grid
from rm.methods._moco import Judge
from rm.schedules import StepContext
from rm.trial import TrialError

BLOCK_NUMBERS = (2, 4, 8, 16)


class PuzzleMix(ClusteredMethod):
    """Options by their official names, where those differ.

    alpha            of the Beta distribution of lambda (mixup_alpha)
    probability      of mixing a batch (mixup_prob)
    labels           number of mask values between 0 and 1 (n_labels)
    beta, gamma      weight of the mask's smoothness, and of the images' across block borders
                     relative to it
    eta              weight of the prior that draws the mask's mean to lambda
    neighbourhood    pixels averaged before they are compared across a border (neigh_size)
    pixel_std        of the data's normalisation, to have differences in [0, 1]: 0.2 for CIFAR,
                     0.226 for ImageNet
    transport        whether blocks are moved
    transport_cost   of moving across the image (t_eps)
    transport_size   side of the moved squares in pixels (t_size); 0: that of the mask's blocks
    most_blocks      largest n; 8 in the AMix paper's rows but for CIFAR's
    pseudo_labels    contrastive: what is salient, by nearness to the centroids of so many clusters
                     (the AMix paper's MoCo v2 (C)) instead of each image to its own key
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 1.0,
        probability: Annotated[float, "0 <= probability <= 1"] = 1.0,
        labels: Annotated[int, "2 <= labels <= 4"] = 3,
        beta: Annotated[float, "beta >= 0"] = 1.2,
        gamma: Annotated[float, "0 <= gamma <= 1"] = 0.5,
        eta: Annotated[float, "eta >= 0"] = 0.2,
        neighbourhood: Annotated[int, "neighbourhood >= 1"] = 4,
        pixel_std: Annotated[float, "pixel_std > 0"] = 0.2,
        transport: bool = True,
        transport_cost: Annotated[float, "transport_cost >= 0"] = 0.8,
        transport_size: Annotated[int, "transport_size >= 0"] = 4,
        most_blocks: Literal[2, 4, 8, 16] = 16,
        pseudo_labels: Annotated[int | None, "pseudo_labels >= 2"] = None,
    ) -> None:
        super().__init__(pseudo_labels)
        self.alpha, self.probability, self.labels = alpha, probability, labels
        self.beta, self.gamma, self.eta = beta, gamma, eta
        self.neighbourhood, self.pixel_std = neighbourhood, pixel_std
        self.transport, self.transport_cost, self.transport_size = (
            transport,
            transport_cost,
            transport_size,
        )
        self.most_blocks = most_blocks

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        generator = step.generator
        if generator.random() >= self.probability:
            return Mixed(images, targets, logs={"area": 0.0})
        if model is None:
            raise ValueError("PuzzleMix looks for what is salient to a classifier: it needs one")
        blocks = _draw_blocks(images, generator, self.most_blocks)
        partner = draw_partner(images, generator)
        kept = float(generator.beta(self.alpha, self.alpha))
        judge, known = self._judged(model, targets)
        salient = saliency(judge, images, known)
        mask = self.mask(images, salient, partner, blocks, kept)
        share = mask.mean((1, 2))[:, None]
        return Mixed(
            self._joined(images, salient, partner, mask),
            share * targets + (1 - share) * targets[partner],
            partner,
            1 - share[:, 0],
            {"area": 1 - share.mean()},
        )

    def introduce(self, model: nn.Module, pictures: TrainingPictures) -> None:
        if self.count is not None:
            raise TrialError("puzzlemix: pseudo_labels are for contrastive training")

    def _judged(self, model: nn.Module, targets: Tensor) -> tuple[nn.Module, Tensor]:
        """What gives logits, and what they should be: clusters, where there are any."""
        clusters = None if self.pseudo is None else self.pseudo.clusters
        if clusters is None or self.shown is None or not isinstance(model, Judge):
            return model, targets
        known = F.one_hot(self.shown, len(clusters)).to(targets.dtype)
        return Judge(model.network, clusters.centroids), known

    def mask(
        self, images: Tensor, salient: Tensor, partner: Tensor, blocks: int, kept: float
    ) -> Tensor:
        """How much of each block is taken from the image itself, the rest from its partner.

        images    (B, C, H, W)
        salient   (B, H, W)        >= 0
        partner   (B,)             index of each image's partner
        kept      lambda           share of the image itself that the prior asks for
        returns   (B, n, n)        values i / (labels - 1)
        """
        own = pooled_share(salient, (blocks, blocks))
        down, right = self._borders(images, partner, blocks)
        steps = np.arange(self.labels) / (
            self.labels - 1
        )  # label i: this much is taken from the partner
        pixels = np.zeros(
            (2, len(images), blocks, blocks)
        )  # pixel differences that go with the partner, the image itself
        weights = []
        for axis, terms in ((1, down), (2, right)):
            first, last = ([slice(None)] * 3 for _ in range(2))
            first[axis], last[axis] = slice(None, -1), slice(1, None)
            for taken in (0, 1):
                pixels[taken][tuple(first)] += (terms[taken, 0] + terms[taken, 1]) / 2
                pixels[taken][tuple(last)] += (terms[0, taken] + terms[1, taken]) / 2
            mixed = (terms[0, 1] + terms[1, 0] - terms[0, 0] - terms[1, 1]) / 2
            # Never negative for pixels in [0, 1]; other data may be scaled otherwise, and a cut
            # needs it.
            weights.append(np.maximum(mixed + self.beta / blocks / 16, 0))
        lost_of_partner, lost_of_own = _numpy(own[partner]) + pixels[1], _numpy(own) + pixels[0]
        unary = np.stack(
            [(1 - step) * lost_of_partner + step * lost_of_own for step in steps], axis=1
        )
        unary += self.eta * log_prior(self.labels, kept)[:, None, None] / blocks**2
        labels = torch.from_numpy(cut_grid(unary, *weights)).to(images.device)
        return 1 - labels.float() / (self.labels - 1)

    def _borders(
        self, images: Tensor, partner: Tensor, blocks: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """beta gamma times the mean pixel difference across each border, (2, 2, B, ...): [upper or
        left, lower or right] block

        taken from the partner (0) or the image itself (1)."""
        sides = [side // blocks for side in images.shape[-2:]]
        step = [math.gcd(side, self.neighbourhood) for side in sides]
        tall, wide = (side // size for side, size in zip(sides, step, strict=True))
        small = F.avg_pool2d(images.float() * self.pixel_std, step)
        taken = small[partner], small
        down = [
            [_difference(a[:, :, tall - 1 : -1 : tall], b[:, :, tall::tall], wide) for b in taken]
            for a in taken
        ]
        across = [x.transpose(2, 3) for x in taken]
        right = [
            [_difference(a[:, :, wide - 1 : -1 : wide], b[:, :, wide::wide], tall) for b in across]
            for a in across
        ]
        weight = self.beta / blocks / 16 * self.gamma
        return weight * np.array(down), weight * np.array(right).swapaxes(-1, -2)

    def _joined(self, images: Tensor, salient: Tensor, partner: Tensor, mask: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        own, other = images, images[partner]
        if self.transport:
            block = height // mask.shape[1], width // mask.shape[2]
            cell = [math.gcd(side, self.transport_size) for side in block]  # gcd(side, 0) is side
            grid = (height // cell[0], width // cell[1])
            fine, share = _enlarged(mask, grid), pooled_share(salient, grid)
            own = moved(own, transport_plan(fine, share, self.transport_cost), grid)
            other = moved(
                other, transport_plan(1 - fine, share[partner], self.transport_cost), grid
            )
        weight = _enlarged(mask, (height, width))[:, None]
        return weight * own + (1 - weight) * other


def _draw_blocks(images: Tensor, generator: np.random.Generator, most: int) -> int:
    height, width = images.shape[-2:]
    numbers = [n for n in BLOCK_NUMBERS if n <= most]
    valid = [n for n in numbers if height % n == 0 and width % n == 0]
    if not valid:
        raise ValueError(
            f"PuzzleMix divides images into 2 x 2 blocks or more: {height} x {width} pixels "
            "cannot be"
        )
    return valid[generator.integers(len(valid))]


def saliency(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Norm over the channels of the gradient of each image's loss, up to a factor an image: (B, C,
    H, W), (B, K) -> (B, H, W).

    In evaluation mode, so that neither running statistics nor another image play a part;
    parameters get no gradient. As only proportions within an image count, the loss's gradient at
    the logits, softmax(logits) - targets, has unit length: the gradients of an image that the
    network is sure of would vanish in half precision.
    """
    training = model.training
    model.eval()
    try:
        clean = images.detach().requires_grad_()
        logits = model(clean)
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        slope = F.normalize(wide.softmax(1) * targets.sum(1, keepdim=True) - targets, dim=1)
        (gradient,) = torch.autograd.grad(logits, clean, slope.to(logits.dtype))
    finally:
        model.train(training)
    return gradient.float().square().mean(1).sqrt()


def pooled_share(salient: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H, W) -> (B, *grid): each block's share of the image's saliency; equal shares where
    there is none or no end of it.
    """
    height, width = salient.shape[1:]
    blocks = F.avg_pool2d(salient[:, None], (height // grid[0], width // grid[1]))[:, 0]
    total = blocks.sum((1, 2), keepdim=True)
    return torch.where((total > 0) & total.isfinite(), blocks / total, 1 / (grid[0] * grid[1]))


def log_prior(labels: int, kept: float) -> np.ndarray:
    """-log of the binomial probability of each label at lambda = `kept`, label 0 (all of it kept)
    first: (labels,).
    """
    trials = labels - 1
    chance = [math.comb(trials, i) * kept ** (trials - i) * (1 - kept) ** i for i in range(labels)]
    return -np.log(np.array(chance) + 1e-8)


def transport_plan(wanted: Tensor, share: Tensor, cost: float) -> Tensor:
    """Which cell comes to each place: (B, R, C) mask, (B, R, C) saliency -> (B, R * C) source of
    each place.

    Moving cell i to place j costs `cost` times their squared distance (in image sides, per axis)
    less share_i where j is wanted. Every cell asks for its cheapest place, which takes the one
    that comes cheapest; the others pay 1 more there and ask again, R rounds, as in the official
    code. A wanted place always has a cell, its own to begin with; the others are hidden by the
    mask, and one that nobody came to keeps its own (official: blank).
    """
    batch, rows, columns = share.shape
    place = torch.cartesian_prod(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns)).to(
        share.device
    )
    distance = (place[:, None] - place).square().sum(-1)
    costs = cost * distance - share.reshape(batch, -1, 1) * (wanted > 0).reshape(batch, 1, -1)
    cells = torch.arange(rows * columns, device=share.device).expand(batch, -1)
    for _ in range(max(rows, columns)):
        offer, asked = costs.min(2)
        lowest = torch.full_like(offer, math.inf).scatter_reduce(1, asked, offer, "amin")
        index = torch.where(offer == lowest.gather(1, asked), cells, rows * columns)
        winner = torch.full_like(cells, rows * columns).scatter_reduce(1, asked, index, "amin")
        lost = winner.gather(1, asked) != cells
        costs.scatter_(2, asked[:, :, None], (offer + lost)[:, :, None])
    return torch.where(winner < rows * columns, winner, cells)


def moved(images: Tensor, plan: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rebuild each image from its cells: (B, C, H, W), (B, rows * columns) the source of each
    place -> (B, C, H, W).
    """
    batch, channels, height, width = images.shape
    tall, wide = height // grid[0], width // grid[1]
    cells = images.reshape(batch, channels, grid[0], tall, grid[1], wide).permute(0, 2, 4, 1, 3, 5)
    shape = cells.shape
    cells = cells.reshape(batch, grid[0] * grid[1], -1)
    cells = cells[torch.arange(batch, device=images.device)[:, None], plan].reshape(shape)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def _enlarged(mask: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(mask[:, None], size=size)[:, 0]


def _difference(one: Tensor, other: Tensor, run: int) -> np.ndarray:
    """Mean absolute difference over channels and over `run` neighbours of a row: (B, C, rows, n *
    run) -> (B, rows, n).
    """
    return _numpy(F.avg_pool1d((one - other).abs().mean(1), run))


def _numpy(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().double().cpu().numpy()
    return array
