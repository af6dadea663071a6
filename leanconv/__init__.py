"""leanconv makes convolutional networks lean: fewer parameters and MACs, measured on your device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from leanconv.analyse.converted import inspect
    from leanconv.conversion.apply import convert, plan_of
    from leanconv.conversion.calibrate import calibrate_
    from leanconv.conversion.check import check
    from leanconv.conversion.dense import to_dense
    from leanconv.conversion.plan import Plan, plan
    from leanconv.core.count import Count, count
    from leanconv.core.errors import LeanconvError
    from leanconv.core.method import Group, Method, Site, Skipped
    from leanconv.core.operator import ConvOp, LinearOp
    from leanconv.core.penalty import penalty
    from leanconv.core.spec import ConvSpec
    from leanconv.core.task import Task, get_task, set_task
    from leanconv.deploy.export import export as export
    from leanconv.experiment.compare import compare
    from leanconv.experiment.fit import evaluate, fit
    from leanconv.files.checkpoints import load_checkpoint
    from leanconv.files.find import find_models
    from leanconv.files.hub import from_pretrained, push_to_hub
    from leanconv.files.load import load
    from leanconv.files.save import save
    from leanconv.inference.bench import bench
    from leanconv.inference.optimize import forms_chosen, optimize
    from leanconv.models.create import create_model, list_models
    from leanconv.models.doctor import doctor
    from leanconv.ops import (
        METHODS,
        DepthShared,
        DepthSharedConv2d,
        FilterSummary,
        FilterSummaryConv2d,
        Ghost,
        GhostConv2d,
        Grouped,
        GroupedConv2d,
        Het,
        HetConv2d,
        Lego,
        LegoConv2d,
        OctaveConv2d,
        SharedBasis,
        SharedBasisConv2d,
        SoftShared,
        SoftSharedConv2d,
        Split,
        SplitConv2d,
        TiedBlock,
        TiedBlockConv2d,
        TiedBlockLinear,
        TiedGlobalContext,
        TiedSE,
    )
    from leanconv.papers.reproduce import reproduce
    from leanconv.timing.summary import summary
    from leanconv.train.config import TrainConfig

# Where each public name lives. They are imported on first use, so that a command line that only wants to print its
# help does not load torch; the imports above tell type checkers the same.
_HOME = {
    "METHODS": "ops",
    "ConvOp": "core.operator",
    "ConvSpec": "core.spec",
    "Count": "core.count",
    "DepthShared": "ops",
    "DepthSharedConv2d": "ops",
    "FilterSummary": "ops",
    "FilterSummaryConv2d": "ops",
    "Ghost": "ops",
    "GhostConv2d": "ops",
    "Group": "core.method",
    "Grouped": "ops",
    "GroupedConv2d": "ops",
    "Het": "ops",
    "HetConv2d": "ops",
    "Skipped": "core.method",
    "LeanconvError": "core.errors",
    "Lego": "ops",
    "LegoConv2d": "ops",
    "LinearOp": "core.operator",
    "Method": "core.method",
    "OctaveConv2d": "ops",
    "Plan": "conversion.plan",
    "SharedBasis": "ops",
    "SharedBasisConv2d": "ops",
    "Site": "core.method",
    "SoftShared": "ops",
    "SoftSharedConv2d": "ops",
    "Split": "ops",
    "SplitConv2d": "ops",
    "Task": "core.task",
    "TiedBlock": "ops",
    "TiedBlockConv2d": "ops",
    "TiedBlockLinear": "ops",
    "TiedGlobalContext": "ops",
    "TiedSE": "ops",
    "TrainConfig": "train.config",
    "bench": "inference.bench",
    "calibrate_": "conversion.calibrate",
    "check": "conversion.check",
    "compare": "experiment.compare",
    "convert": "conversion.apply",
    "count": "core.count",
    "create_model": "models.create",
    "doctor": "models.doctor",
    "evaluate": "experiment.fit",
    "export": "deploy.export",
    "find_models": "files.find",
    "fit": "experiment.fit",
    "forms_chosen": "inference.optimize",
    "from_pretrained": "files.hub",
    "get_task": "core.task",
    "inspect": "analyse.converted",
    "list_models": "models.create",
    "load": "files.load",
    "load_checkpoint": "files.checkpoints",
    "optimize": "inference.optimize",
    "penalty": "core.penalty",
    "plan": "conversion.plan",
    "plan_of": "conversion.apply",
    "push_to_hub": "files.hub",
    "reproduce": "papers.reproduce",
    "save": "files.save",
    "set_task": "core.task",
    "summary": "timing.summary",
    "to_dense": "conversion.dense",
}
_PACKAGES = ("analyse", "detect", "experiment", "search")  # reached as lc.search.faster_only and the like
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"leanconv.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'leanconv' has no attribute {name!r}")
    value = getattr(import_module(f"leanconv.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
