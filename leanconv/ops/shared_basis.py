"""Filter bases: the layers of a stage combine their filters from shared components and a few unique components."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.core.affine import Affine
from leanconv.core.errors import LeanconvWarning, RunError, SettingError
from leanconv.core.method import Group, Method, Site, Skipped, by_stage
from leanconv.core.operator import Forms, LinearOp
from leanconv.core.penalty import PenaltyTerm, gram_error, gram_of, orthonormal
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_bool, check_int, check_weight
from leanconv.core.sharing import lend, refuse_sharded
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.traits import SharedComponents
from leanconv.core.weight import WeightView
from leanconv.ops.components import fit_bases, fit_bases_to_outputs
from leanconv.ops.depth_shared import shared_names
from leanconv.ops.filter_basis import FilterBasis
from leanconv.ops.forms.shared_basis import forms
from leanconv.ops.least_squares import Stats, fill_bias, on_components

__all__ = ["SharedBasis", "SharedBasisConv2d"]

# In the release, the tensors of all convolutions of a block are attributes of the block
RELEASED = {"unique": "basis_conv{n}.weight", "norm.": "basis_bn{n}.", "coefficients": "coeff_conv{n}.weight"}


class SharedBasisConv2d(LinearOp):
    """A convolution whose filters are combinations of basis filters; other layers share most of the basis filters.

        y = coefficients * norm(conv(x, [unique, basis.weight[index]])) + bias

    where * is a 1x1 convolution and [ , ] stacks filters. The first convolution has the stride, padding and dilation. There is
    no activation between the two convolutions.

    Args:
        shared: the number of shared components; 0 for none.
        unique: the number of this layer's own components; 0 for none.
        norm: whether a BatchNorm2d is between components and coefficients.
        basis: the shared components; None makes new components (if shared > 0), which this layer owns.
        index: the index of the basis in `basis` that this layer uses.
        penalty_weight: weight of the orthogonality penalty; 0 for none. A given `basis` keeps its own weight.
        penalty_unique: whether the penalty includes the unique components, see `penalty_terms`.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        unique: (unique, I, kh, kw); coefficients: (O, unique + shared, 1, 1); bias: (O).

    Raises:
        SettingError: there is no component, `groups` is not 1, or the basis has another shape.

    Source: "Learning deeply shared filter bases", eqs. 1-3 and section 3.3. The order and the norm are as in the release. The
    release runs shared and unique components as two convolutions and a concatenation, which is ``form`` "apart" here. The
    default ``form`` "stacked" runs one convolution. "apart" is for files that hold the shared components only once.

    >>> layer = SharedBasisConv2d(16, 32, 3, padding=1, shared=8, unique=2)
    >>> layer.coefficients.shape, layer.components().shape
    (torch.Size([32, 10, 1, 1]), torch.Size([10, 16, 3, 3]))
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
        shared: int = 8,
        unique: int = 1,
        norm: bool = True,
        basis: FilterBasis | None = None,
        index: int = 0,
        penalty_weight: float = 10.0,
        penalty_unique: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        if groups != 1:
            raise SettingError(f"groups={groups} must be 1: a basis spans all input channels")
        SharedBasis(shared, unique, norm=norm, penalty_weight=penalty_weight, penalty_unique=penalty_unique)  # checks
        self.penalty_weight = penalty_weight if penalty_unique else 0.0
        filter_shape = (in_channels, *self.kernel_size)
        if shared and basis is None:
            self.basis = FilterBasis(1, shared, filter_shape, penalty_weight)
        elif basis is not None:
            found = (basis.shared, *basis.weight.shape[1:])
            if found != (shared, *filter_shape):
                raise SettingError(
                    f"a basis of shape {found} does not have the shape {(shared, *filter_shape)} of this layer"
                )
            self.__dict__["basis"] = basis  # a reference: the owner registers it
        self.shared, self.index = shared, index
        self.form: Literal["stacked", "apart"] = "stacked"
        rank = shared + unique
        self.unique = nn.Parameter(torch.empty(unique, *filter_shape)) if unique else None
        self.norm = nn.BatchNorm2d(rank) if norm else None
        self.coefficients = nn.Parameter(torch.empty(out_channels, rank, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the unique components (orthonormal) and the coefficients (Kaiming normal); the basis does so itself."""
        if self.unique is not None:
            with torch.no_grad():
                self.unique.copy_(orthonormal(self.unique))
        nn.init.kaiming_normal_(self.coefficients, nonlinearity="relu")
        if self.norm is not None:
            self.norm.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def penalty_terms(self) -> list[PenaltyTerm]:
        """With `penalty_unique`: ||S U^T||^2 and ||U U^T - I||^2 of shared (S) and unique (U) components, in S's mean."""
        if not self.penalty_weight or self.unique is None:
            return []
        own = self.unique.flatten(1)
        terms = [PenaltyTerm("shared_basis", self.penalty_weight, gram_error(own), len(own) ** 2)]
        if self.shared:
            shared = self.basis.weight.flatten(1)
            terms.append(terms[0]._replace(total=gram_of(shared, own).square().sum(), entries=len(shared) * len(own)))
        return terms

    def settings(self) -> dict[str, Any]:
        return {
            "shared": self.shared,
            "unique": 0 if self.unique is None else len(self.unique),
            "norm": self.norm is not None,
            "form": self.form,
        }

    def settings_repr(self) -> str:
        held = "" if not self.shared else " (owner)" if "basis" in self._modules else " (borrowed)"
        return f"shared={self.shared}{held}, unique={0 if self.unique is None else len(self.unique)}"

    def components(self) -> Tensor:
        """The basis filters of this layer, the unique components first: (rank, I, kh, kw)."""
        if not self.shared:
            assert self.unique is not None
            return self.unique
        shared = self.basis.components(self.index)
        if self.unique is None:
            return shared
        refuse_sharded(shared, self.unique)
        return torch.cat([self.unique, shared])

    @property
    def weight(self) -> WeightView:
        """The dense weight, for code that reads it."""
        return WeightView(self, self.coefficients)

    def convolve(self, x: Tensor) -> Tensor:
        if self.form == "apart" and self.shared and self.unique is not None:
            both = (self.conv2d(x, self.unique, None), self.conv2d(x, self.basis.components(self.index), None))
            y = torch.cat(both, 1)
        else:
            y = self.conv2d(x, self.components(), None)
        if self.norm is not None:
            y = self.norm(y)
        return nn.functional.conv2d(y, self.coefficients, self.bias)

    def _norm_scale_shift(self) -> tuple[Tensor, Tensor] | None:
        """The norm as y = scale * x + shift with its running statistics."""
        norm = self.norm
        if norm is None:
            return None
        if self.training:
            raise RunError("a norm is between basis and coefficients: call eval() before weight_dense()")
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return scale, norm.bias - norm.running_mean * scale

    def weight_dense(self) -> Tensor:
        norm = self._norm_scale_shift()
        coefficients = self.coefficients.flatten(1)
        if norm is not None:
            coefficients = coefficients * norm[0]
        return torch.einsum("or,rikl->oikl", coefficients, self.components())

    def bias_dense(self) -> Tensor | None:
        norm = self._norm_scale_shift()
        if norm is None:
            return self.bias
        shift = self.coefficients.flatten(1) @ norm[1]
        return shift if self.bias is None else shift + self.bias

    def rescale_(self, scale: Tensor) -> bool:
        self.coefficients.mul_(scale.view(-1, 1, 1, 1))
        return True

    def inference_forms(self, affine: Affine | None) -> Forms:
        return forms(self, affine)

    def compact_(self) -> None:
        """Compute shared and unique components in two convolutions, so that a file holds the shared components once."""
        self.form = "apart"

    def shared_components(self) -> SharedComponents | None:
        if not self.shared:
            return None
        return SharedComponents(self.basis, self.basis.weight, self.unique, self.coefficients)

    def release_places(self, layer: NamedLayer) -> list[Place]:
        inside, n = f"{layer.block}." if layer.block else "", re.sub(r"\D", "", layer.name.rpartition(".")[2])
        bases, found = shared_names(layer), layer.plain(key for key in layer.keys if key == f"{layer.name}.bias")
        for key in layer.keys:
            relative = layer.relative(key)
            for ours, theirs in RELEASED.items():
                if relative.startswith(ours):
                    found.append(Place(key, (key, inside + theirs.format(n=n) + relative[len(ours) :])))
        if self.shared:
            basis, rows = f"{layer.named(self.basis)}.weight", (self.index * self.shared, len(self.basis.weight))
            found.append(Place(basis, (basis, *bases), rows))
        return found


@dataclass(frozen=True)
class SharedBasis(Method):
    """Filter bases that the convolutions of one shape in one stage share.

    With F = I kh kw inputs of a filter, R = shared + unique and N layers in a group: parameters bases * shared * F +
    N * (unique * F + R O), N * 2 R for the norms, and N * O for the biases. MACs R (F + O) for each output position. So at
    rank F O / (F + O) the MACs equal the MACs of the dense layer (0.9 O for a 3x3 convolution with I = O).

    Args:
        shared: the number of components that all layers of a group share; 0 for none.
        unique: the number of each layer's own components; 0 for none.
        bases: the number of shared bases of a group; the layers use them in turn. 2 is the paper's "double" basis: if whole
            blocks are converted, one basis is for the first and one for the second convolutions of the blocks.
        growth: `shared` and `unique` are multiplied by this factor for each stage after the first converted stage, as the
            widths of the network grow.
        norm: whether a BatchNorm2d is between components and coefficients.
        penalty_weight: weight of the orthogonality penalty on the shared components; 0 for none.
        penalty_unique: whether the penalty includes the unique components. The caption of the paper's Fig. 3 says shared only;
            the release's script for CIFAR-10 includes them.

    Source: "Learning deeply shared filter bases for efficient ConvNets", sections 3.1-3.3. The paper's networks ResNetL-SsUu
    keep the first block of every stage dense: use `where` or `exclude`.
    """

    shared: int = 8
    unique: int = 1
    bases: int = 1
    growth: int = 2
    norm: bool = True
    penalty_weight: float = 10.0
    penalty_unique: bool = False

    def __post_init__(self) -> None:
        for name, least in (("shared", 0), ("unique", 0), ("bases", 1), ("growth", 1)):
            check_int(name, getattr(self, name), least)
        if self.shared + self.unique == 0:
            raise SettingError("shared=0 and unique=0 leave no filter; one of them must be at least 1")
        check_bool("norm", self.norm)
        check_bool("penalty_unique", self.penalty_unique)
        check_weight("penalty_weight", self.penalty_weight)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        """Bases without a norm, at about a quarter and a half of the rank at which the MACs equal those of the dense layer."""
        spec = specs[0]
        full = spec.fan_in * spec.out_channels / (spec.fan_in + spec.out_channels)
        ranks = sorted({round(part * full / align) * align for part in (0.25, 0.5)} - {0})
        return [cls(shared=rank, unique=0, growth=1, norm=False) for rank in ranks]

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        rank = max(align, (self.shared + self.unique + align // 2) // align * align)
        if self.shared == 0:
            return replace(self, unique=rank)
        unique = self.unique if self.unique < rank else rank
        return replace(self, shared=rank - unique, unique=unique)

    def reject(self, spec: ConvSpec) -> str | None:
        if spec.groups != 1:
            return f"a basis spans all input channels; this convolution has groups={spec.groups}"
        if spec.pointwise:
            return "a 1x1 convolution has no spatial filters to share; its weights already are coefficients"
        return None

    def reject_linear(self, spec: ConvSpec) -> str | None:
        """Always None: filter bases can replace every linear layer; with ``shared=0`` by a product of two thin layers."""
        return None

    def group(self, sites: Sequence[Site]) -> tuple[list[Group], list[Skipped]]:
        accepted, kept = self.accept(sites)
        by_stage(self, accepted)
        alike: dict[tuple[object, ...], list[Site]] = {}
        for site in accepted:
            alike.setdefault((site.stage, site.spec.weight_shape, site.spec.bias), []).append(site)
        first = min((_stage(site) for site in accepted), default=0)
        groups = []
        for members in alike.values():
            factor = self.growth ** (_stage(members[0]) - first)
            method = replace(
                self,
                shared=self.shared * factor,
                unique=self.unique * factor,
                bases=min(self.bases, len(members)),
                growth=1,
            )
            groups.append(Group(method, tuple(members)))
        _warn_above_break_even(groups)
        return groups, kept

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        first = specs[0]
        filter_shape = (first.in_channels, *first.kernel_size)
        basis = FilterBasis(self.bases, self.shared, filter_shape, self.penalty_weight) if self.shared else None
        modules: list[nn.Module] = [
            SharedBasisConv2d(
                **spec.kwargs(), shared=self.shared, unique=self.unique, norm=self.norm, basis=basis,
                index=position % self.bases, penalty_weight=self.penalty_weight, penalty_unique=self.penalty_unique,
            )
            for position, spec in enumerate(specs)
        ]  # fmt: skip
        if basis is not None:
            lend(basis, modules, "basis")
        return modules

    def params(self, specs: Sequence[ConvSpec]) -> int:
        rank = self.shared + self.unique
        own = sum(
            self.unique * s.fan_in + rank * s.out_channels + 2 * rank * self.norm + s.out_channels * s.bias
            for s in specs
        )
        return self.bases * self.shared * specs[0].fan_in + own

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        spec = specs[index]
        return (self.shared + self.unique) * (spec.fan_in + spec.out_channels) * out_hw[0] * out_hw[1]

    def not_nearest(self) -> str | None:
        return "shared and unique components are fitted in turn" if self.shared and self.unique else None

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return SharedBasis(shared=0, unique=min(spec.fan_in, spec.out_channels), norm=False)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Fit with `fit_bases`, with `stats` with `fit_bases_to_outputs`; the norms become the identity in eval mode."""
        layers = [module for module in modules if isinstance(module, SharedBasisConv2d)]
        for bank in range(self.bases):
            members = range(bank, len(layers), self.bases)
            dense = [convs[i].weight.flatten(1).double() for i in members]
            metrics = [stats[i].metric(convs[i].bias is not None)[0] for i in members] if stats else None
            if metrics is None:
                basis, uniques = fit_bases(dense, self.shared, self.unique)
            else:
                basis, uniques = fit_bases_to_outputs(list(zip(dense, metrics, strict=True)), self.shared, self.unique)
            for place, (i, rows, own) in enumerate(zip(members, dense, uniques, strict=True)):
                layer = layers[i]
                if layer.shared:
                    target = layer.basis.components(bank)
                    target.copy_(basis.view_as(target))
                if layer.unique is not None:
                    layer.unique.copy_(own.view_as(layer.unique))
                components = torch.cat([own, basis])
                found = rows @ components.T if metrics is None else on_components(rows, metrics[place], components)
                layer.coefficients.copy_(found[:, :, None, None])
                if layer.norm is not None:
                    layer.norm.reset_parameters()  # mean 0, variance 1: in eval mode the norm only divides by sqrt(1 + eps)
                    layer.norm.weight.fill_((1 + layer.norm.eps) ** 0.5)
                fill_bias(layer, convs[i], found @ components, None if stats is None else stats[i])


def _stage(site: Site) -> int:
    assert site.stage is not None  # by_stage has refused it
    return site.stage


def _warn_above_break_even(groups: Sequence[Group]) -> None:
    """Warn if a rank is so high that the lean layers have more MACs than the dense layers."""
    costly = []
    for group in groups:
        method, spec = group.method, group.sites[0].spec
        assert isinstance(method, SharedBasis)
        even = spec.fan_in * spec.out_channels / (spec.fan_in + spec.out_channels)
        if method.shared + method.unique > even:
            costly.append(f"{group.sites[0].name!r} (rank {method.shared + method.unique}, break-even {even:.1f})")
    if costly:
        more = f" and {len(costly) - 3} more" if len(costly) > 3 else ""
        warnings.warn(
            f"shared_basis costs more MACs than the dense convolutions in the groups of {', '.join(costly[:3])}{more}; "
            "lower shared, unique or growth",
            LeanconvWarning,
            stacklevel=4,
        )
