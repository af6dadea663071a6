"""ShardNet: layers at different depths of a network share one set of filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.method import Group, Method, Site, Skipped, by_stage
from leanconv.core.moments import solved, with_bias
from leanconv.core.operator import LinearOp
from leanconv.core.penalty import PenaltyTerm, gram_error, orthonormal
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_choice, check_weight
from leanconv.core.sharing import lend
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.traits import Blending
from leanconv.core.weight import WeightView
from leanconv.ops.least_squares import Stats

__all__ = ["DepthShared", "DepthSharedConv2d"]


class ConvBank(nn.Module):
    """The weight and the bias that several convolutions share.

    Args:
        weight_shape: (out, in / groups, kh, kw).
        bias: whether the convolutions have a bias.
        penalty_weight: weight of the orthogonality penalty on the rows of the weight; 0 for none.
    """

    def __init__(self, weight_shape: tuple[int, int, int, int], bias: bool, penalty_weight: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(weight_shape))
        self.bias = nn.Parameter(torch.empty(weight_shape[0])) if bias else None
        self.penalty_weight = penalty_weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weight: Kaiming normal over the fan out, or orthogonal rows if there is a penalty. The bias is 0."""
        if self.penalty_weight:
            with torch.no_grad():
                self.weight.copy_(orthonormal(self.weight))
        else:
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def penalty_terms(self) -> list[PenaltyTerm]:
        """The orthogonality penalty; the kernel and the change of width decide to which mean the term belongs."""
        if not self.penalty_weight:
            return []
        rows, width, kh, kw = self.weight.shape
        change = "widens" if rows > width else "narrows" if rows < width else "keeps"
        if width == 1 and kh * kw > 1:
            change = "depthwise"
        kind = f"depth_shared {kh}x{kw} {change}"
        return [PenaltyTerm(kind, self.penalty_weight, gram_error(self.weight.flatten(1)), rows**2)]


def shared_names(layer: NamedLayer) -> tuple[str, ...]:
    """Possible names of a layer's shared weight in the release of the filter bases; they hold the number of the layer."""
    inside, number = f"{layer.block}." if layer.block else "", layer.number()
    return tuple(f"{inside}shared_basis{suffix}.weight" for suffix in (f"_{number}", str(number), ""))


class DepthSharedConv2d(LinearOp, Blending):
    """A convolution whose weight is in a bank that other layers use too.

        y = blend(conv(x, bank.weight) + bank.bias)

    Each layer has its own stride, padding and dilation. blend is this layer's own 1x1 convolution; by default there is none.

    Args:
        bank: the shared weight; None makes a new bank, which this layer owns.
        blend: whether a 1x1 convolution without bias follows; it starts as the identity.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        SettingError: the bank has another shape than this convolution.

    Source: "ShardNet", sections 3.1 and 3.2 (shared and blending layers); "Deeply shared filter bases", section 4.2 (whole
    convolutions that are shared by their position in the bottleneck).

    >>> first = DepthSharedConv2d(16, 16, 3, padding=1)
    >>> second = DepthSharedConv2d(16, 16, 3, padding=1, bank=first.bank)
    >>> second.weight is first.weight
    True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        bank: ConvBank | None = None,
        blend: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        if bank is None:
            self.bank = ConvBank(self.spec.weight_shape, bias)
        elif bank.weight.shape != self.spec.weight_shape or (bank.bias is not None) != bias:
            raise SettingError(
                f"a bank of shape {tuple(bank.weight.shape)} cannot serve a convolution of weight shape "
                f"{self.spec.weight_shape} and bias={bias}; share among convolutions of one shape"
            )
        else:
            self.__dict__["bank"] = bank  # a reference: the owner registers it
        self.blend = nn.Parameter(torch.empty(out_channels, out_channels, 1, 1)) if blend else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the blend to the identity; the bank initialises itself."""
        if self.blend is not None:
            nn.init.dirac_(self.blend)

    def settings(self) -> dict[str, Any]:
        return {"blend": self.blend is not None}

    def settings_repr(self) -> str:
        return "owner" if "bank" in self._modules else "borrowed"

    @property
    def weight(self) -> Tensor | WeightView:
        """The shared weight; with a blend, the dense weight of convolution and blend, for code that reads it."""
        return self.bank.weight if self.blend is None else WeightView(self, self.blend)

    @property
    def bias(self) -> Tensor | None:
        return self.bias_dense()

    def convolve(self, x: Tensor) -> Tensor:
        y = self.conv2d(x, self.bank.weight, self.bank.bias, self.groups)
        return y if self.blend is None else nn.functional.conv2d(y, self.blend)

    def blending_weights(self) -> list[nn.Parameter]:
        return [] if self.blend is None else [self.blend]

    def weight_dense(self) -> Tensor:
        weight = self.bank.weight
        if self.blend is None:
            return weight
        if self.groups > 1:
            raise SettingError(
                "a blended grouped convolution is dense across groups; it has no weight of the host's shape"
            )
        return torch.einsum("om,mikl->oikl", self.blend.flatten(1), weight)

    def bias_dense(self) -> Tensor | None:
        bias = self.bank.bias
        return bias if bias is None or self.blend is None else self.blend.flatten(1) @ bias

    def rescale_(self, scale: Tensor) -> bool:
        if self.blend is None:
            return False
        self.blend.mul_(scale.view(-1, 1, 1, 1))
        return True

    def release_places(self, layer: NamedLayer) -> list[Place]:
        bank, own = f"{layer.named(self.bank)}.weight", f"{layer.name}."
        kept = (key for key in layer.keys if key.startswith(own) and key != f"{own}bank.weight")
        return [Place(bank, (bank, *shared_names(layer)), (0, len(self.bank.weight))), *layer.plain(kept)]


