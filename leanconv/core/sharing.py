"""One weight, many layers: who owns it, who borrows it, and whether it is still so.

The first user of a shared tensor registers the module that holds it (its *bank*); every later user keeps an
unregistered reference to that module. So the state dict holds each tensor once, and copying, pickling, moving,
`assign=True`, averaging, compiling and exporting keep the sharing. Registering one parameter under several names
does not survive all of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from leanconv.core.errors import TieError


def lend(bank: nn.Module, users: Sequence[nn.Module], name: str = "bank") -> None:
    """Make `bank` the attribute `name` of every user: registered in the first, referenced by the others."""
    for user in users:
        user.__dict__[name] = bank
    del users[0].__dict__[name]
    users[0].add_module(name, bank)


def borrowed(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that `module` uses and does not register."""
    for value in module.__dict__.values():
        if isinstance(value, nn.Module):
            yield value


def parameters_in_use(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The distinct parameters that `modules` compute with, borrowed ones included."""
    found: dict[int, nn.Parameter] = {}
    for module in modules:
        for user in module.modules():
            for source in (user, *borrowed(user)):
                found.update((id(parameter), parameter) for parameter in source.parameters())
    return list(found.values())


def check_owners(model: nn.Module, users: Sequence[tuple[str, nn.Module]]) -> None:
    """Raise unless every borrowed module of `users` is registered in `model`.

    Raises:
        TieError: an owner is out of reach: its layer was replaced, or only a part of the network was copied.
    """
    registered = {id(module) for module in model.modules()}
    for name, user in users:
        for bank in borrowed(user):
            if id(bank) not in registered:
                raise TieError(
                    f"{name!r} uses shared weights whose owner is not in this model; keep the owner's layer, "
                    "copy the whole network rather than a part of it, or convert again"
                )
