"""Optimizers: torch's SGD and AdamW, torch's Muon for matrices, and rules for single parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from leanconv.conversion.globs import ParameterNames
from leanconv.core.copying import refuse_meta
from leanconv.core.errors import SettingError
from leanconv.train.config import RunConfig, parse_rule
from leanconv.train.freeze import frozen

Group = dict[str, Any]
LR_FACTOR = "lr_factor"  # of a group: its learning rate as a multiple of the schedule's


def make_optimizer(model: nn.Module, config: RunConfig, *, fused: bool = False) -> Optimizer:
    """The optimizer of a run; it has one group for each learning rate and weight decay.

    - "sgd", "adamw": torch's SGD or AdamW for all parameters.
    - "muon": torch's Muon for the parameters of `matrices`; SGD or AdamW (`muon_rest`) for all others. It orthogonalises in
      bfloat16 if `precision` is "bf16", and otherwise in the dtype of the weights.

    Args:
        model: the network; parameters without `requires_grad` are left out.
        config: the settings of the run.
        fused: use torch's fused kernels, which exist for CPUs and CUDA devices.

    Raises:
        SettingError: a rule matches no parameter, or "muon" finds no matrix.

    >>> make_optimizer(nn.Linear(2, 2), RunConfig(optimizer="adamw")).param_groups[0]["betas"]
    (0.9, 0.999)
    """
    by_muon, others = parameter_groups(model, config)
    others = others or [{"params": []}]
    rest: Optimizer
    if (config.muon_rest if config.optimizer == "muon" else config.optimizer) == "adamw":
        betas = config.betas[0], config.betas[1]
        rest = torch.optim.AdamW(others, config.lr, betas, config.eps, fused=fused)
    else:
        rest = torch.optim.SGD(others, config.lr, config.momentum, nesterov=config.nesterov, fused=fused)
    if config.optimizer != "muon":
        return rest
    return MuonAndRest(
        by_muon, rest, bf16=config.precision == "bf16", momentum=config.muon_momentum, nesterov=config.muon_nesterov,
        adjust_lr_fn=config.muon_adjust_lr,
    )  # fmt: skip


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of each group to its factor times `lr`.

    Args:
        optimizer: the result of `make_optimizer`.
        lr: the learning rate of the schedule.

    >>> optimizer = make_optimizer(nn.Linear(2, 2), RunConfig(lr_rules=["bias=64"]))
    >>> set_lr(optimizer, 0.5)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.5, 32.0]
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_FACTOR, 1.0)  # a checkpoint of an earlier version has no factor


def check_float32(model: nn.Module) -> None:
    """Raise SettingError if the network has floating-point weights of another type than float32.

    >>> check_float32(nn.Linear(2, 2).half())
    Traceback (most recent call last):
    leanconv.core.errors.SettingError: 'weight' of Linear is torch.float16; leanconv trains float32: call model.float() first
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise SettingError(
                f"{name!r} of {type(model).__name__} is {parameter.dtype}; leanconv trains float32: call model.float() first"
            )


