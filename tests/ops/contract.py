"""What every method must do, over awkward convolutions: the cases and the network they stand in."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.operator import LinearOp

# Each is something that breaks a careless operator. Every one is accepted by nn.Conv2d.
SPECS: dict[str, lc.ConvSpec] = {
    "3x3": lc.ConvSpec(8, 16, (3, 3), padding=(1, 1), bias=False),
    "3x3 square": lc.ConvSpec(16, 16, (3, 3), padding=(1, 1), bias=False),
    "bias": lc.ConvSpec(8, 16, (3, 3), padding=(1, 1)),
    "stride 2": lc.ConvSpec(8, 16, (3, 3), (2, 2), (1, 1), bias=False),
    "stride (1, 2)": lc.ConvSpec(8, 8, (3, 3), (1, 2), (1, 1)),
    "stride 3": lc.ConvSpec(8, 8, (3, 3), (3, 3), (1, 1)),
    "dilation 2": lc.ConvSpec(8, 16, (3, 3), padding=(2, 2), dilation=(2, 2)),
    "stride 2 dilation 2": lc.ConvSpec(8, 16, (3, 3), (2, 2), (2, 2), (2, 2)),
    "3x1": lc.ConvSpec(8, 8, (3, 1), padding=(1, 0)),
    "1x1": lc.ConvSpec(8, 16, (1, 1)),
    "1x1 stride 2": lc.ConvSpec(8, 16, (1, 1), (2, 2), bias=False),
    "same": lc.ConvSpec(8, 8, (3, 3), padding="same"),
    "same, even kernel": lc.ConvSpec(8, 8, (2, 4), padding="same"),
    "same, circular": lc.ConvSpec(8, 8, (3, 3), padding="same", padding_mode="circular"),
    "reflect": lc.ConvSpec(8, 8, (3, 3), padding=(1, 1), padding_mode="reflect"),
    "replicate, stride 2": lc.ConvSpec(8, 8, (3, 3), (2, 2), (1, 1), padding_mode="replicate"),
    "no padding": lc.ConvSpec(8, 16, (3, 3)),
    "groups": lc.ConvSpec(8, 16, (3, 3), padding=(1, 1), groups=2),
    "depthwise": lc.ConvSpec(8, 8, (3, 3), padding=(1, 1), groups=8),
    "uneven": lc.ConvSpec(6, 10, (5, 5), padding=(2, 2)),
}
SIZES = [(8, 8), (7, 9), (3, 3)]
LAYERS = 3


@dataclass(frozen=True)
class Case:
    """One setting of a method, with the specs it must accept; all the others of `SPECS` it must reject."""

    method: lc.Method
    accepts: frozenset[str]


def case(method: lc.Method, *rejects: str) -> Case:
    unknown = set(rejects) - set(SPECS)
    assert not unknown, unknown
    accepts = frozenset(SPECS) - set(rejects)
    assert len(accepts) >= len(SPECS) / 2, f"{method.label()} rejects more than half of the specs"
    return Case(method, accepts)


_SPLIT_REJECTS = ("1x1", "1x1 stride 2", "stride 3", "no padding", "groups", "depthwise")
_BASIS_REJECTS = ("1x1", "1x1 stride 2", "groups", "depthwise")
CASES: list[Case] = [
    case(lc.TiedBlock(blocks=2), "depthwise"),
    case(lc.TiedBlock(blocks=4), "depthwise", "uneven"),
    case(lc.SharedBasis(shared=4, unique=2), *_BASIS_REJECTS),
    case(lc.SharedBasis(shared=3, unique=0, bases=2, norm=False), *_BASIS_REJECTS),
    case(lc.SharedBasis(shared=0, unique=3, penalty_weight=0.0), *_BASIS_REJECTS),
    case(lc.DepthShared()),
    case(lc.DepthShared(scope="stage", blend=True, penalty_weight=1.0), "groups", "depthwise"),
    case(lc.Split(), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.25, fusion=False), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.5, representative="chain"), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.3, representative="full"), *_SPLIT_REJECTS),
    case(lc.Split(ratio=0.5, redundant=False), *_SPLIT_REJECTS),
    case(lc.Split(ratio=1.0, groups=1), *_SPLIT_REJECTS),
    case(lc.Grouped(groups=2), "depthwise"),
    case(lc.Ghost(), "groups", "depthwise"),
    case(lc.Ghost(expansion=3, kernel_size=5, norm=False, activation=False), "groups", "depthwise"),
    case(lc.Het(part=2), "1x1", "1x1 stride 2", "depthwise"),
    case(lc.Het(part=4), "1x1", "1x1 stride 2", "depthwise", "uneven"),
    case(lc.Lego(splits=2, ratio=0.4), "groups", "depthwise"),
    case(lc.SoftShared(templates=2)),
    case(lc.FilterSummary(ratio=0.3)),
]
ACCEPTED = [(case.method, name) for case in CASES for name in SPECS if name in case.accepts]
REJECTED = [(case.method, name) for case in CASES for name in SPECS if name not in case.accepts]


def ids(pairs: list[tuple[lc.Method, str]]) -> list[str]:
    return [f"{method.label()}-{name}" for method, name in pairs]


def on(pairs: list[tuple[lc.Method, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("method", "name"), pairs, ids=ids(pairs))


each_accepted = on(ACCEPTED)
SOME = [(m, n) for m, n in ACCEPTED if n in ("3x3", "stride 2", "stride (1, 2)", "same, circular", "groups", "uneven")]
on_some = on(SOME)
# What takes a second each time: the first case of each method on all of these, its variants on two
FIRST = {type(case.method): case.method for case in reversed(CASES)}
FEW = [(m, n) for m, n in SOME if FIRST[type(m)] == m or n in ("stride 2", "same, circular")]
on_few = on(FEW)
LINEAR = [(m, n) for m, n in ACCEPTED if isinstance(m.build([SPECS[n]])[0], LinearOp)]
on_linear = on(LINEAR)


class Parallel(nn.Module):
    """Convolutions of one spec side by side on one input: a group for the methods that share, alone for the others."""

    def __init__(self, spec: lc.ConvSpec, layers: int = LAYERS) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(**spec.kwargs()) for _ in range(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(conv(x) for conv in self.convs)


def network(spec: lc.ConvSpec, dtype: torch.dtype = torch.float64) -> Parallel:
    torch.manual_seed(0)
    return Parallel(spec).to(dtype).eval()


def lean_network(
    method: lc.Method, spec: lc.ConvSpec, init: str = "fresh", dtype: torch.dtype = torch.float64
) -> nn.Module:
    """The converted network, its norms with statistics that are not the neutral ones."""
    model = network(spec, dtype)
    lean = lc.convert(model, lc.plan(model, method, input_size=(spec.in_channels, 8, 8)), init=init)
    if init == "fresh":
        unsettle_(lean)
    return lean


def unsettle_(model: nn.Module) -> None:
    """Give every norm and bias values that a forgotten term would show up with."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -1.0), (module.running_var, 0.5), (module.weight.data, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=generator))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator))


def image(spec: lc.ConvSpec, size: tuple[int, int] = (8, 8), n: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(n, spec.in_channels, *size, dtype=dtype)
