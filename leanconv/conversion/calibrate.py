"""Statistics of normalisation layers from real activations, after a conversion."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanconv.conversion.moments import call, inputs_of
from leanconv.core.copying import refuse_lazy
from leanconv.core.errors import DataError, LeanconvWarning
from leanconv.core.modes import evaluating, input_of
from leanconv.core.operator import ConvOp


@torch.no_grad()
def calibrate_(lean: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Set the statistics of every batch norm inside leanconv's operators to the statistics of `batches`, in place.

    The norms compute the same in eval mode as before: with mean m and variance v of its input, a norm y = a x + b gets
    running_mean m, running_var v, weight a sqrt(v + eps) and bias b + a m. So a network that was converted with
    ``init="fit"`` computes the same in eval mode, and its output does not jump when training starts.

    Args:
        batches: inputs of the model, (N, C, H, W) each; a few hundred images are enough.

    Returns:
        `lean` itself.
    """
    norms = [norm for norm in _inside_operators(lean) if norm.affine]
    sums = {norm: InputSums() for norm in norms}
    with evaluating(lean):
        _measure(lean, sums, batches)
    for norm, found in sums.items():
        if found.count:
            _keep_function(norm, *found.statistics())
    return lean


@torch.no_grad()
def reestimate_norms_(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Set the statistics of every batch norm of `model` to those of its input on `batches`, in place.

    After a fit, the inputs of the norms have other means and variances than in the dense network; this is the cheapest step
    that brings accuracy back. It changes what the network computes; `calibrate_` does not.

    All norms are measured in one pass, each normalising with the statistics of its batch meanwhile, as in training; other
    layers, such as dropout, are in eval mode. Mean and variance are those of all batches together. Take large batches: the
    statistics of a norm are exact if the norms before it see all images in one batch. A norm inside an operator that has not
    been trained since its fit keeps its function, as with `calibrate_`, because the fit made it the identity.

    Args:
        batches: inputs of the network, or pairs (inputs, anything), as in `leanconv.convert`; some hundred training images.

    Returns:
        `model` itself.

    Warns:
        LeanconvWarning: another kind of norm has running statistics, or a scripted one; it keeps them.

    Raises:
        DataError: there is no batch, the network does not take one, a norm gets a single value for each channel, or the
            statistics are not finite.

    >>> model = nn.Sequential(nn.BatchNorm2d(1))
    >>> reestimate_norms_(model, [torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)])[0].running_mean
    tensor([2.])
    """
    refuse_lazy(model)
    _warn_of_others(model)
    kept = {norm for norm in _inside_operators(model) if norm.affine and not _trained(norm)}
    sums = {norm: InputSums() for norm in _norms(model)}
    with normalising_by_batch(model, kept):
        _measure(model, sums, batches)
    for norm, found in sums.items():
        if not found.count:
            continue
        mean, var = found.statistics()
        if norm in kept:
            _keep_function(norm, mean, var)
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
    return model


def _warn_of_others(model: nn.Module) -> None:
    """Warn of norms with running statistics that are none of torch's batch norms, and that are not frozen."""
    others = [
        f"{name!r} ({getattr(part, 'original_name', type(part).__name__)})"
        for name, part in model.named_modules()
        if not isinstance(part, _BatchNorm)
        and isinstance(getattr(part, "running_mean", None), Tensor)
        and "frozen" not in type(part).__name__.lower()
    ]
    if others:
        warnings.warn(
            f"the statistics of {', '.join(others[:3])}{', ...' if len(others) > 3 else ''} stay as they are: only torch's batch "
            "norms are estimated again; train the network, or set running_mean and running_var yourself",
            LeanconvWarning,
            stacklevel=3,
        )


def has_norms(model: nn.Module) -> bool:
    """Whether `reestimate_norms_` has norms to estimate."""
    return bool(_norms(model))


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms with running statistics."""
    return [part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]


@contextmanager
def normalising_by_batch(model: nn.Module, kept: Container[nn.Module] = ()) -> Iterator[None]:
    """Within the block, batch norms normalise with the statistics of the batch, and keep their running statistics.

    All other layers are in eval mode.

    Args:
        model: the network.
        kept: norms that normalise with their running statistics.
    """
    norms = _norms(model)
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.momentum = 0.0  # leaves the running statistics
            if norm.num_batches_tracked is not None:  # a norm that synchronises processes requires one
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
            norm.train(norm not in kept)
        try:
            yield
        finally:
            for norm, momentum, tracked in before:
                norm.momentum = momentum
                norm.num_batches_tracked = tracked


def _inside_operators(model: nn.Module) -> Sequence[_BatchNorm]:
    """The batch norms with running statistics inside leanconv's operators, each once."""
    operators = (module for module in model.modules() if isinstance(module, ConvOp))
    found = [part for module in operators for part in module.modules() if isinstance(part, _BatchNorm)]
    return [norm for norm in dict.fromkeys(found) if norm.track_running_stats]


def _trained(norm: _BatchNorm) -> bool:
    """Whether the norm has seen a batch in training mode."""
    return norm.num_batches_tracked is None or bool(norm.num_batches_tracked)


class InputSums:
    """The sums of the inputs of a norm and of their squares, for each channel."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, norm: nn.Module, args: tuple[Tensor, ...], named: Mapping[str, Tensor] = {}) -> None:
        given: Tensor = input_of(args, named)
        x = given.double()
        x = x.movedim(1, 0).flatten(1) if x.dim() > 1 else x[:, None]
        if norm.training and x.shape[1] < 2:
            raise DataError(
                f"a batch norm gets an input of shape {tuple(given.shape)}, one value for each channel, which has no variance; "
                "give larger batches, as a DataLoader does with drop_last=True"
            )
        self.count += x.shape[1]
        self.total = self.total.to(x.device) + x.sum(1)
        self.squares = self.squares.to(x.device) + x.square().sum(1)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0)


def _measure(model: nn.Module, sums: dict[Any, InputSums], batches: Iterable[Any]) -> None:
    """Run `model` on the inputs of `batches` in its present mode, with each norm counted in its sums."""
    hooks = [norm.register_forward_pre_hook(found, with_kwargs=True) for norm, found in sums.items()]
    empty = True
    try:
        for batch in inputs_of(batches):
            call(model, batch)
            empty = False
    finally:
        for hook in hooks:
            hook.remove()
    if empty:
        raise DataError("there is no batch of images (an iterator can be read only once); give a list or a DataLoader")
    if not all(found.squares.isfinite().all() for found in sums.values()):
        raise DataError("the inputs of a norm hold NaN or infinity; give images that the network can compute with")


def _keep_function(norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Give `norm` these statistics, and the weight and bias with which it computes the same in eval mode as before."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    norm.weight.copy_(scale * torch.sqrt(norm.running_var + norm.eps))
    norm.bias.copy_(shift + scale * norm.running_mean)
