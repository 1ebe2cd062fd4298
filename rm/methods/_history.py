"""What RecursiveMix remembers of the previous step: the mixed images, their labels, and what the
network said about them.
"""

from typing import Any

from torch import Tensor, nn


class PreviousBatch(nn.Module):
    """The mixed batch of the last step, or none. It rides in the checkpoint as extra state, not as
    buffers: each process has its own, of the size of its own last batch.

    images    (B, C, H, W)   after mixing
    targets   (B, K)         after mixing
    logits    (B, K)         of the training-mode forward pass
    """

    images: Tensor | None
    targets: Tensor | None
    logits: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def __len__(self) -> int:
        return 0 if self.images is None else len(self.images)

    def store(self, images: Tensor, targets: Tensor) -> None:
        """Keep this step's batch in place of the former one; the tensors are kept, not copied."""
        self.images, self.targets, self.logits = images.detach(), targets.detach(), None

    def store_logits(self, logits: Tensor) -> None:
        """Keep what the network said about the batch that is stored."""
        self.logits = logits.detach()

    def clear(self) -> None:
        """Forget (at an epoch's start, as the released code does)."""
        self.images = self.targets = self.logits = None

    def get_extra_state(self) -> dict[str, Tensor]:
        tensors = {"images": self.images, "targets": self.targets, "logits": self.logits}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def set_extra_state(self, state: Any) -> None:
        self.images, self.targets = state.get("images"), state.get("targets")
        self.logits = state.get("logits")
