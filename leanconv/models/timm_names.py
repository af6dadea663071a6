"""Register leanconv's networks with timm, so that ``timm.create_model("tied_resnet50")`` works.

Importing timm takes seconds, and most of leanconv does not need timm. The names are therefore registered when timm is imported,
or at once if timm is already imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

from leanconv.models.create import create_model, list_models
from leanconv.models.entry import ModelEntry

default_cfgs: dict[str, Any] = {}  # timm reads the configurations of this module's networks here
__all__: list[str] = []  # timm adds every name


def register_timm() -> None:
    """Register every network of `list_models` with timm. A name that timm already has is not changed."""
    from timm.models import generate_default_cfgs, is_model, register_model

    new = [entry for entry in list_models() if not is_model(entry.name)]
    default_cfgs.update(generate_default_cfgs({entry.name: _config(entry) for entry in new}))
    for entry in new:
        register_model(_entrypoint(entry))


def _config(entry: ModelEntry) -> dict[str, Any]:
    """timm's configuration of a network without published weights."""
    small = entry.input_size[1] < 64
    return {
        "url": "",
        "num_classes": entry.settings.get("num_classes", 10 if small else 1000),
        "input_size": entry.input_size,
        "fixed_input_size": False,
        "crop_pct": 1.0 if small else 0.875,
        "interpolation": "bilinear",
        "classifier": "fc",
    }


def _entrypoint(entry: ModelEntry) -> Callable[..., nn.Module]:
    """The function that timm calls to build the network."""

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        from timm.models import build_model_with_cfg

        features = {"feature_cls": entry.feature_cls}
        model: nn.Module = build_model_with_cfg(
            _Builder(entry.name), entry.name, pretrained, feature_cfg=features, **kwargs
        )
        return model

    build.__name__ = build.__qualname__ = entry.name
    build.__module__ = __name__
    build.__doc__ = f"{entry.name}: {entry.source}"
    return build


class _Builder:
    """Builds a network where timm expects a model class."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__name__ = name

    def __call__(self, num_classes: int | None = None, in_chans: int | None = None, **settings: Any) -> nn.Module:
        if num_classes == 0:  # in timm, 0 means: features without a classifier
            model = create_model(self.name, in_chans=in_chans, **settings)
            model.reset_classifier(0)  # type: ignore[operator]
            return model
        return create_model(self.name, num_classes=num_classes, in_chans=in_chans, **settings)


class _WhenImported(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An import hook: it loads timm in the normal way, and then registers the networks."""

    loader: importlib.abc.Loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec("timm")
        finally:  # who only asks whether timm is there does not import it
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self.loader
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self.loader.exec_module(module)
        register_timm()


def register_with_timm() -> None:
    """Register the networks now if timm is imported, else when timm is imported."""
    if "timm" in sys.modules:
        register_timm()
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())
