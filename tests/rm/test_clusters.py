"""Online clusters: every cluster has pictures, small ones dissolve, labels follow features; and
what AMix-C and Inter-Intra do with them.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rm.datasets import DataError
from rm.methods import puzzlemix
from rm.methods._clusters import OnlineClusters, bisected
from rm.methods.inter_intra import InterIntra
from rm.schedules import StepContext
from rm.trainer import Trainer
from rm.trial import TrialError, parse_trial
from tests.support.trials import contrastive

CPU = torch.device("cpu")


def blobs(sizes, dim=8, seed=0, spread=0.1):
    """Unit vectors around directions that are orthogonal, and which of them each is around."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.cat([torch.full((size,), n) for n, size in enumerate(sizes)])
    noise = spread * torch.randn(len(truth), dim, generator=draw)
    return F.normalize(torch.eye(dim)[truth] + noise, dim=1), truth


def started(features, count, **options):
    clusters = OnlineClusters(*features.shape, count, **options)
    clusters.start(features, np.random.default_rng(0))
    return clusters


def test_kmeans_and_bisection_find_what_is_apart():
    features, truth = blobs([30, 50])
    assert torch.equal(bisected(features), truth == 1) or torch.equal(
        bisected(features), truth == 0
    )
    clusters = started(features, 2)
    pairs = {(int(a), int(b)) for a, b in zip(truth, clusters.labels, strict=True)}
    assert len(pairs) == 2
    for which in (0, 1):
        mean = F.normalize(features[clusters.labels == which].mean(0), dim=0)
        assert torch.allclose(clusters.centroids[which], mean, atol=1e-6)


@pytest.mark.parametrize("count", [2, 5])
def test_equal_vectors_are_halved(count):
    same = F.normalize(torch.ones(count, 4), dim=1)
    assert 0 < int(bisected(same).sum()) < count


def test_no_cluster_is_empty_whatever_is_clustered():
    same = F.normalize(torch.ones(24, 4), dim=1)
    for features in (same, blobs([24])[0]):
        clusters = started(features, 6)
        assert (clusters.sizes() > 0).all()
        clusters.labels.fill_(3)
        clusters.refresh()
        assert (clusters.sizes() > 0).all()
    with pytest.raises(DataError, match="5 pictures cannot be put into 6 clusters"):
        OnlineClusters(5, 4, 6)


def test_small_clusters_go_to_their_neighbours_and_the_largest_is_split():
    features, truth = blobs([3, 40, 200], spread=0.02)
    clusters = OnlineClusters(len(features), 8, 3, smallest=20)
    clusters.bank.copy_(features)
    clusters.labels.copy_(truth)
    nearest = F.normalize(features[:3].mean(0) + 0.5 * features[3:43].mean(0), dim=0)
    clusters.bank[:3] = nearest  # the small one lies nearer to the second
    for which in range(3):
        clusters.centroids[which] = F.normalize(features[truth == which].mean(0), dim=0)
    clusters.refresh()
    sizes = clusters.sizes()
    assert (clusters.labels[:43] == 1).all()
    assert int(sizes.sum()) == 243
    assert set(clusters.labels[43:].tolist()) == {0, 2}, "the largest one was split"
    raw = sizes.float() ** -0.5
    assert torch.allclose(clusters.weights(), raw / raw.mean())


def test_the_bank_moves_halfway_and_labels_follow():
    features, _ = blobs([30, 30])
    clusters = started(features, 2)
    other = int(1 - clusters.labels[0])
    target = clusters.centroids[other].clone()
    before = clusters.bank[:1].clone()
    clusters.update(torch.tensor([0]), target[None])
    assert torch.allclose(clusters.bank[:1], F.normalize((before + target) / 2, dim=1), atol=1e-6)
    for _ in range(3):
        clusters.update(torch.tensor([0]), target[None])
    assert int(clusters.labels[0]) == other
    assert torch.allclose(clusters.bank.norm(dim=1), torch.ones(60))


def trainer_of(tiny, **options):
    method = {"name": "amix_c", "clusters": 4, **options}
    return Trainer(parse_trial({**contrastive(tiny), "method": method}), CPU)


def test_the_clusters_start_from_all_pictures_and_follow(tiny):
    trainer = trainer_of(tiny)
    clusters = trainer.task.method.pseudo.clusters
    assert not clusters.started
    for _ in range(2):
        before = clusters.bank.clone()
        views = next(trainer.task.batches(trainer.epoch_plan, trainer.step))
        trainer.train_step()
        moved = (clusters.bank != before).any(1).nonzero()[:, 0]
        if before.any():
            assert set(moved.tolist()) <= set(views.place.tolist())
    assert bool(clusters.started)
    assert set(clusters.labels.tolist()) == set(range(4))


