"""What RecursiveMix remembers of the previous step: the mixed images, their labels, and what the
network said about them.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Triplet:
    """images (B, C, H, W) and targets (B, K) after mixing; logits (B, K), detached, of the
    training-mode forward.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.images)


class History:
    """The triplet of the last step, or nothing."""

    def __init__(self) -> None:
        self._last: Triplet | None = None

    @property
    def last(self) -> Triplet | None:
        return self._last

    def push(self, images: Tensor, targets: Tensor, logits: Tensor) -> None:
        """Remember this step's batch in place of the former one; the tensors are kept, not
        copied.
        """
        self._last = Triplet(images.detach(), targets.detach(), logits.detach())

    def reset(self) -> None:
        """Forget (at an epoch's start, as the released code does)."""
        self._last = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self._last is None else dict(vars(self._last))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last = Triplet(**state) if state else None