class PaddedDepthSharedConv2d(LinearOp):
    """The first layer of a shared convolution, whose input is an image padded with empty channels.

        y = conv(pad(x), bank.weight) + bank.bias = conv(x, bank.weight[:, :in_channels]) + bank.bias

    Empty channels add nothing, so this layer computes only with the first `in_channels` channels of the weight.

    Args:
        bank: the shared weight; this layer owns the bank.

    Shape:
        x: (N, in_channels, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        SettingError: the bank has fewer input channels than the image.

    Source: "ShardNet", section 3 ("we pad the input image with empty channels"). The paper multiplies by the empty channels.
    """

    def __init__(self, in_channels: int, bank: ConvBank, stride: int | Pair = 1, padding: int | Pair | str = 0) -> None:
        out_channels, width, *kernel_size = bank.weight.shape
        if in_channels > width:
            raise SettingError(
                f"in_channels={in_channels} must not exceed the {width} channels of the shared weight; take a wider one"
            )
        size: Pair = (kernel_size[0], kernel_size[1])
        super().__init__(in_channels, out_channels, size, stride, padding, 1, 1, bank.bias is not None, "zeros")
        self.bank = bank

    def settings(self) -> dict[str, Any]:
        return {}

    def settings_repr(self) -> str:
        return "owner, padded image"

    @property
    def weight(self) -> Tensor:
        return self.weight_dense()

    @property
    def bias(self) -> Tensor | None:
        return self.bank.bias

    def convolve(self, x: Tensor) -> Tensor:
        return self.conv2d(x, self.weight_dense(), self.bank.bias)

    def weight_dense(self) -> Tensor:
        return self.bank.weight[:, : self.in_channels]

    def bias_dense(self) -> Tensor | None:
        return self.bank.bias