@pytest.mark.parametrize("objective", ["ce", "pbce", "ce + infonce"])
def test_labels_teach_the_block_and_the_head_alone(tiny, objective):
    """The head by pictures as they are, the block through the head's copy, q by neither."""
    grads = {}
    for taught in (True, False):
        trainer = trainer_of(tiny, objective=objective, mask_weight=0.0)
        method = trainer.task.method
        if not taught:
            method.label_loss = lambda projected, taught, clean: torch.zeros(())
        views = next(trainer.task.batches(trainer.epoch_plan, 0))
        trainer.task(views, trainer._step_context()).loss.backward()
        grads[taught] = [
            [p.grad for p in part.parameters() if p.requires_grad and p.grad is not None]
            for part in (method.block, method.head, trainer.task.network.projector)
        ]
    block, head, online = ([grads[taught][n] for taught in (True, False)] for n in range(3))
    assert not all(torch.equal(a, b) for a, b in zip(*block, strict=False)) or not block[1]
    assert all(torch.equal(a, b) for a, b in zip(*head, strict=True)), "its own images alone"
    assert any(g.any() for g in head[0])
    assert all(torch.equal(a, b) for a, b in zip(*online, strict=True))


def test_keys_that_share_a_label_are_no_negatives(tiny):
    """With all queued keys of one label and the truth as labels nothing is left to tell apart."""
    trainer = trainer_of(tiny, objective="infonce", labels="truth", negatives="other_labels")
    method, network = trainer.task.method, trainer.task.network
    labels = method.pseudo.labels
    assert torch.equal(labels, trainer.task.data.train.labels)
    views = next(trainer.task.batches(trainer.epoch_plan, 0))
    network.queue.places.copy_(torch.arange(80) % 70 - 1)
    seen = []
    real = method.left_out
    method.left_out = lambda *args: seen.append((args, real(*args))) or seen[-1][1]
    trainer.task(views, trainer._step_context())
    (_, taught, clean), left_out = seen[0]
    for row, (own, partner) in enumerate(zip(clean.place, taught.partner, strict=True)):
        banned = {int(labels[own]), int(labels[clean.place[partner]])}
        for column, place in enumerate(network.queue.places.tolist()):
            expected = place >= 0 and int(labels[place]) in banned
            assert bool(left_out[row, column]) == expected


def test_inter_intra_blends_within_a_cluster_and_cuts_between():
    method = InterIntra(intra_alpha=2.0, inter_alpha=1.0, clusters=2)
    images = torch.randn(8, 3, 12, 12)
    method.shown = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    kinds = set()
    for seed in range(4):
        mixed = method.mix(images, torch.eye(8), StepContext(np.random.default_rng(seed)))
        for i, j in enumerate(mixed.partner.tolist()):
            within = bool(method.shown[i] == method.shown[j])
            kinds.add(within)
            area = float(mixed.area[i])
            if within:
                assert torch.allclose(mixed.images[i], torch.lerp(images[i], images[j], area))
            else:
                own = (mixed.images[i] == images[i]).all(0)
                assert (own | (mixed.images[i] == images[j]).all(0)).all()
                assert float((~own).float().mean()) == pytest.approx(area, abs=1e-6)
            expected = torch.zeros(8)
            expected[i] += 1 - area
            expected[j] += area
            assert torch.allclose(mixed.targets[i], expected)
    assert kinds == {True, False}


def test_puzzlemix_sees_what_is_salient_to_clusters(tiny, monkeypatch):
    """What tells the picture's own centroid from the others; its targets stay the pictures."""
    values = {**contrastive(tiny), "method": {"name": "puzzlemix", "pseudo_labels": 4}}
    trainer, seen = Trainer(parse_trial(values), CPU), []
    real = puzzlemix.saliency

    def watched(model, images, targets):
        seen.append((model(images), images, targets))
        return real(model, images, targets)

    monkeypatch.setattr(puzzlemix, "saliency", watched)
    task = trainer.task
    views = next(task.batches(trainer.epoch_plan, 0))
    task(views, trainer._step_context())
    (logits, images, targets), clusters = seen[0], task.method.pseudo.clusters
    assert torch.equal(images, views.query)
    assert torch.equal(targets.argmax(1), clusters.labels[views.place])
    expected = task.network.query(images) @ clusters.centroids.T / 0.2
    assert torch.allclose(logits, expected, atol=1e-5)
    with pytest.raises(TrialError, match="pseudo_labels are for contrastive training"):
        Trainer(parse_trial({**tiny, "method": values["method"]}), CPU)


def test_unfit_clusters_are_refused(tiny):
    with pytest.raises(TrialError, match="no cluster is without a picture"):
        trainer_of(tiny, clusters=71)
    with pytest.raises(TrialError, match="BCE has no such negatives"):
        trainer_of(tiny, negatives="other_labels")
