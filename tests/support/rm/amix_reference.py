"""A training with AutoMix or AMix, written a second time: slow, plain, sample by sample, from the
collated facts about paper and released code alone.

It shares nothing with `rm` but the two backbones and the tensors of block and heads that it is
handed.
"""

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class Facts:
    """What a trial chooses."""

    joint: bool  # AMix's block; else AutoMix's
    rescale: float | None = None
    channel: bool = False
    adjust: float = 0.0
    released_adjusting: bool = False
    cosine_beta: bool = False
    derange: bool = False
    classes: int = 10
    lr: float = 0.1
    floor: float = 0.0
    block_lr: float = 0.1
    block_floor: float = 0.0
    epochs: int = 2
    steps: int = 4
    weight_decay: float = 5e-4
    ema_end: float = 0.999999
    ema_hold: float = 0.1


@dataclass
class Networks:
    """f_q with its heads, f_k with its heads, and the tensors of the block by name."""

    online: nn.Module
    heads_q: dict[str, nn.Linear]
    block: dict[str, Tensor]
    momentum: nn.Module = field(init=False)
    heads_k: dict[str, nn.Linear] = field(init=False)

    def __post_init__(self) -> None:
        self.momentum = copy.deepcopy(self.online)
        self.heads_k = copy.deepcopy(self.heads_q)
        for module in (self.momentum, *self.heads_k.values()):
            for parameter in module.parameters():
                parameter.requires_grad_(False)


