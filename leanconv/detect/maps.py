"""The feature maps of a detector as a module of its own, whose layers become lean, and the way back to a detector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import fx, nn

from leanconv.conversion.apply import convert, plan_of
from leanconv.conversion.channel_plan import apply_channels_, channel_plans
from leanconv.conversion.plan import Plan
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.linear import LeanLinear
from leanconv.core.modes import evaluating, in_eval
from leanconv.core.operator import ConvOp
from leanconv.core.record import get_record, set_record
from leanconv.core.state import versioned
from leanconv.detect.backbone import PyramidBackbone
from leanconv.detect.detector import describe_detector, described_detector

PYRAMID = "fpn"  # the name of the pyramid among the layers of the backbone


class _Chain(nn.Module):
    """A backbone, and the pyramid on it."""

    def __init__(self, body: nn.Module, fpn: nn.Module | None) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(self, x: Any) -> Any:
        maps = self.body(x)
        return maps if self.fpn is None else self.fpn(maps)


class _Tracer(fx.Tracer):
    """Traces into everything but torch's layers, leanconv's operators, and the layers that are not traced in the body."""

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__()
        called = (str(node.target) for node in body.graph.nodes if node.op == "call_module")
        self.whole = {id(body.get_submodule(name)) for name in called}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if id(m) in self.whole or isinstance(m, ConvOp | LeanLinear):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def maps_of(detector: nn.Module, pyramid: bool = False) -> fx.GraphModule:
    """The module that computes the feature maps of `detector` in eval mode; its layers are the detector's own.

    Layers have the names that they have in the network of the backbone; those of the pyramid begin with "fpn.".

    Args:
        detector: built by `create_detector`.
        pyramid: the maps of the pyramid in place of those of the backbone.

    Shape:
        (N, 3, H, W), with the detector's normalisation -> {"0": (N, C, H / 4, W / 4), ...}.

    Raises:
        SettingError: the network has a module named "fpn" itself, and `pyramid` is set.
    """
    backbone = _backbone(detector)
    body = cast(fx.GraphModule, backbone.body)
    if pyramid and hasattr(body, PYRAMID):
        raise SettingError(f"a module of the backbone is named {PYRAMID!r}, as the pyramid is; give it another name")
    with evaluating(backbone):
        chain = _Chain(body, backbone.fpn if pyramid else None)
        graph = _Tracer(body).trace(chain)
    root = nn.Module()
    for name, module in body.named_children():
        root.add_module(name, module)
    for name, parameter in body.named_parameters(recurse=False):
        root.register_parameter(name, parameter)
    for name, buffer in body.named_buffers(recurse=False):
        root.register_buffer(name, buffer)
    if pyramid:
        root.add_module(PYRAMID, backbone.fpn)
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = str(node.target).removeprefix("body.")
    maps = in_eval(fx.GraphModule(root, graph, "FeatureMaps"))
    set_record(maps, replace(get_record(maps), channels=channel_plans(backbone.network)))
    return maps


def with_maps(detector: nn.Module, maps: nn.Module) -> nn.Module:
    """A copy of a dense detector with the layers and the weights of `maps`; the lean layers are trained, frozen or not.

    Args:
        detector: the dense detector.
        maps: a converted or narrower copy of `maps_of(detector)`, with or without the pyramid.

    Raises:
        SettingError: channels of the pyramid were removed.
    """
    if len(channel_plans(maps)) > len(channel_plans(_backbone(detector).network)) and hasattr(maps, PYRAMID):
        raise SettingError("channels of a pyramid cannot be removed; leave the pyramid out (pyramid=False)")
    own, of_pyramid = _parted(plan_of(maps))
    network = copied(_backbone(detector).network)
    for channels in channel_plans(maps)[len(channel_plans(network)) :]:
        network = apply_channels_(network, channels)
    made = described_detector(describe_detector(detector), convert(network, own) if own.groups else network)
    if of_pyramid.groups:
        convert_pyramid_(made, of_pyramid)
    state = dict(detector.state_dict())
    taken = ("backbone.body.", "backbone.fpn.") if hasattr(maps, PYRAMID) else ("backbone.body.",)
    state = {name: value for name, value in state.items() if not name.startswith(taken)}
    for name, value in maps.state_dict().items():
        state[f"backbone.{name}" if name.startswith(f"{PYRAMID}.") else f"backbone.body.{name}"] = value
    made.load_state_dict(versioned(made, state))
    for module in _backbone(made).modules():
        if isinstance(module, ConvOp | LeanLinear):
            module.requires_grad_(True)
    return in_eval(made)


def convert_pyramid_(detector: nn.Module, plan: Plan) -> None:
    """Convert the pyramid of `detector`, in place; the names in `plan` are those in the pyramid."""
    backbone = _backbone(detector)
    backbone.fpn = cast(Any, convert(backbone.fpn, plan))


def clear_head_(detector: nn.Module) -> None:
    """Set the weights of the network behind the last feature map to 0.

    They are no part of the detector and of its file, so a loaded detector has others each time.
    """
    backbone = _backbone(detector)
    used = {id(parameter) for parameter in backbone.body.parameters()}
    for parameter in backbone.network.parameters():
        if id(parameter) not in used:
            parameter.data.zero_()


def _backbone(detector: nn.Module) -> PyramidBackbone:
    found = detector.backbone
    assert isinstance(found, PyramidBackbone)
    return found


def _parted(plan: Any) -> tuple[Plan, Plan]:
    """The plan of the network, and the plan of the pyramid with its own names."""
    if plan is None:
        return Plan((), ()), Plan((), ())
    prefix = f"{PYRAMID}."
    parts = []
    for wanted in (False, True):
        groups = [group for group in plan.groups if group.sites[0].name.startswith(prefix) == wanted]
        kept = [item for item in plan.kept if item.site.name.startswith(prefix) == wanted]
        parts.append(
            Plan(
                tuple(replace(group, sites=tuple(_renamed(site) for site in group.sites)) for group in groups),
                tuple(replace(item, site=_renamed(item.site)) for item in kept),
                None if wanted else plan.input_size,
            )
        )
    return parts[0], parts[1]


def _renamed(site: Any) -> Any:
    return replace(site, name=site.name.removeprefix(f"{PYRAMID}."))