def check_trainable(model: nn.Module, else_: str = "") -> None:
    """Raise SettingError if `model` cannot be trained: it is frozen, on the meta device or not float32, or nothing has gradients.

    Args:
        model: the network.
        else_: another way out than to make the parameters trainable, for the message.

    >>> check_trainable(nn.Linear(2, 2).requires_grad_(False))
    Traceback (most recent call last):
    leanconv.core.errors.SettingError: all parameters of Linear are frozen, so nothing trains; call model.requires_grad_(True)
    """
    refuse_meta(model)
    check_float32(model)
    name = type(model).__name__
    if torch.is_inference_mode_enabled():
        raise SettingError(f"nothing trains within torch.inference_mode; call leanconv outside of its block{else_}")
    made = next((key for key, tensor in model.state_dict().items() if tensor.is_inference()), None)
    if made is not None:
        raise SettingError(
            f"{made!r} of {name} was made within torch.inference_mode, so it cannot train; build the network outside of its block"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingError(
            f"all parameters of {name} are frozen, so nothing trains; call model.requires_grad_(True){else_}"
        )


def check_parameters(model: nn.Module, config: RunConfig) -> None:
    """Check the settings that name parameters, before a run writes anything.

    Raises:
        SettingError: a glob of `freeze`, of a rule or of `muon_exclude` matches no parameter; no parameter is left to train,
            see `check_trainable`; or "muon" finds no matrix.

    >>> check_parameters(nn.Linear(2, 2), RunConfig(lr_rules=["biases=2"]))
    Traceback (most recent call last):
    leanconv.core.errors.SettingError: lr_rules='biases' matches none of the 2 parameters ('bias', ...)
    """
    check_trainable(model)
    with frozen(model, config.freeze):
        parameter_groups(model, config)


def parameter_groups(model: nn.Module, config: RunConfig) -> tuple[list[Group], list[Group]]:
    """The trained parameters in groups of equal learning rate and weight decay: those of Muon, and the others.

    A rule is a glob over names of parameters and a number. The first rule that matches a parameter decides, as in a plan.
    `lr_rules` multiply the learning rate of the parameter's optimizer (`lr` or `muon_lr`). `weight_decay_rules` replace its
    weight decay (`weight_decay` or `muon_weight_decay`, or 0 through `no_decay_norm`).

    In each step SGD changes a weight w of factor f, at the schedule's learning rate lr, by

        w <- w - f lr v,   v <- momentum v + gradient + decay w

    so that without momentum the decay alone multiplies w by 1 - f lr decay, as in AdamW and Muon. With `decoupled` the
    decay is divided by f: the product is 1 - lr decay, whatever the rules and `muon_lr` give as learning rate.

    Args:
        model: the network.
        config: the settings of the run.

    Raises:
        SettingError: a rule matches no parameter, or "muon" finds no matrix.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    >>> _, groups = parameter_groups(model, RunConfig(lr=0.1, weight_decay=0.01, lr_rules=["1.bias=4"], decoupled=True))
    >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
    [(3, 0.1, 0.01), (1, 0.4, 0.0025)]
    """
    names = ParameterNames(model)
    factors, decays = (_ruled(names, what, getattr(config, what)) for what in ("lr_rules", "weight_decay_rules"))
    of_muon = set(matrices(model, config)) if config.optimizer == "muon" else set()
    by_muon: dict[Any, Group] = {}
    others: dict[Any, Group] = {}
    free = {own for own in names if config.no_decay_norm and own.ndim < 2}
    # The free parameters come last and in a group of their own, as in checkpoints of earlier versions
    for own in sorted((own for own in names if own.requires_grad), key=lambda own: own in free):
        muon = own in of_muon
        factor = factors.get(own, 1.0) * (config.muon_lr / config.lr if muon else 1.0)
        default = 0.0 if own in free else config.muon_weight_decay if muon else config.weight_decay
        decay = decays.get(own, default) / (factor if config.decoupled else 1.0)
        new = {"params": [], "lr": config.lr * factor, LR_FACTOR: factor, "weight_decay": decay}
        (by_muon if muon else others).setdefault((factor, decay, own in free), new)["params"].append(own)
    return list(by_muon.values()), list(others.values())


def _ruled(names: ParameterNames, what: str, rules: Sequence[str]) -> dict[nn.Parameter, float]:
    """The number of each parameter that one of `rules` matches."""
    values: dict[nn.Parameter, float] = {}
    for glob, value in (parse_rule(what, rule) for rule in rules):
        for parameter in names.matching(what, glob):
            values.setdefault(parameter, value)
    return values


def matrices(model: nn.Module, config: RunConfig) -> list[nn.Parameter]:
    """The parameters that Muon trains: those of two and more dimensions in hidden layers.

    By default these are all such parameters except those of the first and the last layer that has any: the stem and the
    classifier. If `muon_exclude` is given, they are all except the parameters that its globs match.

    Raises:
        SettingError: there is none, or a glob matches no parameter.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> [tuple(weight.shape) for weight in matrices(model, RunConfig())]
    [(4, 2, 3, 3)]
    """
    names = ParameterNames(model)
    if config.muon_exclude:
        left_out = {own for glob in config.muon_exclude for own in names.matching("muon_exclude", glob)}
    else:
        layers = [list(layer.parameters(recurse=False)) for layer in model.modules()]
        layers = [layer for layer in layers if any(own.ndim >= 2 for own in layer)]
        left_out = {*chain(*layers[:1], *layers[-1:])}
    found = [own for own in names if own.ndim >= 2 and own not in left_out]
    if not any(own.requires_grad for own in found):
        raise SettingError("optimizer='muon' finds no matrix to train between the first and the last layer; use 'sgd'")
    return found


class MuonAndRest(Optimizer):
    """torch's Muon for some groups, and another optimizer of torch for the other groups, as one optimizer.

    A weight of any shape (O, ...) is orthogonalised as the matrix (O, product of the other sizes): (O, I kh kw) for a
    convolution, as in Muon's reference. The columns are in the order in which memory holds them, which makes no difference to
    an orthogonal matrix; so the matrix is a view, also of a weight in channels_last. A weight that several layers use is one
    matrix.

    Args:
        groups: parameter groups of Muon; at least one.
        rest: the optimizer of the other groups.
        bf16: orthogonalise in bfloat16, as torch.optim.Muon does; otherwise in the dtype of the weights.
        settings: settings of torch.optim.Muon.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> optimizer = make_optimizer(model, RunConfig(optimizer="muon"))
    >>> model(torch.ones(1, 1, 5, 5)).sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[model[1].weight]["momentum_buffer"].shape
    torch.Size([4, 2, 3, 3])
    """

    def __init__(self, groups: Sequence[Group], rest: Optimizer, *, bf16: bool, **settings: Any) -> None:
        self.rest, self.bf16 = rest, bf16
        of_matrices = [{**group, "params": [_matrix(own, own.detach()) for own in group["params"]]} for group in groups]
        self.muon = torch.optim.Muon(of_matrices, **settings)
        completed = [
            {**own, "params": group["params"]} for own, group in zip(self.muon.param_groups, groups, strict=True)
        ]
        super().__init__([*completed, *rest.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the optimizer of the other groups work on the state and the groups of this one."""
        others = self.param_groups[len(self.muon.param_groups) :]
        self.rest.__setstate__({"state": self.state, "param_groups": others})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step.

        Args:
            closure: computes the loss and the gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        changed: list[tuple[Tensor, Tensor, Tensor]] = []
        self.muon.state.clear()
        for mine, group in zip(self.muon.param_groups, self.param_groups, strict=False):
            mine.update(group, params=[])
            for own in group["params"]:
                if own.grad is None:
                    continue
                if not self.state[own]:
                    self.state[own]["momentum_buffer"] = torch.zeros_like(own)
                buffer = self.state[own]["momentum_buffer"]
                weight, momentum = _matrix(own, own.detach()), _matrix(own, buffer)
                weight.grad = _matrix(own, own.grad)
                mine["params"].append(weight)
                self.muon.state[weight] = {"momentum_buffer": momentum}
                changed += [(own, own, weight), (own, buffer, momentum)]
        with contextlib.nullcontext() if self.bf16 else _Unrounded():
            self.muon.step()
        for own, target, matrix in changed:
            if matrix.data_ptr() != target.data_ptr():  # no view exists
                permuted = target.permute(_order(own))
                permuted.copy_(matrix.view(permuted.shape))
        self.rest.step()
        return loss


class _Unrounded(TorchFunctionMode):
    """Inside the block, ``tensor.to(dtype=torch.bfloat16, ...)`` keeps the dtype of the tensor.

    torch.optim.Muon always rounds to bfloat16. A step on `fast_vgg` then takes 5.0 s on a core without bfloat16 instructions
    (AMD EPYC), and 0.2 s in float32.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to and kwargs.get("dtype") is torch.bfloat16:
            kwargs = {**kwargs, "dtype": args[0].dtype}
        return func(*args, **kwargs)


def _order(weight: Tensor) -> tuple[int, ...]:
    """The first dimension, then the others as they lie in memory, from far to near."""
    return 0, *sorted(range(1, weight.ndim), key=weight.stride, reverse=True)


def _matrix(weight: Tensor, values: Tensor) -> Tensor:
    """`values`, of the shape of `weight`, as a matrix whose columns are in the order of `weight` in memory."""
    return values.permute(_order(weight)).flatten(1)


def state_of(group: Mapping[str, Any]) -> tuple[str, ...]:
    """What torch's optimizer of this group keeps for each parameter, in the parameter's shape.

    >>> state_of(make_optimizer(nn.Linear(2, 2), RunConfig(optimizer="adamw")).param_groups[0])
    ('exp_avg', 'exp_avg_sq')
    """
    return ("exp_avg", "exp_avg_sq") if "betas" in group else ("momentum_buffer",)