def r_k(lam: float, k: float | None) -> float:
    if k is None:
        return lam
    return ((4 / 3) * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


def one_by_one(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product for each cell: (B, C, h, w) -> (B, c, h, w)."""
    out = torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x)
    return out if bias is None else out + bias[None, :, None, None]


def batch_norm(x: Tensor, block: dict[str, Tensor]) -> Tensor:
    """Batch statistics; running ones with momentum 0.1 and the unbiased variance."""
    mean, count = x.mean((0, 2, 3)), x.shape[0] * x.shape[2] * x.shape[3]
    variance = ((x - mean[None, :, None, None]) ** 2).mean((0, 2, 3))
    for name, value in (("mean", mean), ("var", variance * count / (count - 1))):
        running = block[f"value.1.running_{name}"]
        running.copy_(0.9 * running + 0.1 * value.detach())
    normal = (x - mean[None, :, None, None]) / torch.sqrt(variance + 1e-5)[None, :, None, None]
    scale, shift = block["value.1.weight"], block["value.1.bias"]
    return normal * scale[None, :, None, None] + shift[None, :, None, None]


def bilinear(low: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) -> size, pixel centres, edges repeated; written out for one image."""

    def weights(small: int, large: int) -> Tensor:
        rows = torch.zeros(large, small, dtype=low.dtype)
        for i in range(large):
            at = max((i + 0.5) * small / large - 0.5, 0.0)
            first = min(int(at), small - 1)
            rows[i, first] += 1 - (at - first)
            rows[i, min(first + 1, small - 1)] += at - first
        return rows

    return weights(low.shape[0], size[0]) @ low @ weights(low.shape[1], size[1]).T


def repeated(low: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbour."""
    rows = [i * low.shape[0] // size[0] for i in range(size[0])]
    columns = [i * low.shape[1] // size[1] for i in range(size[1])]
    return low[rows][:, columns]


def partner_mask(
    facts: Facts, block: dict[str, Tensor], own: Tensor, other: Tensor, lam: float, size: tuple
) -> Tensor:
    """P: (B, C, h, w) twice -> (B, H, W)."""
    batch, _, height, width = own.shape
    if facts.joint:
        t = r_k(lam, facts.rescale)
        a, b = (1 + t) * own, (1 + (1 - t)) * other
        u = torch.cat([a, b], dim=1)
        q = one_by_one(block["query.weight"], block["query.bias"], u)
        kappa = one_by_one(block["key.weight"], block["key.bias"], u)
        hidden = batch_norm(one_by_one(block["value.0.weight"], None, b), block)
        v = one_by_one(block["value.3.weight"], None, nn.functional.elu(hidden))
    else:
        a, b = own, other
        if facts.channel:
            layer = torch.ones(batch, 1, height, width, dtype=own.dtype)
            a, b = torch.cat([a, lam * layer], 1), torch.cat([b, (1 - lam) * layer], 1)
        q = one_by_one(block["query.weight"], block["query.bias"], a)
        kappa = one_by_one(block["query.weight"], block["query.bias"], b)
        v = one_by_one(block["value.weight"], block["value.bias"], b)
    masks = []
    for i in range(batch):
        scores = q[i].flatten(1).T @ kappa[i].flatten(1) / math.sqrt(q.shape[1])
        low = (torch.softmax(scores, dim=1) @ v[i].flatten()).reshape(height, width)
        masks.append(torch.sigmoid((bilinear if facts.joint else repeated)(low, size)))
    return torch.stack(masks)


def adjust(mask: Tensor, lam: float) -> Tensor:
    """Own masks with mean lambda, sample by sample; given and returned are the partner's."""
    moved = []
    for partner in mask:
        own = 1 - partner
        mu = own.mean()
        if mu > lam:
            own = own * lam / mu
        elif mu < lam:
            own = 1 - (1 - own) * (1 - lam) / (1 - mu)
        moved.append(1 - own)
    return torch.stack(moved)


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    logs = torch.log_softmax(logits, dim=1)
    return -sum(logs[i, labels[i]] for i in range(len(labels))) / len(labels)


def ce_mix(logits: Tensor, a: Tensor, b: Tensor, lam: float) -> Tensor:
    return lam * ce(logits, a) + (1 - lam) * ce(logits, b)


class ReferenceTraining:
    """One training; `start_epoch` (from 1) before each epoch's steps."""

    def __init__(self, networks: Networks, facts: Facts, seed: int, stage: str) -> None:
        self.nets, self.facts, self.seed, self.stage = networks, facts, seed, stage
        networks.online.train()
        networks.momentum.train()
        q = [*networks.online.parameters()]
        for head in networks.heads_q.values():
            q += [p for p in head.parameters() if all(p is not other for other in q)]
        block = [value for value in networks.block.values() if value.requires_grad]
        self.parts = [("q", q), ("block", block)]
        self.velocity: dict[int, Tensor] = {}
        self.s = 0

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.generator = np.random.default_rng([self.seed, epoch, 1])

    def permutation(self, count: int, fallback: str) -> Tensor:
        for _ in range(10 if self.facts.derange else 1):
            order = self.generator.permutation(count)
            if all(int(order[i]) != i for i in range(count)):
                return torch.from_numpy(order)
        if self.facts.derange and fallback == "shift":
            return torch.tensor([(i + 1) % count for i in range(count)])
        return torch.from_numpy(order)

    def step(self, x: Tensor, y: Tensor) -> float:
        facts, nets = self.facts, self.nets
        lam_m, lam_b = self.generator.beta(2.0, 2.0, size=2)
        pi_b = self.permutation(len(x), "last")
        pi_m = self.permutation(len(x), "shift")
        adjusting = facts.adjust > 0 and self.generator.random() < facts.adjust
        z = self.stage_map(x)
        size = (x.shape[2], x.shape[3])
        p_m = partner_mask(facts, nets.block, z, z[pi_m], lam_m, size)
        p_b = partner_mask(facts, nets.block, z, z[pi_b], lam_b, size).detach()
        if adjusting:
            p_b = adjust(p_b, lam_m if facts.released_adjusting else lam_b)
        if min(lam_b, 1 - lam_b) <= 0.08:
            p_b = torch.full_like(p_b, 1 - lam_b)
        x_m = (1 - p_m)[:, None] * x + p_m[:, None] * x[pi_m]
        x_b = (1 - p_b)[:, None] * x + p_b[:, None] * x[pi_b]
        logits_k = nets.heads_k["mix"](self.pooled(nets.momentum, x_m))
        logits_one = nets.heads_q["one"](self.pooled(nets.online, x))
        logits_mix = nets.heads_q["mix"](self.pooled(nets.online, x_b))
        mu = p_m.mean()
        l_mask = torch.clamp((1 - mu - lam_m).abs() - 0.1, min=0)
        if facts.joint:
            l_mask = l_mask - 2 * ((p_m - mu) ** 2).mean()
        total = facts.epochs * facts.steps
        beta = 0.05 * (1 + math.cos(math.pi * self.s / total)) if facts.cosine_beta else 0.1
        loss = (
            ce_mix(logits_mix, y, y[pi_b], lam_b)
            + ce(logits_one, y)
            + ce_mix(logits_k, y, y[pi_m], lam_m)
            + beta * l_mask
        )
        self.descend(loss)
        self.follow(total)
        self.s += 1
        return float(loss.detach())

    def pooled(self, network: nn.Module, images: Tensor) -> Tensor:
        return network.features(images).mean(dim=(2, 3))

    def stage_map(self, images: Tensor) -> Tensor:
        maps = []
        module = self.nets.momentum.named_stages()[self.stage]
        handle = module.register_forward_hook(lambda m, i, out: maps.append(out.clone()))
        with torch.no_grad():
            self.nets.momentum.features(images)
        handle.remove()
        return maps[0]

    def rate(self, lr: float, floor: float) -> float:
        e, total = self.epoch - 1, self.facts.epochs
        return floor + (lr - floor) * (1 + math.cos(math.pi * e / total)) / 2

    def descend(self, loss: Tensor) -> None:
        facts = self.facts
        rates = {
            "q": self.rate(facts.lr, facts.floor),
            "block": self.rate(facts.block_lr, facts.block_floor),
        }
        weights = [(name, w) for name, part in self.parts for w in part]
        gradients = torch.autograd.grad(loss, [w for _, w in weights])
        with torch.no_grad():
            for number, ((name, w), g) in enumerate(zip(weights, gradients, strict=True)):
                g = g + facts.weight_decay * w
                v = g if number not in self.velocity else 0.9 * self.velocity[number] + g
                self.velocity[number] = v
                w -= rates[name] * v

    def follow(self, total: int) -> None:
        facts, nets = self.facts, self.nets
        m = 0.999
        if self.s >= facts.ema_hold * total:
            m = (
                facts.ema_end
                - (facts.ema_end - 0.999) * (1 + math.cos(math.pi * self.s / total)) / 2
            )
        pairs = list(zip(nets.momentum.parameters(), nets.online.parameters(), strict=True))
        for kind in nets.heads_k:
            pairs += zip(
                nets.heads_k[kind].parameters(), nets.heads_q[kind].parameters(), strict=True
            )
        with torch.no_grad():
            for slow, fast in pairs:
                slow.copy_(m * slow + (1 - m) * fast)
