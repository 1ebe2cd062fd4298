"""MoCo v2's network and loss (Chen et al., arXiv 2003.04297): an encoder q that is trained, an
encoder k that follows it, and a queue of k's older keys.

    NCE(m, key) = -log e^{m key / t} / (e^{m key / t} + sum over the queue of e^{m n / t})

Source: the settings of Westlake-AI/openmixup at 37e1372; numbers as in the MoCo v2 paper.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rm.backbones import Backbone, FeatureHooks
from rm.distributed import ProcessGroup
from rm.schedules import StepContext

Encode = Callable[[Tensor], Tensor | tuple[Tensor, ...]]


class Contrast(NamedTuple):
    """What a method makes of a step's views: the scalar loss, the keys (B, D) that enter the queue
    afterwards, and scalars for the epoch's metrics, the same names at every step.
    """

    loss: Tensor
    keys: Tensor
    logs: dict[str, Tensor | float]


class MoCoSettings(NamedTuple):
    """What is explained at `Contrastive`."""

    queue: int = 65536
    temperature: float = 0.2
    hidden: int = 2048
    dim: int = 128
    cross_view: bool = True


class Projector(nn.Sequential):
    """Linear C -> hidden, ReLU, Linear hidden -> dim; weights He's, biases 0."""

    def __init__(self, channels: int, hidden: int, dim: int) -> None:
        first, last = nn.Linear(channels, hidden), nn.Linear(hidden, dim)
        super().__init__(first, nn.ReLU(), last)
        for layer in (first, last):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)


