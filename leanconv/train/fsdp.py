"""FSDP2 (torch's fully_shard) for a loop of your own: the weights of each block are divided between the processes.

A weight that several layers share must be whole whenever one of them runs. So its owner and all its users must be in one unit,
the part of the network whose weights are gathered together.

`leanconv.fit` trains with DDP, and refuses a strategy that divides weights. The state of a convolutional network is small
beside its feature maps, which FSDP2 does not divide, and last.ckpt, averaged weights and their checks need whole weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.sharing import borrowed
from leanconv.train.recompute import blocks_of


def units_of(model: nn.Module) -> list[str]:
    """The names of the blocks that may be units of their own; all other layers are in the unit of the whole network.

    A block that shares a weight with layers outside of it belongs to the unit of the whole network, and so do those layers.

    Raises:
        SettingError: no block is left, so that nothing would be divided.

    >>> block = lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    >>> units_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(block(), block())))
    ['1.0', '1.1']
    """
    blocks = dict(blocks_of(model))
    home = {id(part): name for name, block in blocks.items() for part in block.modules()}
    joined: set[str | None] = set()
    for user in model.modules():
        for bank in borrowed(user):
            places = {home.get(id(user)), home.get(id(bank))}
            if len(places) > 1:
                joined |= places
    left = [name for name in blocks if name not in joined]
    if not left:
        why = "its blocks share weights with each other" if blocks else "it has no blocks of several layers"
        raise SettingError(
            f"{type(model).__name__} cannot be divided: {why}, and a shared weight must be whole; use DDP"
        )
    return left


def shard_(model: nn.Module, **options: Any) -> nn.Module:
    """Divide the weights of `model` between the processes, in place, by torch's fully_shard; returns `model`.

    Create the optimizer afterwards. `lc.penalty(model)`, before or after the forward pass, and `lc.check(model)` work as before.
    The weights become contiguous, because torch divides no others; channels_last images are fine.

    Args:
        model: the network, on the device of the training.
        options: of ``torch.distributed.fsdp.fully_shard``: mesh, mp_policy, ...

    Raises:
        SettingError: as `units_of`.
    """
    from torch.distributed.fsdp import fully_shard

    units = units_of(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    for name in units:
        fully_shard(model.get_submodule(name), **options)
    fully_shard(model, **options | {"reshard_after_forward": False})  # its weights are whole for all blocks of a step
    return model


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a divided network with whole tensors on the CPU; every process must call this, and each gets all.

    Load it into a network that is not divided to save or export it: ``fresh.load_state_dict(whole_state(model))``.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    found: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return {name: value.detach().cpu() for name, value in found.items()}
