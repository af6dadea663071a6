"""The components that the filters of several convolutions share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanconv.core.penalty import PenaltyTerm, gram_error, orthonormal

__all__ = ["FilterBasis"]


class FilterBasis(nn.Module):
    """The shared components of one group of layers: one basis, or several bases that the layers use in turn.

    Args:
        bases: the number of bases; the penalty keeps the components of all bases orthogonal to each other.
        shared: the number of components of each basis.
        filter_shape: (in, kh, kw).
        penalty_weight: weight of the orthogonality penalty; 0 for none.
    """

    def __init__(self, bases: int, shared: int, filter_shape: tuple[int, int, int], penalty_weight: float) -> None:
        super().__init__()
        # all bases in one 4-d tensor: a 5-d parameter cannot become channels_last
        self.weight = nn.Parameter(torch.empty(bases * shared, *filter_shape))
        self.shared = shared
        self.penalty_weight = penalty_weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the components: orthonormal."""
        with torch.no_grad():
            self.weight.copy_(orthonormal(self.weight))

    def components(self, index: int) -> Tensor:
        """The filters of one basis: (shared, in, kh, kw)."""
        return self.weight[index * self.shared : (index + 1) * self.shared]

    def penalty_terms(self) -> list[PenaltyTerm]:
        """||B B^T - I||_F^2 of all components B, as one term of the mean over the whole network."""
        if not self.penalty_weight:
            return []
        rows = self.weight.flatten(1)
        return [PenaltyTerm("shared_basis", self.penalty_weight, gram_error(rows), len(rows) ** 2)]
