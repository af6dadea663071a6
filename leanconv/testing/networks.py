"""The network that the contract converts, and its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.conversion.apply import convert
from leanconv.conversion.plan import Plan, plan
from leanconv.core.errors import first_line
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.core.operator import LinearOp
from leanconv.core.spec import ConvSpec
from leanconv.testing.specs import LAYERS


class Parallel(nn.Module):
    """Parallel convolutions of one spec on one input; methods that share weights convert them as one group."""

    def __init__(self, spec: ConvSpec, layers: int = LAYERS) -> None:
        super().__init__()
        self.convs: Any = nn.ModuleList(nn.Conv2d(**spec.kwargs()) for _ in range(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(conv(x) for conv in self.convs)


class Mixed(nn.Module):
    """Convolutions of several specs, two of each, side by side on as many channels of one input as each takes."""

    def __init__(self, specs: Sequence[ConvSpec]) -> None:
        super().__init__()
        self.convs: Any = nn.ModuleList(nn.Conv2d(**spec.kwargs()) for spec in specs for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(conv(x[:, : conv.in_channels]) for conv in self.convs)


def network(spec: ConvSpec, dtype: torch.dtype = torch.float64) -> Any:
    """Three dense convolutions of this spec, in eval mode, with the same weights each time."""
    torch.manual_seed(0)
    return in_eval(Parallel(spec).to(dtype))


def plan_for(model: nn.Module, method: Method, spec: ConvSpec, size: tuple[int, int] = (8, 8)) -> Plan:
    """The plan of `method` for a network of `network`, on a map of `size` (height, width)."""
    return plan(model, method, input_size=(spec.in_channels, *size))


def lean_network(
    method: Method, spec: ConvSpec, init: Literal["fit", "fresh"] = "fresh", dtype: torch.dtype = torch.float64
) -> Any:
    """The converted network of `network`. With fresh weights, its normalisation layers get statistics other than 0 and 1."""
    model = network(spec, dtype)
    lean = convert(model, plan_for(model, method, spec), init=init)
    if init == "fresh":
        unsettle_(lean)
    return lean


def is_linear(method: Method, spec: ConvSpec) -> bool:
    """Whether the method's operator equals a dense convolution."""
    return isinstance(method.build([spec])[0], LinearOp)


def unsettle_(model: nn.Module) -> None:
    """Give every normalisation layer and bias values other than 0 and 1, so that a forgotten term changes the output."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for tensor, low in ((module.running_mean, -1.0), (module.running_var, 0.5), (module.weight.data, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=generator))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator))


def image(spec: ConvSpec, size: tuple[int, int] = (8, 8), n: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random batch for a network of `network`: (n, in_channels, *size), the same each time."""
    torch.manual_seed(2)
    return torch.randn(n, spec.in_channels, *size, dtype=dtype)


def still_norms(lean: nn.Module, training: bool) -> nn.Module:
    """Set `lean` to training or eval mode; in training mode its normalisation layers do not update their statistics."""
    lean.train(training)
    for module in lean.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return lean


def require(condition: bool, message: str) -> None:
    """Raise AssertionError with this message unless the condition holds, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def close(found: Any, wanted: Any, what: str, tolerance: float = 1e-9) -> None:
    """Raise AssertionError unless two tensors, or two rows of them, are equal up to rounding."""
    pairs = [(found, wanted)] if isinstance(found, Tensor) else zip(found, wanted, strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=partial(_differs, a, b, what, tolerance))


def _differs(found: Tensor, wanted: Tensor, what: str, tolerance: float, text: str) -> str:
    """By how much they differ, in one line; torch spreads it over several."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype or found.device != wanted.device:
        return f"{what}: {first_line(AssertionError(text))}"
    most, size = float((found - wanted).abs().max()), float(wanted.abs().max())
    return f"{what}: they differ by up to {most:.2g}, at values of up to {size:.2g}; {tolerance:.0e} is allowed"
