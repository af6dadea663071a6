"""Open a network by name or by folder: ``resnet20``, ``basis_resnet56(bases=2)``, ``timm/resnet50``, ``runs/split``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from torch import nn

from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.meta import built_on_meta
from leanconv.core.wrappers import unwrapped
from leanconv.files.load import load
from leanconv.models import create_model
from leanconv.models.create import parse_target

# a name or a folder, a network, or a function that builds a network
Network = str | nn.Module | Callable[[], nn.Module]


def as_text(network: Network | Path) -> Network:
    """`network`, with a path as its text.

    >>> as_text(Path("runs/dense"))
    'runs/dense'
    """
    return str(network) if isinstance(network, Path) else network


def network_name(network: Network) -> str:
    """The name of a network in tables: its text, or the name of its class or function.

    >>> network_name("resnet20"), network_name(nn.ReLU())
    ('resnet20', 'ReLU')
    """
    return network if isinstance(network, str) else getattr(network, "__name__", type(network).__name__)


def built(network: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """A copy of a network, or the network that a function returns; the network inside, if it is wrapped.

    Raises:
        SettingError: `network` is neither, or its function returns something else.

    >>> built(nn.DataParallel(nn.ReLU())), built(nn.ReLU)
    (ReLU(), ReLU())
    """
    if isinstance(network, nn.Module):
        return copied(unwrapped(network))
    if not callable(network):
        raise SettingError(
            "a network must be a name, a folder, a torch.nn.Module or a function that returns one, not "
            f"{type(network).__name__}"
        )
    return unwrapped(network())


def network_digest(network: nn.Module) -> str:
    """A short hash of a network's layers, without the addresses of objects, which differ in each process."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(network)).encode()).hexdigest()[:16]


def is_saved(target: str) -> bool:
    """Whether `target` is a folder rather than a name."""
    return Path(target).expanduser().is_dir()


def absolute(target: str) -> str:
    """`target`, with the full path if it is a folder.

    >>> absolute("resnet20")
    'resnet20'
    """
    return str(Path(target).expanduser().resolve()) if is_saved(target) else target


def open_target(
    target: str, *, pretrained: bool = False, num_classes: int | None = None, in_chans: int | None = None
) -> nn.Module:
    """The network of a name, with or without settings in brackets, or the network saved in a folder.

    Args:
        target: the name or the folder.
        pretrained: load the weights that timm or torchvision offers.
        num_classes, in_chans: settings of the builder; settings in brackets replace them.

    Raises:
        SettingError: the name or a setting is unknown, or a folder is given together with `pretrained`.
        FileError: the folder holds no network of leanconv.

    >>> open_target("resnet20", num_classes=5).fc.out_features
    5
    """
    if not is_saved(target):
        in_brackets = parse_target(target)[1]
        given = {"num_classes": num_classes, "in_chans": in_chans}
        return create_model(target, pretrained, **{key: given[key] for key in given if key not in in_brackets})
    if pretrained:
        raise SettingError(f"--pretrained is for networks by name; the folder {target} holds its own weights")
    return load(Path(target).expanduser())


def open_without_weights(target: str) -> nn.Module:
    """The network of `target`; by name it is built on the meta device, where nothing is allocated or computed."""
    return open_target(target) if is_saved(target) else built_on_meta(lambda: open_target(target))
