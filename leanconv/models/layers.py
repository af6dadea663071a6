"""What leanconv's own networks have in common: checked settings and one way to start the weights."""

from __future__ import annotations

from torch import nn

from leanconv.core.errors import SettingError


def at_least_one(**settings: object) -> None:
    """Raise SettingError for the first setting that is not a whole number of one or more."""
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingError(f"{name}={value!r} must be a whole number of at least 1")


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise SettingError unless `value` is one of `choices`."""
    if value not in choices:
        raise SettingError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")


def init_convs_(model: nn.Module) -> None:
    """Draw every convolution from He's normal distribution (fan out, ReLU) and zero its bias; other layers keep torch's start."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