@dataclass(frozen=True)
class DepthShared(Method):
    """One weight for all convolutions of one shape in the whole network or in a stage (ShardNet).

    A group has the parameters of one convolution, plus O**2 for each blend. MACs are those of the dense layers, plus O**2 for
    each output position of a blend. Norms are not shared. A convolution stays dense if no other convolution has its shape.

    Args:
        scope: "network" or "stage": where a weight is shared.
        blend: whether the last layer of each stage gets its own 1x1 convolution, which starts as the identity. In a plan, a
            tuple lists the positions in the group that have a blend. (The networks of the paper place the blend after the
            norm and the activation, before a pooling, and have no blend after the last stage.)
        penalty_weight: weight of the orthogonality penalty on the shared weights; 0 for none.

    Source: "ShardNet"; with a penalty and a `where` by bottleneck position, "Deeply shared filter bases", section 4.2.
    """

    scope: Literal["network", "stage"] = "network"
    blend: bool | tuple[int, ...] = False
    penalty_weight: float = 0.0

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, ("network", "stage"))
        if not isinstance(self.blend, bool) and not _positions(self.blend):
            raise SettingError(f"blend={self.blend!r} must be true, false or positions in the group")
        check_weight("penalty_weight", self.penalty_weight)

    def reject(self, spec: ConvSpec) -> str | None:
        if self.blend and spec.groups > 1:
            return f"a blend would mix the {spec.groups} groups of this convolution; use blend=False"
        return None

    def group(self, sites: Sequence[Site]) -> tuple[list[Group], list[Skipped]]:
        accepted, kept = self.accept(sites)
        if self.scope == "stage" or self.blend:
            by_stage(self, accepted)
        alike: dict[tuple[object, ...], list[Site]] = {}
        for site in accepted:
            spec = site.spec
            where = site.stage if self.scope == "stage" else None
            alike.setdefault((where, spec.weight_shape, spec.groups, spec.bias), []).append(site)
        groups = []
        for members in alike.values():
            if len(members) == 1:
                kept.append(
                    Skipped(members[0], f"nothing to share with: no other {members[0].layer} in its {self.scope}")
                )
            else:
                groups.append(Group(self._resolved(members), tuple(members)))
        return groups, kept

    def _resolved(self, sites: Sequence[Site]) -> DepthShared:
        if self.blend is not True:
            return self
        last_use = {site.stage: index for index, site in enumerate(sites)}
        return replace(self, blend=tuple(sorted(last_use.values())))

    def _blended(self, specs: Sequence[ConvSpec]) -> list[bool]:
        blend = (len(specs) - 1,) if self.blend is True else self.blend or ()
        if any(index >= len(specs) for index in blend):
            raise SettingError(f"blend={blend} names a position outside a group of {len(specs)}")
        return [index in blend for index in range(len(specs))]

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        bank = ConvBank(specs[0].weight_shape, specs[0].bias, self.penalty_weight)
        modules: list[nn.Module] = [
            DepthSharedConv2d(**spec.kwargs(), bank=bank, blend=blend)
            for spec, blend in zip(specs, self._blended(specs), strict=True)
        ]
        lend(bank, modules)
        return modules

    def params(self, specs: Sequence[ConvSpec]) -> int:
        return specs[0].params() + sum(self._blended(specs)) * specs[0].out_channels ** 2

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        spec = specs[index]
        return spec.macs(out_hw) + self._blended(specs)[index] * spec.out_channels**2 * out_hw[0] * out_hw[1]

    def not_nearest(self) -> str | None:
        return "blends start as the identity, so that training starts from the mean" if self.blend else None

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return DepthShared()  # for a single layer

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Set the shared weight to the mean of the dense weights, the nearest in the Frobenius norm; blends to the identity.

        With `stats`, the shared weight is (sum over layers of W_i S_i) (sum over layers of S_i)⁻¹. A shared bias is the
        weight of an input that is always 1.
        """
        first = modules[0]
        assert isinstance(first, DepthSharedConv2d)
        bank = first.bank
        if stats is None:
            bank.weight.copy_(torch.stack([conv.weight for conv in convs]).mean(0))
            if bank.bias is not None:
                bank.bias.copy_(torch.stack([conv.bias for conv in convs if conv.bias is not None]).mean(0))
        else:
            metrics = [moments.augmented(bank.bias is not None) for moments in stats]
            right = sum(with_bias(conv) @ metric for conv, metric in zip(convs, metrics, strict=True))
            assert isinstance(right, Tensor)
            rows = solved(right, torch.stack(metrics).sum(0)).flatten(0, 1)
            bank.weight.copy_(rows[:, : bank.weight[0].numel()].reshape_as(bank.weight))
            if bank.bias is not None:
                bank.bias.copy_(rows[:, -1])
        for module in modules:
            module.reset_parameters()  # type: ignore[operator]


def _positions(value: object) -> bool:
    """Whether `value` is a tuple of whole numbers of at least 0."""
    return isinstance(value, tuple) and all(type(index) is int and index >= 0 for index in value)
