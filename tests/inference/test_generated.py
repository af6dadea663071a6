"""Two branches on the parts of one map, in all combinations of how such code is written: each equal to its network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leanconv as lc
from leanconv.inference.optimize import not_rewritten, optimize
from tests.ops.contract import unsettle_


def two(parts: Any) -> tuple[Tensor, ...]:
    first, second = parts
    return first, second


def three(parts: Any) -> tuple[Tensor, ...]:
    first, second, third = parts
    return first, second, third


SPLITS: dict[str, Callable[[Tensor], Any]] = {
    "chunk": lambda x: two(x.chunk(2, 1)),
    "chunk by keyword": lambda x: two(torch.chunk(input=x, chunks=2, dim=1)),
    "chunk of a negative dim": lambda x: two(torch.chunk(x, 2, -3)),
    "split": lambda x: two(x.split(4, 1)),
    "split of sizes": lambda x: two(torch.split(x, [2, 6], dim=1)),
    "split by keyword": lambda x: two(torch.split(tensor=x, split_size_or_sections=[4, 4], dim=1)),
    "slices": lambda x: (x[:, :4], x[:, 4:]),
    "uneven chunks": lambda x: three(torch.chunk(x, 3, 1))[:2],  # 3, 3 and 2 channels, of which two are used
    "getitem from the end": lambda x: (x.chunk(2, 1)[-2], x.chunk(2, 1)[-1]),
    "in three": lambda x: three(x.split([4, 2, 2], 1)),
}
WIDTHS = {"split of sizes": (2, 6), "uneven chunks": (3, 3), "in three": (4, 2, 2)}
JOINS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "cat": lambda maps: torch.cat(maps, 1),
    "cat by keyword": lambda maps: torch.cat(tensors=maps, dim=1),
    "cat of images": lambda maps: torch.cat(maps),
    "cat of rows": lambda maps: torch.cat(maps, dim=2),
    "cat of columns": lambda maps: torch.cat(maps, -1),
    "concat of a negative dim": lambda maps: torch.concat(maps, dim=-3),
    "cat by axis": lambda maps: torch.cat(maps, axis=1),
    "the other way round": lambda maps: torch.cat(maps[::-1], 1),
    "one twice": lambda maps: torch.cat([*maps, maps[0]], 1),
    "sum": lambda maps: sum(maps[1:], maps[0]),
}


@dataclass(frozen=True)
class Kind:
    """A network with two branches, each with or without a bias and a norm."""

    split: str = "chunk"
    join: str = "cat"
    biases: tuple[bool, bool] = (True, True)
    norms: tuple[bool, bool] = (True, True)
    relu: str = "none"
    keyword: bool = False
    conv: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        sides = "".join("bn"[place] if on else "-" for place in (0, 1) for on in (self.biases, self.norms)[place])
        return ", ".join(
            [self.split, self.join, sides, self.relu, *(["keyword"] if self.keyword else []), *map(str, self.conv)]
        )


class Two(nn.Module):
    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        widths = WIDTHS.get(kind.split, (4, 4))
        settings = {"kernel_size": 3, "padding": 1} | dict(kind.conv)
        groups = settings.pop("groups", 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, 6, bias=kind.biases[i % 2], groups=groups if width % groups == 0 else 1, **settings)
            for i, width in enumerate(widths)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(6) if kind.norms[i % 2] else nn.Identity() for i in range(len(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        kind, maps = self.kind, []
        for part, conv, norm in zip(SPLITS[kind.split](x), self.convs, self.norms):  # noqa: B905
            y = norm(input=conv(input=part)) if kind.keyword else norm(conv(part))
            if kind.relu != "none":
                y = {"relu": F.relu, "in place": lambda v: F.relu(v, inplace=True), "method": lambda v: v.relu_()}[
                    kind.relu
                ](y)
            maps.append(y)
        return JOINS[kind.join](maps)


KINDS = [
    *(Kind(split, join) for split, join in itertools.product(SPLITS, JOINS)),
    *(
        Kind("chunk", "cat", biases, norms, relu, keyword)
        for biases, norms, relu, keyword in itertools.product(
            itertools.product((True, False), repeat=2), itertools.product((True, False), repeat=2),
            ("none", "relu", "in place", "method"), (False, True),
        )
    ),
    *(
        Kind("split", "cat", biases, conv=tuple(conv.items()))
        for biases in ((True, False), (False, False))
        for conv in (
            {"stride": 2}, {"groups": 2}, {"kernel_size": 1, "padding": 0}, {"kernel_size": (3, 1), "padding": (1, 0)},
            {"dilation": 2, "padding": 2}, {"padding": "same"}, {"padding_mode": "reflect"}, {"kernel_size": 5, "padding": 2},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_two_branches_give_the_same(kind: Kind) -> None:
    model = Two(kind).eval()
    unsettle_(model)
    x = torch.randn(2, 8, 7, 6)
    fast = optimize(model, x, measured=False, cache=None)
    other = torch.randn(1, 8, 9, 8)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast(other), model(other), rtol=1e-4, atol=1e-5)
    assert not not_rewritten(fast)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())


@pytest.mark.parametrize("biases", [*itertools.product((True, False), repeat=2)], ids=str)
@pytest.mark.parametrize("norms", [*itertools.product((True, False), repeat=2)], ids=str)
def test_a_branch_without_bias_and_norm_is_merged_too(biases: tuple[bool, bool], norms: tuple[bool, bool]) -> None:
    model = Two(Kind(biases=biases, norms=norms)).eval()
    unsettle_(model)
    fast = optimize(model, torch.randn(1, 8, 6, 6), measured=False, cache=None)
    (conv,) = [module for module in fast.modules() if isinstance(module, nn.Conv2d)]
    assert (conv.in_channels, conv.out_channels, conv.groups) == (8, 12, 2)
    assert (conv.bias is not None) == any((*biases, *norms))


def _block(conv: nn.Module | None = None, norm: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(conv or nn.Conv2d(4, 4, 3, padding=1), norm or nn.BatchNorm2d(4))


class Shared(nn.Module):
    """Called twice, with a residual in place, an uneven chunk, and a norm read elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = _block(), _block()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y += x
        y = self.a(y.relu_())
        return self.b(y).add_(self.b[1].running_mean.view(1, -1, 1, 1))


