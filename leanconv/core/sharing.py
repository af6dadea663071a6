"""Shared weights: one layer owns a weight, and other layers borrow it.

A *bank* is a module that holds shared tensors. The first layer that uses the bank registers it, and the other layers keep an
unregistered reference to it. So the state dict holds each tensor once, and copying, pickling, moving, `assign=True`,
averaging, compiling and exporting keep the sharing. A parameter that is registered under several names loses its sharing
in some of these operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from leanconv.core.errors import TieError


def lend(bank: nn.Module, users: Sequence[nn.Module], name: str = "bank") -> None:
    """Set `bank` as the attribute `name` of all users: registered in the first user, referenced in the others."""
    for user in users:
        user.__dict__[name] = bank
    del users[0].__dict__[name]
    users[0].add_module(name, bank)


def adopt(model: nn.Module, users: Sequence[nn.Module]) -> None:
    """Register each borrowed module of `users` that `model` does not hold on the first user, because its owner is gone."""
    held = {id(module) for module in model.modules()}
    for user in users:
        for name, bank in [*user.__dict__.items()]:
            if isinstance(bank, nn.Module) and id(bank) not in held:
                del user.__dict__[name]
                user.add_module(name, bank)
                held.update(id(part) for part in bank.modules())


def borrowed(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that `module` uses without registering them."""
    for value in module.__dict__.values():
        if isinstance(value, nn.Module):
            yield value


def refuse_sharded(weight: Tensor, beside: Tensor) -> None:
    """Raise an error if `weight` is sharded over processes and `beside`, with which it computes, is whole.

    FSDP2 gathers the weights of one unit for the forward pass of this unit. A layer of another unit then meets a shard.

    Raises:
        TieError: as above.
    """
    if _is_shard(weight) and not _is_shard(beside):
        raise TieError(
            "a shared weight is sharded where a layer uses it: FSDP2 gathers weights for the layers of one unit only. Call "
            "fully_shard on a module that holds all layers that share the weight, such as the stage or the whole network"
        )


def whole(weight: Tensor) -> Tensor:
    """`weight`, gathered from all processes if FSDP2 has divided it; the gradient reaches each part."""
    gathered: Tensor = weight.full_tensor() if _is_shard(weight) else weight  # type: ignore[attr-defined]
    return gathered


def _is_shard(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "DTensor"  # importing the class would load torch.distributed


def parameters_in_use(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters that `modules` use, without repetition, borrowed parameters included."""
    found: dict[int, nn.Parameter] = {}
    for module in modules:
        for user in module.modules():
            for source in (user, *borrowed(user)):
                found.update((id(parameter), parameter) for parameter in source.parameters())
    return list(found.values())


def check_owners(model: nn.Module, users: Sequence[tuple[str, nn.Module]]) -> None:
    """Raise an error unless all borrowed modules of `users` are registered in `model`.

    Args:
        users: (name, module) of each layer to check.

    Raises:
        TieError: the model does not hold the owner of a weight: the owner's layer was replaced, or only a part of the
            network was copied.
    """
    registered = {id(module) for module in model.modules()}
    for name, user in users:
        for bank in borrowed(user):
            if id(bank) not in registered:
                raise TieError(
                    f"{name!r} uses shared weights whose owner is not in this model; keep the owner's layer, "
                    "copy the whole network rather than a part of it, or convert again"
                )
