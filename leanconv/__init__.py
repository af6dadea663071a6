"""leanconv makes convolutional networks lean: fewer parameters and MACs, measured on your device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leanconv.core.version import __version__

if TYPE_CHECKING:
    from leanconv.analyse.converted import inspect
    from leanconv.budget.search import lean
    from leanconv.conversion.apply import convert, plan_of
    from leanconv.conversion.calibrate import calibrate_, reestimate_norms_
    from leanconv.conversion.channel_plan import ChannelPlan, apply_channels_, channel_plans
    from leanconv.conversion.channels import ChannelGraph, ChannelSet, channel_graph
    from leanconv.conversion.check import check
    from leanconv.conversion.dense import to_dense
    from leanconv.conversion.plan import Plan, plan
    from leanconv.conversion.repair import repair_outputs_
    from leanconv.core.count import Count, count
    from leanconv.core.errors import LeanconvError
    from leanconv.core.linear import LeanLinear
    from leanconv.core.method import Group, Method, Site, Skipped
    from leanconv.core.notes import get_task, set_task
    from leanconv.core.operator import ConvOp, LinearOp
    from leanconv.core.penalty import penalty
    from leanconv.core.pointwise import PointwiseLinear
    from leanconv.core.spec import ConvSpec
    from leanconv.core.task import Task
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
    from leanconv.models.task import note_task
    from leanconv.ops import METHODS, find_method, list_methods
    from leanconv.ops.attention import TiedGlobalContext, TiedSE
    from leanconv.ops.depth_shared import DepthShared, DepthSharedConv2d
    from leanconv.ops.filter_summary import FilterSummary, FilterSummaryConv2d
    from leanconv.ops.ghost import Ghost, GhostConv2d
    from leanconv.ops.grouped import Grouped, GroupedConv2d
    from leanconv.ops.het import Het, HetConv2d
    from leanconv.ops.lego import Lego, LegoConv2d
    from leanconv.ops.octave import OctaveConv2d
    from leanconv.ops.shared_basis import SharedBasis, SharedBasisConv2d
    from leanconv.ops.soft_shared import SoftShared, SoftSharedConv2d
    from leanconv.ops.split import Split, SplitConv2d
    from leanconv.ops.tied_block import TiedBlock, TiedBlockConv2d
    from leanconv.ops.tied_linear import TiedBlockLinear
    from leanconv.papers.reproduce import reproduce
    from leanconv.search.controls import narrower, shallower
    from leanconv.search.order import choose_orders, permute_channels_
    from leanconv.search.pruning import plan_channels, prune
    from leanconv.timing.summary import summary
    from leanconv.train.config import TrainConfig

# The module of each public name, except the operators, which `leanconv.ops` collects from their files. Names are imported on
# first use, so that `leanconv --help` does not load torch. The imports above are for type checkers.
_HOME = {
    "ChannelGraph": "conversion.channels",
    "ChannelPlan": "conversion.channel_plan",
    "ChannelSet": "conversion.channels",
    "ConvOp": "core.operator",
    "ConvSpec": "core.spec",
    "Count": "core.count",
    "Group": "core.method",
    "Skipped": "core.method",
    "LeanconvError": "core.errors",
    "LeanLinear": "core.linear",
    "LinearOp": "core.operator",
    "Method": "core.method",
    "Plan": "conversion.plan",
    "PointwiseLinear": "core.pointwise",
    "Site": "core.method",
    "Task": "core.task",
    "TrainConfig": "train.config",
    "apply_channels_": "conversion.channel_plan",
    "bench": "inference.bench",
    "calibrate_": "conversion.calibrate",
    "channel_graph": "conversion.channels",
    "channel_plans": "conversion.channel_plan",
    "check": "conversion.check",
    "choose_orders": "search.order",
    "compare": "experiment.compare",
    "convert": "conversion.apply",
    "count": "core.count",
    "create_model": "models.create",
    "doctor": "models.doctor",
    "evaluate": "experiment.fit",
    "export": "deploy.export",
    "find_method": "ops",
    "find_models": "files.find",
    "fit": "experiment.fit",
    "forms_chosen": "inference.optimize",
    "from_pretrained": "files.hub",
    "get_task": "core.notes",
    "inspect": "analyse.converted",
    "lean": "budget.search",
    "list_methods": "ops",
    "list_models": "models.create",
    "load": "files.load",
    "load_checkpoint": "files.checkpoints",
    "narrower": "search.controls",
    "note_task": "models.task",
    "optimize": "inference.optimize",
    "penalty": "core.penalty",
    "permute_channels_": "search.order",
    "plan": "conversion.plan",
    "plan_channels": "search.pruning",
    "plan_of": "conversion.apply",
    "prune": "search.pruning",
    "push_to_hub": "files.hub",
    "reestimate_norms_": "conversion.calibrate",
    "repair_outputs_": "conversion.repair",
    "reproduce": "papers.reproduce",
    "save": "files.save",
    "set_task": "core.notes",
    "shallower": "search.controls",
    "summary": "timing.summary",
    "to_dense": "conversion.dense",
}
_PACKAGES = ("analyse", "budget", "detect", "experiment", "search")  # used as lc.search.faster_only(...)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"leanconv.{name}")
    if name in _HOME:
        value = getattr(import_module(f"leanconv.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name == "__all__":
        return sorted({*_HOME, *import_module("leanconv.ops").__all__})
    if name[:1].isupper():  # the class of an operator; or METHODS, which is not stored here, because the list grows
        ops = import_module("leanconv.ops")
        if name in ops.__all__:
            return getattr(ops, name)
    raise AttributeError(f"module 'leanconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__"), *_PACKAGES})
