"""The common parts of leanconv's own networks: a base class, checks of settings, and the initialisation."""

from __future__ import annotations

from typing import Any

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_int


class ImageNetwork(nn.Module):
    """A classifier with timm's interface: it lists its feature maps, and its last layer can be replaced.

    A subclass registers its last linear layer as ``fc``, or as ``fc`` inside ``head``. It registers its children in the order of
    their use. `feature_info` has one entry for each stage: the child that ends the stage, its channels, and its reduction (image
    pixels for each pixel of the feature map).

    Args:
        num_classes: number of outputs.
        input_size: (channels, height, width) of the images that the network was designed for.
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
        """Replace the last linear layer by a new one with `num_classes` outputs; 0 removes the classifier.

        Raises:
            SettingError: the classifier was removed before.
        """
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
    """Raise SettingError for the first setting that is not an integer of at least 1."""
    for name, value in settings.items():
        check_int(name, value)


def init_convs_(model: nn.Module) -> None:
    """Initialise every convolution with He's normal distribution (fan out, ReLU) and a zero bias.

    Other layers keep torch's initialisation.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
