"""ShardNet: layers at different depths of a network share one set of filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.core.affine import Affine
from leanconv.core.errors import SettingError
from leanconv.core.method import Group, Method, Site, Skipped, by_stage
from leanconv.core.moments import by_group, with_bias
from leanconv.core.operator import Forms, LinearOp
from leanconv.core.penalty import PenaltyTerm, gram_error, orthonormal
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_choice, check_int, check_weight
from leanconv.core.sharing import lend
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.traits import Blending
from leanconv.core.weight import WeightView
from leanconv.ops.adapters import fit_adapters, fit_adapters_to_outputs
from leanconv.ops.forms.depth_shared import forms
from leanconv.ops.least_squares import Stats, balanced

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

        y = blend(conv(x, bank.weight + outer @ inner) + bank.bias)

    Each layer has its own stride, padding and dilation. outer @ inner is this layer's own correction of the weight, of low
    rank, and blend is this layer's own 1x1 convolution; by default there is neither. The correction is added to the weight
    in each call, so that there is one convolution.

    Args:
        bank: the shared weight; None makes a new bank, which this layer owns.
        blend: whether a 1x1 convolution without bias follows; it starts as the identity.
        adapter_rank: the rank of the correction for each group of the convolution; 0 for none. It starts as zero.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        With G groups, inner: (G adapter_rank, I / G, kh, kw); outer: (O, adapter_rank, 1, 1).

    Raises:
        SettingError: the bank has another shape than this convolution.

    Source: "ShardNet", sections 3.1 and 3.2 (shared and blending layers); "Deeply shared filter bases", section 4.2 (whole
    convolutions that are shared by their position in the bottleneck); Bae et al. 2025, "Relaxed Recursive Transformers",
    section 2.3 (corrections of low rank, there of linear layers).

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
        adapter_rank: int = 0,
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
        check_int("adapter_rank", adapter_rank, 0)
        self.adapter_rank = adapter_rank
        self.inner: nn.Parameter | None = None
        self.outer: nn.Parameter | None = None
        if adapter_rank:
            self.inner = nn.Parameter(torch.empty(adapter_rank * groups, *self.spec.weight_shape[1:]))
            self.outer = nn.Parameter(torch.empty(out_channels, adapter_rank, 1, 1))
        self.form: Literal["merged", "apart"] = "merged"
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the blend to the identity and the correction to zero; the bank initialises itself."""
        if self.blend is not None:
            nn.init.dirac_(self.blend)
        if self.inner is not None and self.outer is not None:
            nn.init.kaiming_normal_(self.inner, nonlinearity="linear")
            nn.init.zeros_(self.outer)

    def settings(self) -> dict[str, Any]:
        return {"blend": self.blend is not None, "adapter_rank": self.adapter_rank, "form": self.form}

    def settings_repr(self) -> str:
        held = "owner" if "bank" in self._modules else "borrowed"
        return f"{held}, adapter_rank={self.adapter_rank}" if self.adapter_rank else held

    def merged_weight(self) -> Tensor:
        """The shared weight with this layer's correction, before the blend: (O, I / groups, kh, kw)."""
        weight = self.bank.weight
        if self.inner is None or self.outer is None:
            return weight
        inner, outer = (t.flatten(1).unflatten(0, (self.groups, -1)) for t in (self.inner, self.outer))
        return weight + (outer @ inner).reshape(self.spec.weight_shape)

    @property
    def weight(self) -> Tensor | WeightView:
        """The shared weight; with a correction or a blend, the dense weight, for code that reads it."""
        own = self.outer if self.blend is None else self.blend
        return self.bank.weight if own is None else WeightView(self, own)

    @property
    def bias(self) -> Tensor | None:
        return self.bias_dense()

    def convolve(self, x: Tensor) -> Tensor:
        if self.form == "apart" and self.inner is not None and self.outer is not None:
            y = self.conv2d(x, self.bank.weight, self.bank.bias, self.groups)
            y = y + nn.functional.conv2d(self.conv2d(x, self.inner, None, self.groups), self.outer, groups=self.groups)
        else:
            y = self.conv2d(x, self.merged_weight(), self.bank.bias, self.groups)
        return y if self.blend is None else nn.functional.conv2d(y, self.blend)

    def compact_(self) -> None:
        """Compute the correction in convolutions of its own, so that a file holds the shared weight once."""
        self.form = "apart"

    def inference_forms(self, affine: Affine | None) -> Forms:
        """The shared weight and the correction side by side; `forms_of` adds the dense convolution of both."""
        return forms(self, affine)

    def blending_weights(self) -> list[nn.Parameter]:
        return [] if self.blend is None else [self.blend]

    def weight_dense(self) -> Tensor:
        weight = self.merged_weight()
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


