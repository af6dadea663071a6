"""Tied block fully connected layer (TFC)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.linear import LeanLinear
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_int
from leanconv.core.spec import blocks_error

__all__ = ["TiedBlockLinear"]


class TiedBlockLinear(LeanLinear):
    """A layer that applies one small fully connected layer to all blocks of features.

        y[..., b*O/B:(b+1)*O/B] = x[..., b*I/B:(b+1)*I/B] @ weight.T + bias   for b in range(B)

    Parameters I O / B**2, and O / B for the bias. Multiply-adds I O / B for each row. `TiedBlock` replaces an ``nn.Linear`` by
    this module.

    Args:
        blocks: B; divides in_features and out_features.

    Shape:
        input: (..., I) -> (..., O), any leading dimensions.
        weight: (O / B, I / B); bias: (O / B).

    Raises:
        SettingError: `blocks` does not divide a number of features.

    Source: Wang & Yu 2021, "Tied Block Fully Connected Layer". The release accepts only 2-d input and does not check
    out_features.

    >>> layer = TiedBlockLinear(16, 32, blocks=4)
    >>> layer.weight.shape, layer(torch.zeros(2, 16)).shape
    (torch.Size([8, 4]), torch.Size([2, 32]))
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, blocks: int = 2) -> None:
        super().__init__(in_features, out_features, bias)
        check_int("blocks", blocks)
        error = blocks_error(blocks, in_features, out_features, unit="features")
        if error:
            raise SettingError(error)
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(out_features // blocks, in_features // blocks))
        self.bias = nn.Parameter(torch.empty(out_features // blocks)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as nn.Linear does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight.shape[1])
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        self.check_input(input)
        blocks = input.unflatten(-1, (self.blocks, self.in_features // self.blocks))
        return nn.functional.linear(blocks, self.weight, self.bias).flatten(-2)

    def weight_dense(self) -> Tensor:
        """The weight (O, I) of the ``nn.Linear`` that this layer equals; zero outside the blocks."""
        return torch.block_diag(*[self.weight] * self.blocks)

    def bias_dense(self) -> Tensor | None:
        """The bias (O) of the ``nn.Linear`` that this layer equals; None without a bias."""
        return None if self.bias is None else self.bias.repeat(self.blocks)

    @torch.no_grad()
    def fit_(self, linear: nn.Linear) -> TiedBlockLinear:
        """Set the weights nearest to `linear` in the Frobenius norm: the mean of its diagonal blocks."""
        b = self.blocks
        blocks = linear.weight.unflatten(1, (b, -1)).unflatten(0, (b, -1))
        self.weight.copy_(blocks.diagonal(dim1=0, dim2=2).mean(-1))
        if self.bias is not None and linear.bias is not None:
            self.bias.copy_(linear.bias.unflatten(0, (b, -1)).mean(0))
        return self

    def release_places(self, layer: NamedLayer) -> list[Place]:
        return layer.renamed({"": ("linear.", "fc.")})

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, blocks={self.blocks}"
