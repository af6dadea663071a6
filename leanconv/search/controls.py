"""Controls: the same network made narrower or shallower to a budget of MACs, without a choice that sees its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from leanconv.conversion.channel_plan import ChannelPlan, apply_channels_, channel_plans
from leanconv.conversion.channels import channels_met, sized
from leanconv.conversion.following import Following
from leanconv.conversion.labels import COPIES
from leanconv.core.copying import copied
from leanconv.core.count import count_macs
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize, dry_run, on_meta
from leanconv.core.notes import get_base
from leanconv.core.wrappers import unwrapped
from leanconv.models.create import create_model
from leanconv.search.pruning import check_some, plan_channels


def narrower(
    model: nn.Module,
    macs: float | None = None,
    *,
    align: int = 8,
    ratios: Mapping[str, float] | None = None,
    input_size: InputSize | None = None,
) -> nn.Module:
    """The same network with fewer channels in each layer and new weights, to be trained from scratch.

    The control for pruning: same shapes, other weights. A network that `create_model` built is built again, so it has its own
    initialisation, and its first channels stay; the weights of a layer are scaled as its number of inputs fell, so that their
    variance is that of the narrower layer. Other networks, and one of which a part was replaced, initialise each layer by its
    ``reset_parameters``. Layers that were frozen are trained again, because their weights are new.

    Args:
        macs, align, ratios, input_size: as in `leanconv.prune`.

    Raises:
        SettingError: as `leanconv.prune`; or a part with weights has no ``reset_parameters``, and the network no builder.

    >>> import leanconv as lc
    >>> thin = narrower(lc.create_model("resnet20"), macs=0.25, align=2)
    >>> thin.conv1.out_channels
    8
    """
    model = unwrapped(model)
    plan = plan_channels(model, macs, "first", align=align, ratios=ratios, input_size=input_size)
    thin, fresh = copied(model), _again(model)
    if fresh is None:
        apply_channels_(thin, plan)
        _reset_(thin)
        return thin
    thin.load_state_dict(fresh.state_dict())
    trained = {name: parameter.requires_grad for name, parameter in fresh.named_parameters()}
    for name, parameter in thin.named_parameters():  # frozen layers would keep their new weights
        parameter.requires_grad_(trained.get(name, parameter.requires_grad))
    before = {name: _inputs(parameter) for name, parameter in thin.named_parameters()}
    apply_channels_(thin, plan)
    with torch.no_grad():
        for name, parameter in thin.named_parameters():
            parameter.mul_((before[name] / _inputs(parameter)) ** 0.5)
        _revive_(thin)
    return thin


def _again(model: nn.Module) -> nn.Module | None:
    """The network that `create_model` built, with new weights; None for others, and where parts of it were replaced."""
    base = get_base(model)
    if base is None:
        return None
    fresh = create_model(base["name"], **base["kwargs"])
    for made in channel_plans(model):
        apply_channels_(fresh, made)
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (fresh, model)]
    return fresh if shapes[0] == shapes[1] else None


def _revive_(model: nn.Module) -> None:
    """Draw filters of zeros anew: each was the identity of a channel that is gone, and its norm would divide by no variance."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            zero = module.weight.flatten(1).eq(0).all(1)
            if zero.any() and not zero.all():
                drawn = copied(module)
                assert isinstance(drawn, nn.Conv2d)
                drawn.reset_parameters()
                module.weight[zero] = drawn.weight[zero]


def _inputs(parameter: Tensor) -> int:
    """The inputs of one output, whose number the variance of initial weights follows; 1 for vectors."""
    return parameter[0].numel() if parameter.dim() > 1 else 1


