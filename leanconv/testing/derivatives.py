"""Rules for derivatives: an operator can be differentiated like nn.Conv2d, by autograd and by torch.func.

Where a rule splits a batch into single images, normalisation layers use their running statistics: torch cannot split the
batch statistics of a dense network either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.utils.checkpoint import checkpoint

from leanconv.core.method import Method
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec
from leanconv.testing.networks import close, image, lean_network, require, still_norms
from leanconv.testing.rules import FEW, FEWER, SOME, rule


def loss_of(outputs: Any) -> Any:
    """A loss with derivatives of every order."""
    return sum((y**3).mean() for y in outputs)


def stepped(lean: nn.Module) -> set[str]:
    """The parameters with straight-through gradients: the output is a step function of them."""
    ops = [(name, module) for name, module in lean.named_modules() if isinstance(module, ConvOp)]
    return {f"{name}.{parameter}".strip(".") for name, op in ops for parameter in op.straight_through}


def _function(lean: nn.Module) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """`lean` as a function of its input and parameters, and the parameters; the `stepped` ones are constants."""
    names, constant = [name for name, _ in lean.named_parameters()], stepped(lean)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        outputs: Any = functional_call(lean, dict(zip(names, values, strict=True)), (x,))
        return torch.stack([y.sum((2, 3)) for y in outputs])

    return run, [p.detach() if name in constant else p for name, p in lean.named_parameters()]


@rule(SOME)
def gradients(method: Method, spec: ConvSpec) -> None:
    """First derivatives equal finite differences, in eval and in training mode, and every parameter gets a gradient."""
    lean = lean_network(method, spec)
    x = image(spec, (4, 5), n=2).requires_grad_()
    for training in (False, True):
        still_norms(lean, training)
        run, smooth = _function(lean)
        require(torch.autograd.gradcheck(run, (x, *smooth), fast_mode=True), "gradcheck fails")
    run(x, *lean.parameters()).square().sum().backward()
    silent = [name for name, parameter in lean.named_parameters() if parameter.grad is None]
    require(not silent, f"the parameters {silent} get no gradient in training")


@rule(FEWER)
def second_derivatives(method: Method, spec: ConvSpec) -> None:
    """Second derivatives equal finite differences, in eval and in training mode."""
    lean = lean_network(method, spec)
    x = image(spec, (4, 5)).requires_grad_()
    for training in (False, True):
        run, smooth = _function(still_norms(lean, training))
        require(torch.autograd.gradgradcheck(run, (x, *smooth), fast_mode=True), "gradgradcheck fails")


@rule(FEW)
def a_gradient_penalty_has_the_gradient_of_finite_differences(method: Method, spec: ConvSpec) -> None:
    """The penalty is the mean of squared input gradients, as in WGAN-GP and R1; its slope is along a random direction."""
    for training in (False, True):
        lean = still_norms(lean_network(method, spec), training)
        x, constant = image(spec, (4, 5)).requires_grad_(), stepped(lean)
        parameters = [p for name, p in lean.named_parameters() if name not in constant]

        def penalty(lean: nn.Module = lean, x: Tensor = x) -> Tensor:
            (gradient,) = torch.autograd.grad(loss_of(lean(x)), x, create_graph=True)
            return gradient.square().mean()

        found = torch.autograd.grad(penalty(), parameters, materialize_grads=True)
        torch.manual_seed(4)
        directions = [torch.randn_like(p) for p in parameters]
        slope = torch.stack([(g * d).sum() for g, d in zip(found, directions, strict=True)]).sum()
        step, values = 1e-6, []
        for sign in (1, -2):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(d, alpha=sign * step)
            values.append(penalty().detach())
        torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-9)


@rule(FEW)
def gradients_of_each_sample_at_once_are_those_of_a_loop(method: Method, spec: ConvSpec) -> None:
    """torch.func.vmap gives the gradients of a loop, in training mode too, with normalisation layers in eval mode."""
    for training in (False, True):
        lean = lean_network(method, spec).train(training)
        for module in lean.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        x, parameters = image(spec, (5, 4), n=3), dict(lean.named_parameters())

        def loss(values: dict[str, Tensor], one: Tensor, lean: nn.Module = lean) -> Any:
            return loss_of(functional_call(lean, values, (one[None],)))

        together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
        for i, one in enumerate(x):
            wanted = torch.autograd.grad(loss(parameters, one), list(parameters.values()), materialize_grads=True)
            close([found[i] for found in together.values()], wanted, "vmap gives other gradients than a loop", 1e-7)


@rule(FEWER)
def forward_mode_and_hessian(method: Method, spec: ConvSpec) -> None:
    """torch.func.jvp and hessian give what reverse mode gives."""
    lean = lean_network(method, spec)
    x, direction = image(spec, (3, 3), n=1), image(spec, (3, 3), n=2)[1:]

    def loss(x: Tensor) -> Any:
        return loss_of(lean(x))

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    forward = jvp(loss, (x,), (direction,))[1]
    close(forward, (gradient * direction).sum().detach(), "forward mode gives another slope", 1e-7)
    (along,) = torch.autograd.grad((gradient * direction).sum(), leaf)
    of_each = hessian(loss)(x).flatten(4).flatten(0, 3)
    close(of_each @ direction.flatten(), along.flatten(), "the Hessian differs from the reverse-mode one", 1e-7)


@rule(FEWER)
def traced_under_grad_it_has_eager_gradients(method: Method, spec: ConvSpec) -> None:
    """A network of torch.jit.trace has the eager gradients, in eval and in training mode."""
    for training in (False, True):
        lean, x = still_norms(lean_network(method, spec), training), image(spec, (5, 4))
        traced: Any = torch.jit.trace(lean, (x,))
        parameters = list(lean.parameters())
        found = torch.autograd.grad(loss_of(traced(x)), parameters, materialize_grads=True)
        wanted = torch.autograd.grad(loss_of(lean(x)), parameters, materialize_grads=True)
        close(found, wanted, "the traced network has other gradients", 1e-7)


@rule(FEWER)
def checkpointed_it_has_the_same_gradients(method: Method, spec: ConvSpec) -> None:
    """torch.utils.checkpoint gives the same gradients, reentrant and not."""
    for reentrant in (False, True):
        lean = still_norms(lean_network(method, spec), True)
        x, parameters = image(spec, (5, 4)).requires_grad_(), list(lean.parameters())
        loss_of(checkpoint(lean, x, use_reentrant=reentrant)).backward()
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        wanted = torch.autograd.grad(loss_of(lean(x)), parameters, materialize_grads=True)
        close(found, wanted, "with checkpointing the gradients differ", 1e-7)
