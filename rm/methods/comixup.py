"""Co-Mixup: a part of the batch is mixed all together, so that each output shows what is salient
of several images and the outputs differ from each other (Kim et al., ICLR 2021, arXiv 2102.03065).

The images are cut into 4 x 4 cells; output o has a label z_p, one of n images, in each cell p, and
minimises sum_p -(saliency of z_p at p) - (eta/16) log a_z + (beta/16) [neighbours differ]
+ (gamma/16) sum_c n_c (A m)_c [(A m)_c > 16 tau]: n_c counts its cells of image c, m those of the
other outputs, and A = (1 - omega) I + omega n D / sum D, D the distances between most salient
places. Outputs are improved one after another, in rounds; later ones may also show half of each of
two images. After snu-mllab/Co-Mixup, `mixup.py`, `main.py`; saliency is the root mean square over
the channels of the clean loss's gradient, and that loss is trained on as well, with weight 1.

Ours: every output is improved by expansions that are exact (`_expansion.py`), and of all rounds
the labels of the least total are taken, so that it is never above that of the random start; soft
cross-entropy on both passes (official: binary cross-entropy of softmax for Tiny-ImageNet).

The device is waited for once a step, for the saliency. Cost: a forward and three backward passes
more than another method's step, and the solver on the CPU, which is told in benchmarks/amix.py.
"""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rm.methods import Method, MethodOutput, Mixed
from rm.methods._expansion import Costs
from rm.methods._mixture_problem import Problem, Weights
from rm.ops import soft_cross_entropy
from rm.schedules import StepContext

TOGETHER = {"not train.cuda_graph": "what it mixes depends on the pass that its loss is made of"}


class CoMixup(Method):
    """Options by their official names, where those differ.

    alpha            of the Dirichlet distribution of the prior a
    partition        images that are mixed together (set by the authors so that memory suffices)
    cells            of a side (block_num)
    beta, gamma, eta, tau, omega   see above
    rounds           (niter)
    clean            weight of the loss on the images as they are (clean_lam)
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, "alpha > 0"] = 2.0,
        partition: Annotated[int, "partition >= 1"] = 20,
        cells: Annotated[int, "2 <= cells <= 6"] = 4,
        beta: Annotated[float, "beta >= 0"] = 0.32,
        gamma: Annotated[float, "gamma >= 0"] = 1.0,
        eta: Annotated[float, "eta >= 0"] = 0.05,
        tau: Annotated[float, "0 <= tau"] = 0.83,
        omega: Annotated[float, "0 <= omega <= 1"] = 0.001,
        rounds: Annotated[int, "rounds >= 1"] = 4,
        clean: Annotated[float, "clean >= 0"] = 1.0,
    ) -> None:
        super().__init__()
        self.alpha, self.partition, self.cells, self.omega = alpha, partition, cells, omega
        self.weights, self.rounds, self.clean = Weights(beta, gamma, eta, tau), rounds, clean

    def mix(
        self, images: Tensor, targets: Tensor, step: StepContext, model: nn.Module | None = None
    ) -> Mixed:
        if model is None:
            raise ValueError("Co-Mixup looks for what is salient to a classifier: it needs one")
        shown = images.detach().requires_grad_()
        loss = soft_cross_entropy(model(shown), targets)
        return self._mixed(images, targets, step, torch.autograd.grad(loss, shown)[0])

    def loss(
        self, model: nn.Module, images: Tensor, targets: Tensor, step: StepContext
    ) -> MethodOutput:
        shown = images.detach().requires_grad_()
        clean = soft_cross_entropy(model(shown), targets)
        (gradient,) = torch.autograd.grad(clean, shown, retain_graph=True)
        mixed = self._mixed(images, targets, step, gradient)
        logits = model(mixed.images)
        loss = soft_cross_entropy(logits, mixed.targets) + self.clean * clean
        return MethodOutput(loss, logits, mixed, mixed.logs)

    def _mixed(
        self, images: Tensor, targets: Tensor, step: StepContext, gradient: Tensor
    ) -> Mixed:
        salient = gradient.float().square().mean(1, keepdim=True).sqrt()
        shares = _shares(salient, self.cells)
        peaks = _peaks(salient)
        found = self.mixture(shares, peaks, step.generator)
        weights = torch.from_numpy(found).to(images.device, images.dtype, non_blocking=True)
        fine = F.interpolate(weights, size=images.shape[-2:])  # (B, B, H, W), by nearest
        mixed = torch.einsum("oihw,ichw->ochw", fine, images)
        amounts = weights.mean((2, 3))
        own = amounts.diagonal().mean()
        return Mixed(mixed, amounts.to(targets.dtype) @ targets, None, 1 - own, {"area": 1 - own})

    def mixture(
        self, shares: Costs, peaks: Costs, generator: np.random.Generator
    ) -> NDArray[np.float32]:
        """How much of each image (second axis) each output (first) shows in each cell: (B, B, R,
        R), sums over images are 1.

        shares   (B, R, R)   of an image's saliency
        peaks    (B, 2)      its most salient place
        """
        total = len(shares)
        found = np.zeros((total, total, self.cells, self.cells), dtype=np.float32)
        whole = total // self.partition * self.partition
        groups = [np.arange(whole).reshape(-1, self.partition), np.arange(whole, total)[None]]
        for members in (group for group in groups if group.size):
            prior = generator.dirichlet(np.full(members.shape[1], self.alpha), len(members))
            problem = Problem(shares[members], prior, self._compatibility(peaks[members]))
            solved = problem.solve(self.weights, self.rounds, generator)
            for group, images in zip(solved, members, strict=True):
                found[np.ix_(images, images)] = group
        return found

    def _compatibility(self, peaks: Costs) -> Costs:
        count = peaks.shape[1]
        distance = np.abs(peaks[:, :, None] - peaks[:, None]).sum(-1)
        total = np.maximum(distance.sum((1, 2), keepdims=True), 1e-12)
        found: Costs = (1 - self.omega) * np.eye(count) + self.omega * count * distance / total
        return found


def _shares(salient: Tensor, cells: int) -> Costs:
    """(B, 1, H, W) -> each cell's share of the image's saliency, (B, R, R); equal ones without."""
    pooled = F.adaptive_avg_pool2d(salient, cells)[:, 0].double().cpu().numpy()
    total = pooled.sum((1, 2), keepdims=True)
    usable = np.isfinite(total) & (total > 0)
    shares: Costs = np.where(usable, pooled / np.where(usable, total, 1), 1 / cells**2)
    return shares


def _peaks(salient: Tensor) -> Costs:
    """(B, 1, H, W) -> row and column of the largest 8 x 8 mean, in sides of the image: (B, 2)."""
    height, width = salient.shape[-2:]
    window = (min(8, height), min(8, width))
    means = F.avg_pool2d(salient, window, stride=1)[:, 0]
    place = means.flatten(1).argmax(1).cpu().numpy()
    across = means.shape[-1]
    return np.stack([place // across / height, place % across / width], -1)
