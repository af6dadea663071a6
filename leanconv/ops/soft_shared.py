"""Soft parameter sharing: the weights of several layers are combinations of the templates of one bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.method import Group, Method, Site, Skipped, by_stage
from leanconv.core.moments import Moments
from leanconv.core.operator import LinearOp
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_int
from leanconv.core.sharing import lend
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.weight import WeightView
from leanconv.ops.least_squares import Stats, descended, each, fill_bias, metric_of
from leanconv.ops.low_rank import top_rows

__all__ = ["SoftShared", "SoftSharedConv2d"]

SWEEPS = 5


class TemplateBank(nn.Module):
    """The templates whose combinations are the weights of several convolutions of one shape.

    Args:
        templates: k, the number of templates.
        weight_shape: (out, in / groups, kh, kw), the shape of each template.
    """

    def __init__(self, templates: int, weight_shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.templates = templates
        # all templates in one 4-d tensor: a 5-d parameter cannot become channels_last
        self.weight = nn.Parameter(torch.empty(templates * weight_shape[0], *weight_shape[1:]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the templates: Kaiming normal over the fan out of one template."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        with torch.no_grad():
            self.weight.mul_(self.templates**0.5)  # torch's fan out counts the filters of all templates

    def mixed(self, coefficients: Tensor) -> Tensor:
        """The combination sum over j of coefficients[j] * template j: (out, in / groups, kh, kw)."""
        templates = self.weight.unflatten(0, (self.templates, -1))
        return (coefficients[:, None, None, None, None] * templates).sum(0)


class SoftSharedConv2d(LinearOp):
    """A convolution whose weight is a combination of templates that other layers use too.

        y = conv(x, W) + bias,   W = sum over j of coefficients[j] * bank.template[j]

    Each layer has its own stride, padding, dilation, coefficients and bias. Each call computes W with k multiplications for
    each weight, for maps of any size; the MACs do not include these multiplications.

    Args:
        templates: k, the number of templates in the bank.
        bank: the shared templates; None makes new templates, which this layer owns.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        coefficients: (k); bias: (O).

    Raises:
        SettingError: the bank has another number of templates, or another shape than this convolution.

    Source: Savarese & Maire 2019, "Learning Implicitly Recurrent CNNs Through Parameter Sharing".

    >>> first = SoftSharedConv2d(16, 16, 3, templates=2)
    >>> second = SoftSharedConv2d(16, 16, 3, templates=2, bank=first.bank)
    >>> second.coefficients.shape, second.bank is first.bank
    (torch.Size([2]), True)
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
        templates: int = 2,
        bank: TemplateBank | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        check_int("templates", templates)
        if bank is None:
            self.bank = TemplateBank(templates, self.spec.weight_shape)
        else:
            found = (bank.templates, len(bank.weight) // bank.templates, *bank.weight.shape[1:])
            if found != (templates, *self.spec.weight_shape):
                raise SettingError(
                    f"a bank of shape {found} cannot serve {templates} templates of weight shape "
                    f"{self.spec.weight_shape}; share among convolutions of one shape"
                )
            self.__dict__["bank"] = bank  # a reference: the owner registers it
        self.coefficients = nn.Parameter(torch.empty(templates))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the coefficients with norm 1, so that the weight is as large as one template; the bank does so itself."""
        with torch.no_grad():
            self.coefficients.copy_(nn.functional.normalize(torch.randn_like(self.coefficients), dim=0))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"templates": self.bank.templates}

    def settings_repr(self) -> str:
        return f"templates={self.bank.templates} ({'owner' if 'bank' in self._modules else 'borrowed'})"

    @property
    def weight(self) -> WeightView:
        """The dense weight, for code that reads it."""
        return WeightView(self, self.coefficients)

    def convolve(self, x: Tensor) -> Tensor:
        return self.conv2d(x, self.weight_dense(), self.bias, self.groups)

    def weight_dense(self) -> Tensor:
        return self.bank.mixed(self.coefficients)

    def bias_dense(self) -> Tensor | None:
        return self.bias

    def release_places(self, layer: NamedLayer) -> list[Place]:
        bank, name, block = f"{layer.named(self.bank)}.weight", layer.name, layer.block
        theirs = (bank, f"{name}.bank.weight", f"{name}.bank.templates", f"{block}.bank.templates".strip("."))
        own = layer.plain(key for key in layer.keys if ".bank." not in key)
        return [*own, Place(bank, theirs, (0, len(self.bank.weight)), everywhere=True)]


@dataclass(frozen=True)
class SoftShared(Method):
    """Templates for all convolutions of one shape in one stage; each layer has its own combination (soft sharing, SWRN).

    With N layers in a group: parameters k kh kw I O / G for the templates, N k for the coefficients, and N O for the biases.
    MACs are those of the dense layers. With as many templates as layers, nothing is saved and nothing is lost. A convolution
    stays dense if no other convolution in its stage has its shape.

    Args:
        templates: k, the number of templates in each bank.

    Source: Savarese & Maire 2019.
    """

    templates: int = 2

    def __post_init__(self) -> None:
        check_int("templates", self.templates)

    def reject(self, spec: ConvSpec) -> str | None:
        return None

    def group(self, sites: Sequence[Site]) -> tuple[list[Group], list[Skipped]]:
        accepted, kept = self.accept(sites)
        by_stage(self, accepted)
        alike: dict[tuple[object, ...], list[Site]] = {}
        for site in accepted:
            alike.setdefault((site.stage, site.spec.weight_shape, site.spec.groups), []).append(site)
        groups = []
        for members in alike.values():
            if len(members) == 1:
                kept.append(Skipped(members[0], f"nothing to share with: no other {members[0].spec} in its stage"))
            else:
                groups.append(Group(self, tuple(members)))
        return groups, kept

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        bank = TemplateBank(self.templates, specs[0].weight_shape)
        modules = [SoftSharedConv2d(**spec.kwargs(), templates=self.templates, bank=bank) for spec in specs]
        # Orthogonal coefficients, so that the layers start as different as possible, as in the release
        start = nn.init.orthogonal_(torch.empty(len(specs), self.templates, device=bank.weight.device))
        with torch.no_grad():
            for module, row in zip(modules, nn.functional.normalize(start, dim=1), strict=True):
                module.coefficients.copy_(row)
        lend(bank, modules)
        return list(modules)

    def params(self, specs: Sequence[ConvSpec]) -> int:
        first = specs[0]
        own = sum(self.templates + s.out_channels * s.bias for s in specs)
        return self.templates * first.out_channels * first.fan_in + own

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return specs[index].macs(out_hw)

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return SoftShared(templates=1)  # for a single layer; for several layers, as many templates as layers

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Fit templates and coefficients by a truncated SVD of the stacked weights: the nearest in the Frobenius norm.

        Each row of the stacked weights is the weight of one layer. Source: Eckart & Young 1936. With `stats`, `SWEEPS` sweeps
        of alternating least squares follow: the coefficients of each layer exactly, the templates by conjugate gradients.
        """
        layers = [module for module in modules if isinstance(module, SoftSharedConv2d)]
        stacked = torch.stack([conv.weight.flatten() for conv in convs]).double()
        templates = top_rows(stacked, self.templates)
        coefficients = stacked @ templates.T
        if stats is not None:
            coefficients, templates = _in_turn(coefficients, templates, convs, stats)
        # Templates as large as the layers' weights, coefficients of about 1; a template that no layer uses stays trainable
        size = coefficients.square().mean(0).sqrt()
        size = torch.where(size > 1e-6 * size.max(), size, size.max().clamp(min=1e-12))
        bank = layers[0].bank
        bank.weight.copy_((templates * size[:, None]).reshape_as(bank.weight))
        for layer, conv, row, moments in zip(layers, convs, coefficients / size, each(stats, convs), strict=True):
            layer.coefficients.copy_(row)
            fill_bias(layer, conv, layer.weight_dense(), moments)


def _in_turn(
    coefficients: Tensor, templates: Tensor, convs: Sequence[nn.Conv2d], stats: Sequence[Moments]
) -> tuple[Tensor, Tensor]:
    """Coefficients (layers, k) and orthonormal templates (k, O F) after alternating least squares from those given."""
    problems = [metric_of(conv, moments) for conv, moments in zip(convs, stats, strict=True)]
    shape = problems[0][0].shape  # (groups, o, F)
    bank = templates.unflatten(1, shape)
    for _ in range(SWEEPS):
        found = []
        for weight, metric in problems:
            seen = (bank @ metric).flatten(1)
            found.append(torch.linalg.pinv(seen @ bank.flatten(1).T, hermitian=True) @ (seen @ weight.flatten()))
        coefficients = torch.stack(found)

        def seen_by_all(weights: Sequence[Tensor], coefficients: Tensor = coefficients) -> Tensor:
            outputs = torch.stack([weight @ metric for weight, (_, metric) in zip(weights, problems, strict=True)])
            return torch.tensordot(coefficients.T, outputs, 1)

        def normal(bank: Tensor, coefficients: Tensor = coefficients) -> Tensor:
            return seen_by_all(list(torch.tensordot(coefficients, bank, 1)))

        bank = descended(bank, normal, seen_by_all([weight for weight, _ in problems]), steps=20)
    q, r = torch.linalg.qr(bank.flatten(1).T)
    return coefficients @ r.T, q.T
