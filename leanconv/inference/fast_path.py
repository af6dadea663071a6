"""Which convolutions a runtime computes slowly because of their widths, with the reason.

Source: the kernels that each runtime picked on AVX-512 without AMX (ONNX Runtime 1.31: its optimised graph; OpenVINO 2026.4 and
torch 2.15: the primitives of oneDNN); a test asks ONNX Runtime and OpenVINO again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from leanconv.core.modes import evaluating
from leanconv.core.operator import ConvOp
from leanconv.core.settings import check_choice
from leanconv.core.spec import ConvSpec
from leanconv.inference.forms import forms_of

LANES = 16  # float32 numbers of an AVX-512 vector
LEAST_FILLED = 0.8  # a convolution that fills less of its vectors is marked


def off_fast_path(spec: ConvSpec, runtime: str) -> str | None:
    """The reason why `runtime` computes a convolution slowly for its MACs, in float32 with AVX-512; None if it does not.

    Args:
        spec: a plain convolution, as the runtime gets it.
        runtime: one of `RULES`.

    >>> off_fast_path(ConvSpec(64, 64, 3, groups=2), "onnxruntime")
    >>> off_fast_path(ConvSpec(72, 72, 3, groups=4), "onnxruntime")
    '18 channels a group: no multiple of 16, so the map leaves the blocked layout NCHWc and returns'
    """
    check_choice("runtime", runtime, tuple(RULES))
    return RULES[runtime](spec)


def slow_layers(model: nn.Module, runtime: str) -> dict[str, str]:
    """The convolutions of a network that are off the fast path of `runtime`, by name, with the reason.

    An operator counts with the convolutions of its default form, which an export has (`leanconv.inference.forms`). The model
    may be on the meta device.

    >>> net = nn.Sequential(nn.Conv2d(16, 72, 1), nn.Conv2d(72, 72, 3, groups=4))
    >>> slow_layers(net, "openvino")
    {'1': '18 channels a group fill 18 of the 32 lanes of 2 vectors'}
    """
    found: dict[str, str] = {}
    inside: set[int] = set()
    with evaluating(model), torch.no_grad():
        for name, module in model.named_modules():
            if id(module) in inside:
                continue
            specs: list[ConvSpec] = []
            if isinstance(module, ConvOp):
                specs = _computed(module)
                inside.update(map(id, module.modules()))
            elif isinstance(module, nn.Conv2d):
                specs = [ConvSpec.of(module)]
            reason = next((said for spec in specs if (said := off_fast_path(spec, runtime)) is not None), None)
            if reason is not None:
                found[name] = reason
    return found


def _computed(op: ConvOp) -> list[ConvSpec]:
    """The specs of the plain convolutions in the default form of an operator."""
    form = next(iter(forms_of(op).values()), lambda: op)()
    return [ConvSpec.of(module) for module in form.modules() if isinstance(module, nn.Conv2d)]


def _widths(spec: ConvSpec) -> tuple[int, int]:
    return spec.in_channels // spec.groups, spec.out_channels // spec.groups


def _onnxruntime(spec: ConvSpec) -> str | None:
    """MLAS's blocked layout NCHWc takes whole vectors in each group, or inputs in multiples of 4 without groups."""
    inputs, outputs = _widths(spec)
    leaves = f"no multiple of {LANES}, so the map leaves the blocked layout NCHWc and returns"
    if spec.groups == 1:
        if inputs > LANES and inputs % 4:
            return f"{inputs} input channels: no multiple of 4, so the map leaves the blocked layout NCHWc and returns"
        return None
    if inputs == outputs == 1:
        return f"depthwise, {spec.groups} channels: {leaves}" if spec.groups % LANES else None
    width = next((width for width in (inputs, outputs) if width % LANES), None)
    return None if width is None else f"{width} channels a group: {leaves}"


def _onednn(spec: ConvSpec) -> str | None:
    """oneDNN refuses narrow groups in its fastest kernels, and computes whole vectors of outputs."""
    inputs, outputs = _widths(spec)
    if spec.groups > 1 and inputs == 1:
        return None  # its own depthwise kernel
    if spec.groups > 1 and min(inputs, outputs) < LANES:
        return (
            f"{min(inputs, outputs)} channels a group fill no vector of {LANES}; a vector of fewer lanes computes them"
        )
    vectors = -(-outputs // LANES)
    if outputs / (vectors * LANES) >= LEAST_FILLED or spec.out_channels < LANES:
        return None
    channels = "channels a group fill" if spec.groups > 1 else "output channels fill"
    return f"{outputs} {channels} {outputs} of the {vectors * LANES} lanes of {vectors} vectors"


RULES: Mapping[str, Callable[[ConvSpec], str | None]] = MappingProxyType(
    {"eager": _onednn, "compile": _onednn, "onnxruntime": _onnxruntime, "openvino": _onednn}
)
