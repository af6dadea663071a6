"""Training and evaluation mode, and what hooks get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def in_eval(module: Module) -> Module:
    """`module`, put into eval mode. The ``train()`` of a network's author may return nothing, so its value is not used.

    >>> in_eval(nn.Dropout()).training
    False
    """
    module.eval()
    return module


def in_training(module: Module) -> Module:
    """`module`, put into training mode, as `in_eval`."""
    module.train()
    return module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, `model` is in eval mode; after the block, each of its modules has its old mode again.

    >>> model = nn.Dropout()
    >>> with evaluating(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(
            before[0][1]
        )  # some networks do more here than set a flag, such as torchvision's feature extractors
        for module, training in before:
            module.training = training


def input_of(args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """The first input of a module, in a hook with keywords (``with_kwargs=True``): a network may pass it by its name.

    >>> import torch
    >>> seen = []
    >>> layer = nn.Linear(1, 1)
    >>> hook = layer.register_forward_pre_hook(lambda _, args, named: seen.append(input_of(args, named)), with_kwargs=True)
    >>> _ = layer(input=torch.ones(1))
    >>> seen
    [tensor([1.])]
    """
    return args[0] if args else next(iter(named.values()))
