"""What a network of leanconv's is known by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """One of leanconv's own networks: how it is built, what its name fixes, and where it comes from.

    Args:
        feature_cls: how timm takes features out of it (``features_only=True``): "list" cuts it into its children,
            "getter" asks its forward_intermediates.
    """

    name: str
    builder: Callable[..., nn.Module]
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    input_size: tuple[int, int, int] = (3, 32, 32)
    feature_cls: str = "list"
