"""A batch norm in eval mode, and how it is folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leanconv.core.modes import in_eval
from leanconv.core.spec import ConvSpec


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift for each channel, as a batch norm computes in eval mode; `scale` and `shift` are (C)."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Affine:
        """The affine map that `norm` computes with its running statistics."""
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        return cls(scale, shift if norm.bias is None else shift + norm.bias)

    @classmethod
    def chain(cls, norms: Iterable[nn.BatchNorm2d]) -> Affine | None:
        """The affine map of several norms, one after the other; None when there is no norm."""
        found: Affine | None = None
        for norm in norms:
            found = cls.of(norm) if found is None else found.then(cls.of(norm))
        return found

    def then(self, other: Affine) -> Affine:
        """This affine map, followed by `other`."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    def times(self, factor: Tensor) -> Affine:
        """This affine map, with its outputs multiplied by `factor` (C)."""
        return Affine(self.scale * factor, self.shift * factor)

    def weight(self, weight: Tensor) -> Tensor:
        """The filters (O, ...) of a convolution with this affine map folded in."""
        return weight * self.scale.view(-1, *[1] * (weight.dim() - 1))

    def bias(self, bias: Tensor | None) -> Tensor:
        """The bias (O) of a convolution with this affine map folded in."""
        return self.shift if bias is None else bias * self.scale + self.shift


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of `module` runs forward hooks besides its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def foldable(norm: nn.Module | None) -> bool:
    """Whether `Affine.of` describes `norm`: an ``nn.BatchNorm2d`` in eval mode with running statistics and without hooks.

    A norm without running statistics, a norm in training mode, and an instance or group norm use the statistics of their
    input.
    """
    if not isinstance(norm, nn.BatchNorm2d) or type(norm) is not nn.BatchNorm2d or norm.training:
        return False
    if has_hooks(norm) or "forward" in vars(norm):
        return False
    return norm.running_mean is not None and norm.running_var is not None


def folded(weight: Tensor, bias: Tensor | None, affine: Affine | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with `affine` folded in; unchanged when `affine` is None."""
    return (weight, bias) if affine is None else (affine.weight(weight), affine.bias(bias))


def conv_of(spec: ConvSpec, weight: Tensor, bias: Tensor | None, groups: int | None = None) -> nn.Conv2d:
    """A plain convolution with these weights for inference.

    Args:
        weight: (O, I / groups, kh, kw).
        groups: default: the groups of `spec`.
    """
    settings = spec.kwargs() | {"groups": groups or spec.groups, "bias": bias is not None}
    settings |= {"out_channels": weight.shape[0], "in_channels": weight.shape[1] * (groups or spec.groups)}
    conv = nn.Conv2d(**settings, device="meta", dtype=weight.dtype)
    conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return in_eval(conv)


class ChannelAffine(nn.Module):
    """y = scale * x + shift, for a norm that could not be folded into a convolution.

    Shape:
        x: (N, C, H, W) -> the same.
    """

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.scale = nn.Parameter(affine.scale.detach().view(1, -1, 1, 1).clone(), requires_grad=False)
        self.shift = nn.Parameter(affine.shift.detach().view(1, -1, 1, 1).clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def with_affine(module: nn.Module, affine: Affine | None) -> nn.Module:
    """`module` followed by `affine`; `module` itself when `affine` is None."""
    return module if affine is None else nn.Sequential(module, ChannelAffine(affine))
