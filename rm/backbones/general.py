"""Any classifier of timm by its name, `{name: timm, model: convnext_tiny}`. Nothing is downloaded.

What methods can reach inside differs from model to model, so the file has no FEATURES: those that
act inside a backbone are for the networks of the other files.
"""

import copy
import difflib
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rm.backbones import Backbone
from rm.trial import TrialError

WEIGHTLESS = ("drop_path_rate",)


class TimmModel(Backbone):
    """A timm model whose classifier, wherever it is nested, became `head`; what timm does between
    its last map and the classifier (pooling, norms, dropout) is `pool`.
    """

    def __init__(self, model: str, network: Any) -> None:
        """network: a timm model, an nn.Module with forward_features() and forward_head()."""
        super().__init__()
        self._title = model
        classifier = network.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise TrialError(
                f"timm's {model} ends in a {type(classifier).__name__}, not in one linear "
                "classifier: it cannot be trained here"
            )
        self._classifier = next(n for n, m in network.named_modules() if m is classifier)
        network.set_submodule(self._classifier, nn.Identity())
        self.num_features = classifier.in_features
        self.head = classifier
        self.network = network
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        self.has_map = _ends_in_map(network)

    @property
    def title(self) -> str:
        return self._title

    def features(self, images: Tensor) -> Tensor:
        """The last map (B, C, h, w); the tokens (B, N, C) of a model without one."""
        out: Tensor = self.network.forward_features(images)
        return out.permute(0, 3, 1, 2) if self._channels_last else out

    def pool(self, features: Tensor) -> Tensor:
        out: Tensor = self.network.forward_head(
            features.permute(0, 2, 3, 1) if self._channels_last else features
        )
        return out

    def pool_region(self, region: Tensor) -> Tensor:
        """As a map of one cell, so that norms between pooling and classifier act on it too."""
        return self.pool(region[:, :, None, None])

    def plain_name(self, name: str) -> str:
        """Timm's."""
        if name.startswith("head."):
            return f"{self._classifier}.{name.removeprefix('head.')}"
        return name.removeprefix("network.")


def timm(
    num_classes: int,
    in_channels: int,
    *,
    model: Annotated[str, "len(model) > 0"],
    drop_path_rate: Annotated[float, "0 <= drop_path_rate < 1"] = 0.0,
) -> Backbone:
    """The timm model of that name, from random weights; `init` gives it others.

    Source: Wightman, PyTorch Image Models; each model's own is in timm's documentation.
    """
    import timm as library

    if model not in library.list_models():
        near = difflib.get_close_matches(model, library.list_models(), n=3)
        raise TrialError(
            f"timm {library.__version__} has no model '{model}'"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    try:
        network = library.create_model(
            model, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options
        )
    except TypeError as error:
        raise TrialError(f"timm's {model} does not take {options}: {error}") from None
    return TimmModel(model, network)


def _ends_in_map(network: Any) -> bool:
    """Whether the last features are a map: tried on a copy without content, which draws no random
    number and computes nothing.
    """
    _, height, width = network.default_cfg["input_size"]
    channels = next(p for p in network.parameters() if p.ndim == 4).shape[1]
    images = torch.empty(2, channels, height, width, device="meta")
    features = copy.deepcopy(network).to("meta").eval().forward_features(images)
    return bool(features.ndim == 4)