class ReadsWeight(nn.Module):
    """The convolution's weight is used beside the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a = _block()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + F.conv2d(x, self.a[0].weight, padding=1)


class SplitInPlace(nn.Module):
    """One part is changed after the other was used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        first, second = x.chunk(2, 1)
        y = self.a(first)
        x.add_(1)
        return torch.cat([y, self.b(second)], 1)


class Own(nn.Conv2d):
    """A subclass that pads by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class SameConv(nn.Conv2d):
    """A subclass that computes what a convolution does."""


class Scaled(nn.Conv2d):
    """A subclass that changes its weight on the way."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * 2, bias)


def patched() -> nn.Module:
    """A convolution of which one object has another forward."""
    conv = nn.Conv2d(4, 4, 3, padding=1)
    conv.forward = lambda x: F.conv2d(x, conv.weight * 2, conv.bias, padding=1)
    return _block(conv)


def hooked() -> nn.Module:
    block = _block()
    block[0].register_forward_hook(lambda module, args, output: output * 2)
    return block


def outer_hook() -> nn.Module:
    block = _block()
    block.register_forward_hook(lambda module, args, output: output * 2)
    return nn.Sequential(_block(), block)


def normed() -> nn.Module:
    return nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)), nn.BatchNorm2d(4))


def in_training() -> nn.Module:
    """A norm that eval mode does not reach."""

    class Stays(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Stays:
            return super().train(True)

    return _block(norm=Stays(4, momentum=0.0))


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = _block(), _block()

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.a(x)
        return {"maps": [y, self.b(y)], "mean": y.mean((2, 3)), "class": self.b(y).mean((2, 3)).argmax(1)}


class Defaults(nn.Module):
    """What it is not given has its default, and is not taken for something."""

    def __init__(self) -> None:
        super().__init__()
        self.a = _block()

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0, twice: bool = False) -> Tensor:
        y = self.a(x) * scale
        if mask is not None:
            y = y * mask
        return y + y if twice else y


ODD: dict[str, Callable[[], nn.Module]] = {
    "shared and in place": Shared,
    "a weight that is read": ReadsWeight,
    "a subclass that pads": lambda: _block(Own(4, 4, 3)),
    "a subclass that does nothing": lambda: _block(SameConv(4, 4, 3, padding=1)),
    "a subclass with another weight": lambda: _block(Scaled(4, 4, 3, padding=1)),
    "another forward on an object": patched,
    "a hook on a convolution": hooked,
    "a hook on a block": outer_hook,
    "weight_norm": normed,
    "a norm in training": in_training,
    "no running statistics": lambda: _block(norm=nn.BatchNorm2d(4, track_running_stats=False)),
    "no scale and shift": lambda: _block(norm=nn.BatchNorm2d(4, affine=False)),
    "group norm": lambda: _block(norm=nn.GroupNorm(2, 4)),
    "instance norm": lambda: _block(norm=nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "dropout between": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.Dropout(0.5), nn.Identity(), nn.BatchNorm2d(4)),
    "norm after norm": lambda: nn.Sequential(*_block(), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
    "transposed": lambda: _block(nn.ConvTranspose2d(4, 4, 3)),
    "a dictionary": Dictionary,
    "defaults": Defaults,
    "one convolution": lambda: nn.Conv2d(4, 4, 3),
    "one lean operator": lambda: lc.TiedBlockConv2d(4, 4, 3, blocks=2),
    "one norm": lambda: nn.BatchNorm2d(4),
    "nothing": nn.Identity,
    "split, instance norm inside": lambda: _swapped(nn.InstanceNorm2d),
    "split, no running statistics inside": lambda: _swapped(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "split, group norm inside": lambda: _swapped(lambda c: nn.GroupNorm(2, c)),
}


def _swapped(norm: Callable[[int], nn.Module]) -> nn.Module:
    op = lc.SplitConv2d(4, 4, 3, padding=1)
    op.norm3, op.norm1 = norm(4), norm(4)
    return nn.Sequential(op, nn.BatchNorm2d(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ODD)
def test_what_networks_also_do_gives_the_same(name: str, dtype: torch.dtype) -> None:
    model = ODD[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model = model.to(dtype)
    x = torch.randn(2, 4, 8, 8, dtype=dtype)
    fast = optimize(model, x, measured=False, cache=None)
    with torch.no_grad():
        found, expected = fast(x.clone()), model(x.clone())
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 0.1}[dtype]
    if isinstance(expected, dict):
        assert torch.equal(found.pop("class"), expected.pop("class")) or dtype == torch.bfloat16
        expected.pop("class", None)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_parts_of_a_map_that_change_in_between_are_not_merged() -> None:
    model = SplitInPlace().eval()
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(optimize(model, x, measured=False, cache=None)(x), model(x))
