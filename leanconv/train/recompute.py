"""Gradient checkpointing: keep the inputs of blocks only, and compute each block again in the backward pass.

torch.utils.checkpoint does it (the form without re-entry). These functions choose the blocks, and keep the second pass from
counting: a norm would otherwise update its running statistics twice in a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from leanconv.core.errors import SettingError
from leanconv.core.sharing import borrowed

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@contextlib.contextmanager
def recomputed(model: nn.Module, wanted: bool = True) -> Iterator[list[str]]:
    """Inside the block, each block of `model` stores only its input in training, and is computed again for its gradient.

    Losses, gradients, weights and buffers are the same as without it: random numbers are drawn again, and the second pass
    changes no buffer. In eval mode nothing changes.

    Args:
        model: the network.
        wanted: False does nothing.

    Returns:
        the names of the blocks.

    Raises:
        SettingError: the network has no blocks.

    >>> block = lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    >>> with recomputed(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(block(), block()))) as names:
    ...     names
    ['1.0', '1.1']
    """
    found = dict(blocks_of(model)) if wanted else {}
    if wanted and not found:
        raise SettingError(
            f"grad_checkpointing=True: {type(model).__name__} has no blocks of several layers; leave it out, and use accumulate"
        )
    before = {name: vars(module).get("forward") for name, module in found.items()}  # a block may have one of its own
    for module in found.values():
        module.forward = partial(_checkpointed, module, module.forward)
    try:
        yield list(found)
    finally:
        for name, module in found.items():
            vars(module).pop("forward", None)
            own = before[name]
            if own is not None:
                module.forward = own


def blocks_of(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a network by name: the smallest modules with at least two layers that have parameters.

    A module that holds a list of at least two blocks is a stage, and not a block. A container of layers is a block if it is
    inside of another container.
    """
    inside = [(own, child) for own, child in model.named_children() if _layers(child) > 0]
    stage = not name or _holds_blocks(model)
    if not stage and _layers(model) > 1:
        yield name, model
        return
    for own, child in inside:
        yield from blocks_of(child, f"{name}.{own}" if name else own)


def _layers(module: nn.Module) -> int:
    """The layers of a module: modules with parameters of their own, or with weights that they borrow."""
    return sum(any(True for _ in (*part.parameters(recurse=False), *borrowed(part))) for part in module.modules())


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a container in `module`, or `module` itself, holds at least two modules of several layers."""
    return any(
        sum(_layers(child) > 1 for child in part.children()) > 1
        for part in module.modules()
        if isinstance(part, CONTAINERS)
    )


def _checkpointed(module: nn.Module, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    if not module.training:
        return forward(*args, **named)
    contexts = lambda: (contextlib.nullcontext(), _buffers_kept(module))  # noqa: E731
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **named)


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Inside the block, `module` works on copies of its buffers.

    The buffers themselves are not written: autograd would refuse a backward pass through a tensor that was changed.
    """
    own: list[tuple[nn.Module, dict[str, Tensor | None]]] = []
    for part in module.modules():
        for user in (part, *borrowed(part)):
            if user._buffers:
                own.append((user, dict(user._buffers)))
    for user, buffers in own:
        user._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for user, buffers in reversed(own):
            user._buffers.update(buffers)


__all__: Sequence[str] = ("blocks_of", "recomputed")
