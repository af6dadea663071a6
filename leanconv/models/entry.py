"""The description of one of leanconv's own networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """One of leanconv's own networks.

    Args:
        name: the name for `leanconv.create_model`.
        builder: the function or class that builds the network.
        settings: keywords of the builder that the name fixes.
        source: the paper and section; also says what was inferred from printed counts or fitted to them.
        input_size: (channels, height, width) of the images that the network was designed for.
        feature_cls: how timm extracts features from the network (``features_only=True``): "list" uses its children, "hook"
            uses hooks, "getter" calls its forward_intermediates.
    """

    name: str
    builder: Callable[..., nn.Module]
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    input_size: tuple[int, int, int] = (3, 32, 32)
    feature_cls: str = "list"
