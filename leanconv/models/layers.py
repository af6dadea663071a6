"""What leanconv's own networks have in common: checked settings and one way to start the weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_int


class ImageNetwork(nn.Module):
    """A classifier as timm knows one: it can say where its features are, and its last layer can be changed.

    A subclass registers its last linear layer as ``fc``, or as ``fc`` inside ``head``, and its children in the order of
    use. `feature_info` lists the end of each stage, a direct child: channels, pixels of the image to a pixel of the map.
    """

    def __init__(self, num_classes: int, input_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.default_input_size = input_size
        self.feature_info: list[dict[str, Any]] = []

    def _classifier_name(self) -> str:
        return "fc" if "fc" in self._modules else "head.fc"

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.get_submodule(self._classifier_name())

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new last layer in place; 0 classes leave the features."""
        old = self.get_classifier()
        if not isinstance(old, nn.Linear):
            raise SettingError("this network has no classifier any more; build it again with num_classes")
        weight = old.weight
        fresh: nn.Module = nn.Identity()
        if num_classes:
            at_least_one(num_classes=num_classes)
            fresh = nn.Linear(old.in_features, num_classes, device=weight.device, dtype=weight.dtype)
        self.set_submodule(self._classifier_name(), fresh)
        self.num_classes = num_classes


def at_least_one(**settings: object) -> None:
    """Raise SettingError for the first setting that is not a whole number of one or more."""
    for name, value in settings.items():
        check_int(name, value)


def init_convs_(model: nn.Module) -> None:
    """Draw every convolution from He's normal distribution (fan out, ReLU) and zero its bias; other layers keep torch's start."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
