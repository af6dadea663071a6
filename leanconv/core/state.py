"""State dicts that have been through a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def versioned(model: nn.Module, tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """`tensors` with the versions of the layers of `model`, which files of tensors leave out and some networks ask for.

    torchvision's MNASNet refuses a state dict without them.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(model.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    return state