@dataclass(frozen=True)
class DepthShared(Method):
    """One weight for all convolutions of one shape in the whole network or in a stage (ShardNet).

    A group has the parameters of one convolution, plus O**2 for each blend, and r (G F + O) for the correction of each layer. F
    is the number of inputs of one filter, and G the number of groups. MACs are those of the dense layers, plus O**2 for each
    output position of a blend, and r F O once for each call of a layer with a correction: it is added to the weight. Norms are
    not shared. A convolution stays dense if no other convolution has its shape.

    Args:
        scope: "network" or "stage": where a weight is shared.
        blend: whether the last layer of each stage gets its own 1x1 convolution, which starts as the identity. In a plan, a
            tuple lists the positions in the group that have a blend. (The networks of the paper place the blend after the
            norm and the activation, before a pooling, and have no blend after the last stage.)
        penalty_weight: weight of the orthogonality penalty on the shared weights; 0 for none.
        adapter_rank: r, the rank of each layer's own correction of the shared weight; 0 for none. A layer stays dense if its
            correction would have as many weights as the layer itself.

    Source: "ShardNet"; with a penalty and a `where` by bottleneck position, "Deeply shared filter bases", section 4.2; with
    corrections, Bae et al. 2025, "Relaxed Recursive Transformers".
    """

    scope: Literal["network", "stage"] = "network"
    blend: bool | tuple[int, ...] = False
    penalty_weight: float = 0.0
    adapter_rank: int = 0

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, ("network", "stage"))
        if not isinstance(self.blend, bool) and not _positions(self.blend):
            raise SettingError(f"blend={self.blend!r} must be true, false or positions in the group")
        check_weight("penalty_weight", self.penalty_weight)
        check_int("adapter_rank", self.adapter_rank, 0)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        """One weight for a stage and for the network, without and with corrections whose rank is one whole vector."""
        return [cls(scope=scope, adapter_rank=rank) for scope in ("stage", "network") for rank in (0, align)]

    def reject(self, spec: ConvSpec) -> str | None:
        if self.blend and spec.groups > 1:
            return f"a blend would mix the {spec.groups} groups of this convolution; use blend=False"
        own = self._adapter(spec)
        if own and own >= spec.out_channels * spec.fan_in:
            return (
                f"a correction with adapter_rank={self.adapter_rank} has {own} weights, and {spec} itself has "
                f"{spec.out_channels * spec.fan_in}; lower the rank"
            )
        return None

    def _adapter(self, spec: ConvSpec) -> int:
        """The number of weights of the correction of one layer."""
        return self.adapter_rank * (spec.groups * spec.fan_in + spec.out_channels)

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
            DepthSharedConv2d(**spec.kwargs(), bank=bank, blend=blend, adapter_rank=self.adapter_rank)
            for spec, blend in zip(specs, self._blended(specs), strict=True)
        ]
        lend(bank, modules)
        return modules

    def params(self, specs: Sequence[ConvSpec]) -> int:
        blends = sum(self._blended(specs)) * specs[0].out_channels ** 2
        return specs[0].params() + blends + len(specs) * self._adapter(specs[0])

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        spec = specs[index]
        blend = self._blended(specs)[index] * spec.out_channels**2 * out_hw[0] * out_hw[1]
        return spec.macs(out_hw) + blend + self.adapter_rank * spec.fan_in * spec.out_channels

    def not_nearest(self) -> str | None:
        if self.blend:
            return "blends start as the identity, so that training starts from the mean"
        return "the shared weight and the corrections are fitted in turn" if self.adapter_rank else None

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return DepthShared()  # for a single layer

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Set the shared weight to the mean of the dense weights, the nearest in the Frobenius norm; blends to the identity.

        With corrections, shared weight and corrections are fitted in turn (`fit_adapters`). With `stats`, the shared weight is
        (sum over layers of W_i S_i) (sum over layers of S_i)⁻¹, and a shared bias is the weight of an input that is always 1
        (`fit_adapters_to_outputs`).
        """
        layers = [module for module in modules if isinstance(module, DepthSharedConv2d)]
        bank = layers[0].bank
        if stats is None:
            weight, adapters = fit_adapters([by_group(conv.weight, conv.groups) for conv in convs], self.adapter_rank)
            bias = torch.stack([with_bias(conv)[..., -1] for conv in convs]).mean(0)
        else:
            whole, adapters = fit_adapters_to_outputs(convs, stats, self.adapter_rank)
            weight, bias = whole[..., : bank.weight[0].numel()], whole[..., -1]
        bank.weight.copy_(weight.reshape(bank.weight.shape))
        if bank.bias is not None:
            bank.bias.copy_(bias.flatten())
        for layer in layers:
            layer.reset_parameters()
        for layer, factors in zip(layers, adapters, strict=False):  # none without corrections
            assert layer.inner is not None and layer.outer is not None
            inner, outer = balanced(*factors)
            layer.inner.copy_(inner.reshape(layer.inner.shape))
            layer.outer.copy_(outer.reshape(layer.outer.shape))


def _positions(value: object) -> bool:
    """Whether `value` is a tuple of whole numbers of at least 0."""
    return isinstance(value, tuple) and all(type(index) is int and index >= 0 for index in value)
