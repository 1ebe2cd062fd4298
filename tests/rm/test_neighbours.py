"""The accuracy of nearest neighbours, against a loop over all pairs."""

import math

import pytest
import torch

from rm.tasks import _neighbours
from rm.tasks._neighbours import neighbour_accuracy

CLASSES = 3


def by_hand(memory, labels, queries, targets, neighbours, temperature):
    """Pair by pair, in plain Python floats."""
    right = 0
    for query, target in zip(queries.tolist(), targets.tolist(), strict=True):
        cosines = []
        for row, label in zip(memory.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, row, strict=True))
            cosines.append((dot / math.hypot(*query) / math.hypot(*row), label))
        votes = [0.0] * CLASSES
        for cosine, label in sorted(cosines, reverse=True)[:neighbours]:
            votes[label] += math.exp(cosine / temperature)
        right += votes.index(max(votes)) == target
    return 100 * right / len(targets)


@pytest.mark.parametrize("neighbours", [1, 4, 30, 500])
def test_neighbours_vote_with_their_similarity(neighbours, monkeypatch):
    """More neighbours than there are memories: all vote. Queries come in several chunks."""
    monkeypatch.setattr(_neighbours, "CHUNK", 7)
    generator = torch.Generator().manual_seed(neighbours)
    memory, queries = (torch.randn(n, 5, generator=generator) for n in (40, 25))
    labels, targets = (torch.randint(CLASSES, (n,), generator=generator) for n in (40, 25))
    expected = by_hand(memory, labels, queries, targets, neighbours, 0.3)
    options = {"classes": CLASSES, "neighbours": neighbours, "temperature": 0.3}
    assert neighbour_accuracy(memory, labels, queries, targets, **options) == expected
    longer = neighbour_accuracy(7 * memory, labels, 3 * queries, targets, **options)
    assert longer == expected, "lengths do not count"


def test_weights_decide_between_one_near_and_two_far_neighbours():
    memory = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels, query, target = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.2]]), torch.tensor([0])
    three = {"classes": 2, "neighbours": 3}
    assert neighbour_accuracy(memory, labels, query, target, **three) == 100
    assert neighbour_accuracy(memory, labels, query, target, **three, temperature=100.0) == 0