class Queue(nn.Module):
    """The newest `size` keys, unit vectors of `dim`: random ones at the start; a new batch takes
    the place of the oldest.
    """

    ALIKE = True  # in every process: keys are gathered before they enter

    keys: Tensor
    places: Tensor
    """Which picture each key is of; -1: none."""
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("places", torch.full((size,), -1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, keys: Tensor, pictures: Tensor) -> None:
        """keys (B, dim) of the whole batch, and which pictures (B,) they are of."""
        size = len(self.keys)
        # An index and no slice: the position stays on the device, and nothing waits for it.
        places = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.keys[places] = keys.to(self.keys.dtype)
        self.places[places] = pictures
        self.position += len(keys)
        self.position %= size


class MoCo(nn.Module):
    """Encoders q and k, each a backbone with a projector, and the queue. k starts as a copy of q
    and never gets a gradient.

    pictures   called: all pictures as they are, (B, C, H, W) at a time, in order; the task sets it
    group      the processes that train together: k sees a shuffled share of the whole batch
               wherever batch norm sees a part of it, so that a query and its key are normalised
               among different images
    """

    pictures: Callable[[], Iterator[Tensor]]

    def __init__(
        self, backbone: Backbone, settings: MoCoSettings, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.settings, self.group = settings, group or ProcessGroup()
        backbone.head.requires_grad_(False)  # nothing is classified
        self.online = backbone
        self.projector = Projector(backbone.num_features, settings.hidden, settings.dim)
        self.momentum = backbone.twin().requires_grad_(False)
        self.momentum_projector = Projector(
            backbone.num_features, settings.hidden, settings.dim
        ).requires_grad_(False)
        self.momentum_projector.load_state_dict(self.projector.state_dict())
        self.queue = Queue(settings.queue, settings.dim)

    def query(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> what q makes of them, unit vectors (B, D)."""
        return F.normalize(self.projector(self.online.pool(self.online.features(images))), dim=1)

    def project(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> what k makes of them, not normalised (B, D); with a graph to the
        images.
        """
        pooled = self.momentum.pool(self.momentum.features(images))
        found: Tensor = self.momentum_projector(pooled)
        return found

    @torch.no_grad()
    def keys(self, images: Tensor, step: StepContext) -> Tensor:
        """images (B, C, H, W) -> k's unit vectors (B, D) without a graph."""
        return F.normalize(self.shuffled(self.project, images, step)[0], dim=1)

    @torch.no_grad()
    def projection_and_map(
        self, images: Tensor, step: StepContext, hooks: FeatureHooks
    ) -> tuple[Tensor, Tensor]:
        """What k makes of images (B, C, H, W), not normalised (B, D), and the map (B, c, h, w) of
        the one module of k that the hooks are on; without a graph.
        """
        maps: list[Tensor] = []

        def keep(_: str, features: Tensor) -> Tensor:
            maps.append(features.clone())  # what comes next may work in place
            return features

        def encode(shown: Tensor) -> tuple[Tensor, Tensor]:
            projected = self.project(shown)
            return projected, maps[-1]

        with hooks.active(keep):
            projected, found = self.shuffled(encode, images, step)
        return projected, found

    def shuffled(self, encode: Encode, images: Tensor, step: StepContext) -> tuple[Tensor, ...]:
        """What `encode` makes of a share of the shuffled whole batch, brought back in order."""
        if step.groups * self.group.count == 1:
            return _tuple(encode(images))
        everyone = self.group.concatenated(images)
        drawn = step.generator.permutation(len(everyone))
        order = torch.from_numpy(drawn).to(images.device, non_blocking=True)
        mine = self.group.share(0, len(everyone))
        parts = _tuple(encode(everyone[order[mine]]))
        back = order.argsort()[mine]
        return tuple(self.group.concatenated(part)[back] for part in parts)

    def followed(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of k and those of q that they follow, in one order."""
        slow = [*self.momentum.parameters(), *self.momentum_projector.parameters()]
        return slow, [*self.online.parameters(), *self.projector.parameters()]

    def nce(
        self,
        found: Tensor,
        keys: Tensor,
        shares: Tensor | None = None,
        left_out: Tensor | None = None,
    ) -> Tensor:
        """The mean of `info_nce` with this queue and temperature; scalar."""
        negatives, temperature = self.queue.keys, self.settings.temperature
        return info_nce(found, keys, negatives, temperature, shares, left_out).mean()


class Judge(nn.Module):
    """(images) -> how near q's vectors are to each key of the batch, (B, N): for methods that look
    for what is salient to a classifier, where each image is a class of its own.
    """

    def __init__(self, network: MoCo, keys: Tensor) -> None:
        super().__init__()
        self.network, self.keys = network, keys

    def forward(self, images: Tensor) -> Tensor:
        found = self.network.query(images)
        return found @ self.keys.T.to(found.dtype) / self.network.settings.temperature


def info_nce(
    found: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float,
    shares: Tensor | None = None,
    left_out: Tensor | None = None,
) -> Tensor:
    """Of each row m_i the sum over j of shares_ij NCE(m_i, key_j), in fp32 or wider: (B,).

    found       (B, D)   unit vectors, with their graph
    keys        (N, D)   each is the positive of its own term and no other's negative
    negatives   (K, D)
    shares      (B, N)   rows sum to 1; None: of each row its own key, N = B
    left_out    (B, K)   bool, what is no negative of a row
    """
    wide = torch.promote_types(found.dtype, torch.float32)
    found, keys, negatives = found.to(wide), keys.to(wide), negatives.to(wide)
    with torch.autocast(found.device.type, enabled=False):
        scores = found @ negatives.T / temperature
        if left_out is not None:  # finite, as a row without negatives has a gradient too
            scores = scores.masked_fill(left_out, torch.finfo(wide).min / 2)
        others = scores.logsumexp(1)
        if shares is None:
            own = (found * keys).sum(1) / temperature
            return torch.logaddexp(own, others) - own
        each = found @ keys.T / temperature
        losses = torch.logaddexp(each, others[:, None]) - each
        return (shares * losses).sum(1)


def told_apart(
    found: Tensor, own: Tensor, other: Tensor, lam: float, temperature: float
) -> Tensor:
    """infoNCE whose only negative is the other source, the batch's mean: -(lambda log s(d) +
    (1 - lambda) log s(-d)), d = (m own - m partner) / t, s the logistic function; all (B, D), unit
    vectors. The printed formula divides the similarities themselves, which is no loss to minimise.
    """
    wide = torch.promote_types(found.dtype, torch.float32)
    margin = (found.to(wide) * (own - other).to(wide)).sum(1) / temperature
    return -(lam * F.logsigmoid(margin) + (1 - lam) * F.logsigmoid(-margin)).mean()


def _tuple(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
