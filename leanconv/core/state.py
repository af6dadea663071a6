"""State dicts that were loaded from a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def versioned(model: nn.Module, tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """`tensors` as a state dict with the layer versions of `model`.

    Files of tensors do not hold these versions, and some networks need them: torchvision's MNASNet refuses a state dict
    without versions.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(model.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    return state
