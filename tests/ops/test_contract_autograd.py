"""The contract under autograd and its transforms: every operator can be differentiated as nn.Conv2d can.

Norms use their running statistics where a batch is taken apart: torch cannot take a dense network's apart either.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.utils.checkpoint import checkpoint

from tests.ops.contract import FEW, FIRST, SPECS, image, lean_network, on, on_few

pytestmark = [  # torch says these of its own parts
    pytest.mark.filterwarnings(r"ignore:`torch.jit.\w+` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor:torch.jit.TracerWarning:torch.nn"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning"),
]

# The first case of each method on two convolutions, and every variant on one: what is slow, and passes or fails alike on the rest
on_fewer = on([(m, n) for m, n in FEW if n == "stride 2" or (FIRST[type(m)] == m and n == "groups")])


def still(lean: nn.Module, training: bool) -> nn.Module:
    """`lean` as a function: its norms compute from their running statistics, or from the batch without noting it."""
    lean.train(training)
    for module in lean.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return lean


def frozen_norms(lean: nn.Module) -> nn.Module:
    """`lean` in training, its norms in eval."""
    for module in lean.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return lean


def loss_of(outputs):
    return sum((y**3).mean() for y in outputs)


@pytest.mark.parametrize("training", [False, True])
@on_fewer
def test_second_derivatives(method, name, training):
    lean = still(lean_network(method, SPECS[name]), training)
    x = image(SPECS[name], (4, 5)).requires_grad_()
    names, parameters = zip(*lean.named_parameters(), strict=True)
    # gradcheck takes a step, over which a choice does not change
    smooth = [p.detach() if n.endswith("selector") else p for n, p in zip(names, parameters, strict=True)]

    def run(x, *values):
        return torch.stack([y.sum((2, 3)) for y in functional_call(lean, dict(zip(names, values, strict=True)), (x,))])

    assert torch.autograd.gradgradcheck(run, (x, *smooth), fast_mode=True)


@pytest.mark.parametrize("training", [False, True])
@on_few
def test_a_gradient_penalty_has_the_gradient_of_finite_differences(method, name, training):
    """The mean of squared input gradients, as WGAN-GP and R1 take it; its slope along a random direction of the weights."""
    lean = still(lean_network(method, SPECS[name]), training)
    x = image(SPECS[name], (4, 5)).requires_grad_()
    parameters = [p for n, p in lean.named_parameters() if not n.endswith("selector")]

    def penalty():
        (gradient,) = torch.autograd.grad(loss_of(lean(x)), x, create_graph=True)
        return gradient.square().mean()

    gradients = torch.autograd.grad(penalty(), parameters, materialize_grads=True)
    torch.manual_seed(4)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    step, values = 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=sign * step)
        values.append(penalty().detach())
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
@on_few
def test_gradients_of_each_sample_at_once_are_those_of_a_loop(method, name, training):
    lean = lean_network(method, SPECS[name])
    lean = frozen_norms(lean) if training else lean
    x = image(SPECS[name], (5, 4), n=3)
    parameters = dict(lean.named_parameters())

    def loss(values, one):
        return loss_of(functional_call(lean, values, (one[None],)))

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, one in enumerate(x):
        wanted = torch.autograd.grad(loss(parameters, one), list(parameters.values()), materialize_grads=True)
        for found, plain in zip(together.values(), wanted, strict=True):
            torch.testing.assert_close(found[i], plain)


@on_fewer
def test_forward_mode_and_hessian(method, name):
    lean = lean_network(method, SPECS[name])
    x, direction = image(SPECS[name], (3, 3), n=1), image(SPECS[name], (3, 3), n=2)[1:]

    def loss(x):
        return loss_of(lean(x))

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    torch.testing.assert_close(jvp(loss, (x,), (direction,))[1], (gradient * direction).sum().detach())
    (along,) = torch.autograd.grad((gradient * direction).sum(), leaf)
    of_each = hessian(loss)(x).flatten(4).flatten(0, 3)
    torch.testing.assert_close(of_each @ direction.flatten(), along.flatten())


@pytest.mark.parametrize("training", [False, True])
@on_fewer
def test_traced_under_grad_it_has_eager_gradients(method, name, training):
    lean = still(lean_network(method, SPECS[name]), training)
    x = image(SPECS[name], (5, 4))
    traced = torch.jit.trace(lean, (x,))
    parameters = list(lean.parameters())
    found = torch.autograd.grad(loss_of(traced(x)), parameters, materialize_grads=True)
    for ours, wanted in zip(
        found, torch.autograd.grad(loss_of(lean(x)), parameters, materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("reentrant", [False, True])
@on_fewer
def test_checkpointed_it_has_the_same_gradients(method, name, reentrant):
    lean = still(lean_network(method, SPECS[name]), True)
    x = image(SPECS[name], (5, 4)).requires_grad_()
    parameters = list(lean.parameters())
    loss_of(checkpoint(lean, x, use_reentrant=reentrant)).backward()
    found = [p.grad.clone() for p in parameters]
    for ours, wanted in zip(
        found, torch.autograd.grad(loss_of(lean(x)), parameters, materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(ours, wanted)
