"""A MoCo v2 training with AMix-I inside, written a second time from the collated facts alone; the
arithmetic of the mask is that of `amix_reference.py`.
"""

import math

import numpy as np
import torch
from torch import Tensor

from tests.support.rm import amix_reference
from tests.support.rm.contrast_reference import Encoders, Facts, ReferenceContrast, projections


class ReferenceAMixI(ReferenceContrast):
    """block     the tensors of the mix block, by name
    crossed   the partner's image is of view k, and its key of view q
    """

    def __init__(
        self,
        encoders: Encoders,
        facts: Facts,
        seed: int,
        block: dict[str, Tensor],
        crossed: bool,
        objective: str,
    ) -> None:
        super().__init__(encoders, facts, seed)
        self.block, self.crossed, self.objective = block, crossed, objective
        self.trained = [*self.trained, *(v for v in block.values() if v.requires_grad)]
        self.velocity = [torch.zeros_like(p) for p in self.trained]
        self.s = 0

    def loss_and_keys(self, view_q: Tensor, view_k: Tensor) -> tuple[Tensor, Tensor]:
        facts = self.facts
        keys_k, maps_k = self.keys_and_map(view_k)
        keys_q, maps_q = self.keys_and_map(view_q)
        lam_m, lam_b = self.draws.beta(2.0, 2.0, size=2)
        pi_b, pi_m = (self.draws.permutation(len(view_q)) for _ in range(2))
        other_x, other_z, other_key = (
            (view_k, maps_k, keys_q) if self.crossed else (view_q, maps_q, keys_k)
        )
        p_m = self.mask(maps_q, other_z[pi_m], lam_m, view_q)
        p_b = self.mask(maps_q, other_z[pi_b], lam_b, view_q).detach()
        rows = []
        for mask in p_b:  # moved to lambda where it is further off than 0.1
            near = abs(float(1 - mask.mean()) - lam_b) <= 0.1
            rows.append(mask if near else amix_reference.adjust(mask[None], lam_b)[0])
        p_b = torch.stack(rows)
        x_m = (1 - p_m)[:, None] * view_q + p_m[:, None] * other_x[pi_m]
        x_b = (1 - p_b)[:, None] * view_q + p_b[:, None] * other_x[pi_b]
        decay = (1 + math.cos(math.pi * self.s / (facts.epochs * facts.steps))) / 2
        clean = self.mean_nce(self.queries(view_q), [(1.0, keys_k)])
        pair = [(lam_b, keys_k), (1 - lam_b, other_key[pi_b])]
        mixed = self.mean_nce(self.queries(x_b), pair)
        self.second_view = view_k
        taught = self.taught(x_m, (keys_k, other_key[pi_m]), lam_m, pi_m, decay)
        mu = p_m.mean()
        l_mask = torch.clamp((1 - mu - lam_m).abs() - 0.1, min=0) - 2 * ((p_m - mu) ** 2).mean()
        self.s += 1
        return clean + mixed + taught + 0.1 * decay * l_mask, keys_k

    def taught(
        self, x_m: Tensor, pair: tuple[Tensor, Tensor], lam: float, pi: np.ndarray, decay: float
    ) -> Tensor:
        """L_M of the block's images; pair: keys of own and partner."""
        m = projections(self.encoders.slow_backbone, self.encoders.slow_projector, x_m)
        total = torch.zeros((), dtype=m.dtype)
        if "infonce" in self.objective:
            total = total + self.mean_nce(m, [(lam, pair[0]), (1 - lam, pair[1])])
        if "bce" in self.objective.split(" + "):
            weight = 1.0 if self.objective == "bce" else 0.5 * decay
            total = total + weight * self.which(m, *pair, lam)
        return total

    def mask(self, own: Tensor, other: Tensor, lam: float, images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        released = amix_reference.Facts(joint=True)
        return amix_reference.partner_mask(released, self.block, own, other, lam, size)

    def which(self, m: Tensor, own: Tensor, other: Tensor, lam: float) -> Tensor:
        t, total = self.facts.temperature, torch.zeros((), dtype=m.dtype)
        for i in range(len(m)):
            a, b = torch.exp((m[i] * own[i]).sum() / t), torch.exp((m[i] * other[i]).sum() / t)
            total = total - lam * torch.log(a / (a + b)) - (1 - lam) * torch.log(b / (a + b))
        return total / len(m)

    def keys_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps: list[Tensor] = []
        stage = self.encoders.slow_backbone.named_stages()["stage3"]
        handle = stage.register_forward_hook(lambda m, i, out: maps.append(out.clone()))
        keys = self.keys(images)
        handle.remove()
        return keys, maps[0]
