"""Build networks by name: leanconv's own, timm's and torchvision's."""

from __future__ import annotations

from leanconv.core.notes import get_base, input_size_of, set_base
from leanconv.models.create import create_model, list_models
from leanconv.models.entry import ModelEntry
from leanconv.models.timm_names import register_with_timm

__all__ = ["ModelEntry", "create_model", "get_base", "input_size_of", "list_models", "set_base"]

register_with_timm()
