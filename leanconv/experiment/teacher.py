"""The network from which the network of a run learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.files.target import absolute, is_saved, open_target
from leanconv.train.distill import weights_digest


@dataclass(frozen=True)
class Teacher:
    """An opened teacher.

    Args:
        network: the network.
        target: the name or the folder that opens it again; None if the network itself was given.
        digest: a hash of its layers and weights.
    """

    network: nn.Module
    target: str | None
    digest: str

    @classmethod
    def open(cls, given: str | Path | nn.Module) -> Teacher:
        """The teacher of a run.

        Args:
            given: a network; the folder of a saved network; or a name, whose published weights are loaded.

        Raises:
            SettingError: there is no such folder, and no network of this name with published weights.
            FileError: the folder has no saved network.
        """
        if isinstance(given, nn.Module):
            return cls(given, None, weights_digest(given))
        target = str(given)
        try:
            network = open_target(target, pretrained=not is_saved(target))
        except SettingError as error:
            raise SettingError(
                f"teacher {target!r} is no folder of a trained network and no network with published weights ({error})"
            ) from error
        return cls(network, absolute(target), weights_digest(network))