def _reset_(model: nn.Module) -> None:
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            for parameter in module.parameters(recurse=False):  # a frozen layer would keep its new weights
                parameter.requires_grad_()
        elif any(parameter is not None for parameter in module._parameters.values()):
            raise SettingError(
                f"{name!r} is a {type(module).__name__} with weights and no reset_parameters(), so it cannot be initialised "
                "again; give it one, or build the network with lc.create_model"
            )


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block that adds to its input and keeps its shape, so that the network runs without it.

    Args:
        name: the module.
        stage: what blocks that follow each other have in common: their channels and the size of their feature maps.
    """

    name: str
    stage: tuple[int, ...]


VIEWS = {
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "permute",
    "transpose",
    "t",
    "unsqueeze",
    "squeeze",
    "movedim",
}
SAME_VALUES = (COPIES - {"dropout", "_softmax", "_log_softmax"}) | VIEWS


class _Sums(Following):
    """Also notes which modules add something to their own input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.running: list[tuple[str, int]] = []  # the module, and the id of its input
        self.adding: set[str] = set()
        self.ends: dict[str, list[tuple[Tensor, Tensor, tuple[int, ...], int]]] = {}
        self._origins: dict[int, tuple[Tensor, int]] = {}  # the id of the tensor whose values a tensor has
        for name, module in model.named_modules():
            module.register_forward_pre_hook(
                lambda module, args, named, name=name: self._begun(name, (*args, *named.values())), with_kwargs=True
            )
            module.register_forward_hook(
                lambda module, args, named, out, name=name: self._ended(name, (*args, *named.values()), out),
                with_kwargs=True,
            )

    def _begun(self, name: str, args: tuple[Any, ...]) -> None:
        self.running.append((name, self._origin(args[0]) if args and isinstance(args[0], Tensor) else 0))

    def _origin(self, tensor: Tensor) -> int:
        return self._origins[id(tensor)][1] if id(tensor) in self._origins else id(tensor)

    def _ended(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        self.running.pop()
        if name in self.adding and len(args) == 1 and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            labels = [self._get(tensor) for tensor in (args[0], out)]
            if args[0].shape == out.shape and all(isinstance(found, Tensor) for found in labels):
                taken, made = (torch.unique(found) for found in labels if isinstance(found, Tensor))
                self.ends.setdefault(name, []).append((taken, made, tuple(out.shape[1:]), len(self.ends)))

    def _follow(self, name: str, func: Any, args: Any, kwargs: Any, operands: list[Tensor], out: Any) -> None:
        if name == "add" and sum(isinstance(self._get(tensor), Tensor) for tensor in operands) > 1 and self.running:
            module, taken = self.running[-1]
            if taken in map(self._origin, operands) and kwargs.get("alpha", 1) == 1:
                self.adding.add(module)
        if func._schema.is_mutable:
            for tensor in operands[:1]:  # it has other values now
                self._origins[id(tensor)] = tensor, -1 - len(self._origins)
        elif name in SAME_VALUES and isinstance(out, Tensor) and operands:
            self._origins[id(out)] = out, self._origin(operands[0])
        super()._follow(name, func, args, kwargs, operands, out)


def residual_blocks(model: nn.Module, input_size: InputSize | None = None) -> list[Block]:
    """The residual blocks without which `model` still runs, in the order of the network.

    A module is one if it adds something to its input itself, has one input of the shape of its output, is called once, and its
    output channels are its input channels, because the input is a term of the sum. A block that code still calls after its
    removal, by a reference that a conversion does not reach, is left out.

    >>> import leanconv as lc
    >>> [block.name for block in residual_blocks(lc.create_model("resnet20"))][:3]
    ['layer1.0', 'layer1.1', 'layer1.2']
    """
    model = unwrapped(model)
    size = sized(model, input_size)

    def run(twin: nn.Module, images: Tensor) -> _Sums:
        following = _Sums(twin)
        following.start(images)
        with following:
            twin(images)
        return following

    following = dry_run(model, size, run)
    channel = channels_met(following)
    found = []
    for name, calls in following.ends.items():
        taken, made, shape, _ = calls[0]
        numbers = [sorted(set(channel[labels].tolist())) for labels in (taken, made)]
        if name and len(calls) == 1 and numbers[0] == numbers[1] and numbers[0] != [0]:
            found.append(Block(name, (numbers[0][0], *shape)))
    inner = {block.name for block in found}
    found = [block for block in found if not any(name.startswith(f"{block.name}.") for name in inner)]
    gone = _gone(model, [block.name for block in found], size)
    return [block for block in found if block.name in gone]


def _gone(model: nn.Module, names: list[str], size: InputSize) -> set[str]:
    """The blocks that do not run any more after their removal, where the network runs without them."""
    if not names:
        return set()

    def run(twin: nn.Module, images: Tensor) -> set[str]:
        blocks = {network.get_submodule(name): name for network in (model, twin) for name in names}
        apply_channels_(twin, ChannelPlan(removed=tuple(names)))
        called: set[str] = set()
        handle = register_module_forward_pre_hook(lambda module, _: called.add(blocks.get(module, "")))
        try:
            twin(images)
        finally:
            handle.remove()
        return set(names) - called

    try:
        return dry_run(model, size, run)
    except SettingError:
        return set().union(*(_gone(model, [name], size) for name in names)) if len(names) > 1 else set()


def shallower(model: nn.Module, macs: float, *, input_size: InputSize | None = None) -> nn.Module:
    """A copy of `model` without some of its residual blocks, with at most the share `macs` of its MACs.

    The last block of the stage with most blocks goes first, so that the stages stay balanced; the fewest blocks go that meet
    the budget. A block becomes ``nn.Identity``, and the names of all other layers stay. The channel plan in the record of the
    copy lists the blocks, so `leanconv.save` and `leanconv.load` keep it.

    Raises:
        SettingError: the budget cannot be met, or the model has no such block.

    >>> import leanconv as lc
    >>> half = shallower(lc.create_model("resnet20"), macs=0.5)
    >>> [name for name, module in half.named_modules() if isinstance(module, nn.Identity) and name.count(".") == 1]
    ['layer1.0', 'layer1.1', 'layer1.2', 'layer2.2', 'layer3.2']
    """
    model = unwrapped(model)
    if isinstance(macs, bool) or not isinstance(macs, int | float) or not 0 < macs <= 1:
        raise SettingError(f"macs={macs!r} must be a share of more than 0 and at most 1, such as 0.5")
    size = sized(model, input_size)
    order = _order(residual_blocks(model, size))
    dense = count_macs(model, size)
    check_some(dense)

    def share(blocks: int) -> float:
        return count_macs(apply_channels_(on_meta(model), ChannelPlan(removed=tuple(order[:blocks]))), size) / dense

    low, high = 0, len(order)
    least = share(high)
    if least > macs:
        raise SettingError(
            f"macs={macs} cannot be met by leaving out residual blocks; without all {high} it is "
            f"{math.ceil(1000 * least) / 1000}"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) <= macs else (middle + 1, high)
    return apply_channels_(copied(model), ChannelPlan(removed=tuple(order[:low])))


def _order(blocks: list[Block]) -> list[str]:
    """The names of the blocks in the order in which they go."""
    stages: dict[tuple[int, ...], list[str]] = {}
    for block in blocks:
        stages.setdefault(block.stage, []).append(block.name)
    order = []
    while any(stages.values()):
        order.append(max(stages.values(), key=len).pop())
    return order
