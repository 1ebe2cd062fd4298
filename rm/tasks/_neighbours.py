"""How well frozen features tell classes apart, without training anything."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024
"""Queries that are compared at once: 1024 x 100,000 similarities are 400 MB."""


def neighbour_accuracy(
    memory: Tensor,
    labels: Tensor,
    queries: Tensor,
    targets: Tensor,
    *,
    classes: int,
    neighbours: int = 200,
    temperature: float = 0.07,
) -> float:
    """The share (%) of queries whose class is the one that their nearest memories vote for.

    memory (N, D), labels (N,), queries (M, D), targets (M,). The `neighbours` of the largest
    cosine s vote with weight exp(s / temperature) (Wu et al., CVPR 2018, 3.4); all of them where
    there are fewer; 1 is the nearest neighbour's class. Of equal votes the lower class counts.
    """
    memory, count = F.normalize(memory.float()), min(neighbours, len(memory))
    right = torch.zeros((), dtype=torch.int64, device=memory.device)
    for first in range(0, len(queries), CHUNK):
        chunk, answers = queries[first : first + CHUNK], targets[first : first + CHUNK]
        cosines, nearest = (F.normalize(chunk.float()) @ memory.T).topk(count)
        weights = (cosines / temperature).exp()
        votes = weights.new_zeros(len(chunk), classes)
        votes = votes.scatter_add(1, labels[nearest], weights)
        right += (votes.argmax(1) == answers).sum()
    return 100 * right.item() / len(targets)
