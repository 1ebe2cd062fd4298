"""Networks: one file per family, one function per network; the function's name is its name in a spec.

A network function is `name(num_classes, in_channels, *, option=default, ...) -> Backbone`. The training loop supplies the two
positional arguments, the spec the keyword-only ones.
"""

from torch import Tensor, nn


class Backbone(nn.Module):
    """A classifier that shows its last feature map, so that region losses are written once for every network.

    A subclass sets `num_features` (C), `head` (nn.Linear, C -> K) and defines `features`.
    """

    num_features: int
    head: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) -> last feature map before pooling (B, C, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} does not define features()")

    def pool(self, features: Tensor) -> Tensor:
        """Global average pool: (B, C, h, w) -> (B, C)."""
        return features.mean((2, 3))

    def plain_state_dict(self) -> dict[str, Tensor]:
        """The deployed weights, under the names of the library that the architecture comes from, if it comes from one."""
        return dict(self.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) -> logits (B, K)."""
        logits: Tensor = self.head(self.pool(self.features(images)))
        return logits
