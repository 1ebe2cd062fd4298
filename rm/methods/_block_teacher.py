"""What a mix block learns from in supervised training where it is not the classifier's own labels
(AMix's Table 1): older keys of the momentum network k, and clusters of all pictures.

The paper has the rows' names and no more. Vectors are k's pooled features of length 1, keys those
of the clean batch; queue and temperature are MoCo v2's, clusters those of AMix-C: our reading.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.methods._clusters import PseudoLabels
from rm.methods._mix_network import MixNetwork
from rm.methods._moco import Queue, info_nce, told_apart
from rm.ops import pair_cross_entropy
from rm.schedules import StepContext

TEMPERATURE = 0.2


class Lesson(NamedTuple):
    """What the block's images are judged by; `AMix` says what each option is."""

    objective: Literal["ce", "pbce", "bce", "infonce"] = "ce"
    pseudo_labels: int | None = None
    keys: int = 65536
    left_out: Literal["none", "same_label"] = "none"

    @property
    def of_classifier(self) -> bool:
        """Whether the momentum network's own head on mixed images judges, and nothing else."""
        return self.objective in ("ce", "pbce") and self.pseudo_labels is None


LABELS = Lesson()
"""The classifier's own labels, by Mixup's cross-entropy."""


class Pair(NamedTuple):
    """lam   the own image's share in the targets; partner (B,)"""

    lam: float
    partner: Tensor


class BlockTeacher(nn.Module):
    """A queue of keys, or a head that learns clusters from pictures as they are.

    pictures   how many there are; channels: of k's pooled features
    """

    def __init__(self, lesson: Lesson, pictures: int, channels: int) -> None:
        super().__init__()
        self.lesson, count = lesson, lesson.pseudo_labels
        self.queue = Queue(lesson.keys, channels) if lesson.objective == "infonce" else None
        self.pseudo = None if count is None else PseudoLabels(pictures, channels, count)
        by_label = lesson.objective in ("ce", "pbce")
        self.head = None if count is None or not by_label else nn.Linear(channels, count)
        self._seen: tuple[Tensor, Tensor] | None = None

    def start(self, network: MixNetwork, step: StepContext) -> None:
        """Before anything of a step is drawn but what the clusters start from."""
        if self.pseudo is not None:
            self.pseudo.start(network, step)

    def loss(
        self, found: Tensor, pooled: Tensor, targets: Tensor, pair: Pair, step: StepContext
    ) -> Tensor:
        """found (B, C) k's pooled features of the block's images, with their graph; pooled (B, C)
        those of the batch as it is, without one; targets (B, K) -> a scalar, with the head's own.
        """
        known = self._known(targets, step)
        keys = F.normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=1)
        if self.pseudo is not None and step.places is not None:
            self.pseudo.note(step.places, keys)
        self._seen = keys, targets.argmax(1) if step.places is None else step.places
        lam, partner = pair
        if self.head is not None:
            return self._by_label(found, pooled, known, pair)
        unit = F.normalize(found.to(keys.dtype), dim=1)
        if self.queue is None:
            return told_apart(unit, keys, keys[partner], lam, TEMPERATURE)
        left_out = self._left_out(self.queue, known, partner)
        own, other = (
            info_nce(unit, each, self.queue.keys, TEMPERATURE, None, left_out).mean()
            for each in (keys, keys[partner])
        )
        return lam * own + (1 - lam) * other

    def _known(self, targets: Tensor, step: StepContext) -> Tensor:
        """The label of each picture of the batch, (B,): its cluster, or its class."""
        if self.pseudo is None:
            return targets.argmax(1)
        if step.places is None:
            raise RuntimeError("clusters are of pictures, and which these are nobody has said")
        return self.pseudo.labels[step.places]

    def _by_label(self, found: Tensor, pooled: Tensor, known: Tensor, pair: Pair) -> Tensor:
        """The head learns from clean pictures alone; a copy of it judges the block's."""
        if self.head is None or self.pseudo is None:
            raise RuntimeError("labels need clusters and a head")
        clean = self.head(pooled)
        clean = clean.to(torch.promote_types(clean.dtype, torch.float32))
        weights = self.pseudo.weights()
        weights = None if weights is None else weights.to(clean.dtype)
        learned = F.cross_entropy(clean, known, weights, reduction="none").mean()
        logits = F.linear(found, self.head.weight.detach(), self.head.bias.detach())
        logits = logits.to(clean.dtype)
        lam, partner = pair
        if self.lesson.objective == "pbce":
            return learned + pair_cross_entropy(logits, known, known[partner], lam)
        own, other = (F.cross_entropy(logits, each) for each in (known, known[partner]))
        return learned + lam * own + (1 - lam) * other

    def _left_out(self, queue: Queue, known: Tensor, partner: Tensor) -> Tensor | None:
        if self.lesson.left_out == "none":
            return None
        queued = queue.places  # classes themselves, or pictures
        if self.pseudo is not None:
            labels = self.pseudo.labels
            queued = labels[queued.clamp(min=0)].where(queued >= 0, -1)
        return (queued == known[:, None]) | (queued == known[partner][:, None])

    def after_step(self, network: MixNetwork, step: StepContext) -> None:
        """The batch's keys enter the queue, and the clusters."""
        if self.queue is not None and self._seen is not None:
            self.queue.add(*(network.group.concatenated(each) for each in self._seen))
        self._seen = None
        if self.pseudo is not None:
            self.pseudo.after_step(network, step)
