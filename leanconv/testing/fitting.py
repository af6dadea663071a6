"""Rules for the fit from dense weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leanconv.conversion.apply import convert
from leanconv.conversion.dense import to_dense
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.core.spec import ConvSpec
from leanconv.testing.networks import close, image, is_linear, lean_network, network, plan_for, require
from leanconv.testing.rules import EVERY, rule


@rule(EVERY)
def fit_repeats(method: Method, spec: ConvSpec) -> None:
    """A fit to the dense weights of a fitted network gives the same network again."""
    lean = lean_network(method, spec, "fit")
    if not is_linear(method, spec):
        again = lean_network(method, spec, "fit")
        pairs = zip(lean.parameters(), again.parameters(), strict=True)
        require(all(torch.equal(a, b) for a, b in pairs), "two fits to the same weights differ")
        return
    dense = to_dense(lean)  # may have a new bias: the shift of a normalisation layer
    twice = convert(dense, plan_for(dense, method, spec), init="fit")
    x = image(spec)
    close(lean(x), twice(x), "the fit to the dense weights of a lean network is another network", 1e-6)


@rule(EVERY)
def fit_is_nearest(method: Method, spec: ConvSpec) -> None:
    """No other lean weights have a smaller sum of squared differences to the dense ones.

    A descent from the fit does not find any, and neither does a descent from a disturbed fit, which would leave a saddle.
    """
    reason = method.not_nearest()
    require(reason is None or bool(reason.strip()), "not_nearest() must give a reason, or None")
    if reason is not None or not is_linear(method, spec):
        return
    model = network(spec).requires_grad_(False)
    lean = convert(model, plan_for(model, method, spec), init="fit").requires_grad_()
    pairs: Sequence[tuple[nn.Module, nn.Conv2d]] = list(zip(lean.convs, model.convs, strict=True))  # type: ignore[arg-type]
    whole = sum(float(conv.weight.square().sum()) for _, conv in pairs)
    best = float(_distance(pairs))
    torch.manual_seed(3)
    for start in ("it", "a start some way off"):
        if start != "it":
            with torch.no_grad():
                for parameter in lean.parameters():
                    parameter.add_(torch.randn_like(parameter) * parameter.abs().mean(), alpha=0.1)
        found = _descended(pairs, list(lean.parameters()))
        require(
            found >= best - 1e-6 * best - 1e-12 * whole,
            f"the fit is not the nearest: its squared distance is {best:.6g}, and a descent from {start} comes to {found:.6g}; "
            "fix fit_, or let not_nearest() give the reason",
        )


def _distance(pairs: Sequence[tuple[nn.Module, nn.Conv2d]]) -> Tensor:
    """The sum of squared differences between the lean layers' dense weights and biases and the dense ones."""
    total = torch.zeros((), dtype=torch.float64)
    for ours, conv in pairs:
        bias = ours.bias_dense()  # type: ignore[operator]
        total = total + (ours.weight_dense() - conv.weight).square().sum()  # type: ignore[operator]
        if bias is not None:
            total = total + (bias if conv.bias is None else bias - conv.bias).square().sum()
    return total


def _descended(pairs: Sequence[tuple[nn.Module, nn.Conv2d]], parameters: list[nn.Parameter]) -> float:
    """The distance after a descent from where the parameters are."""
    descent = torch.optim.LBFGS(parameters, max_iter=25, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> float:
        descent.zero_grad()
        distance = _distance(pairs)
        distance.backward()
        return float(distance.detach())

    descent.step(closure)
    return float(_distance(pairs).detach())


@rule(EVERY)
def fit_to_outputs_is_no_worse(method: Method, spec: ConvSpec) -> None:
    """With the moments of the inputs (`stats`), the outputs are no farther from the dense ones than with the nearest weights.

    A second fit, to the dense weights of the fitted network, gives the same network again. A method that ignores the inputs
    must say why.
    """
    reason = method.ignores_inputs()
    require(reason is None or bool(reason.strip()), "ignores_inputs() must give a reason, or None")
    if reason is not None:
        return
    model, x = network(spec), _unlike_noise(spec)
    made = plan_for(model, method, spec)
    lean = convert(model, made, init="fit", data=x)
    if not is_linear(method, spec):
        again = convert(model, made, init="fit", data=x)
        pairs = zip(lean.parameters(), again.parameters(), strict=True)
        require(all(torch.equal(a, b) for a, b in pairs), "two fits to the same outputs differ")
        return
    errors = []
    for network_ in (lean, convert(model, made, init="fit")):
        with torch.no_grad():
            pairs_of_outputs = zip(network_(x), model(x), strict=True)
            errors.append(sum(float((ours - dense).square().sum()) for ours, dense in pairs_of_outputs))
    size = sum(float(y.square().sum()) for y in model(x))
    require(
        errors[0] <= errors[1] * (1 + 1e-6) + 1e-12 * size,
        f"with stats the squared difference of the outputs is {errors[0]:.6g}, and with the nearest weights {errors[1]:.6g}; "
        "start from the nearest weights, and keep what is better",
    )
    dense = to_dense(lean)
    twice = convert(dense, plan_for(dense, method, spec), init="fit", data=x)
    close(lean(x), twice(x), "the fit to the outputs of a lean network is another network", 1e-5)


def _unlike_noise(spec: ConvSpec) -> Tensor:
    """Images as behind a ReLU: neighbouring pixels and channels are alike, the means are positive, one channel is always 0."""
    x = torch.nn.functional.avg_pool2d(image(spec, (10, 10), n=6), 3, 1)
    x = (x + 0.7 * x.mean(1, keepdim=True) + 0.1).relu()
    return torch.cat([x[:, :-1], torch.zeros_like(x[:, :1])], 1)


@rule(EVERY)
def degenerate_limit_is_conv2d(method: Method, spec: ConvSpec) -> None:
    """With settings that save nothing (`degenerate`), the fit is the dense convolution itself."""
    limit = method.degenerate(spec)
    if limit is None:
        return
    reason = limit.reject(spec)
    require(
        reason is None, f"degenerate() gives {limit.label()}, which rejects what {method.label()} accepts: {reason}"
    )
    conv = network(spec).convs[0]
    modules = [in_eval(module.double()) for module in limit.build([spec])]
    with torch.no_grad():
        limit.fit_(modules, [conv])
    x = image(spec)
    close(modules[0](x), conv(x), f"{limit.label()} is not the dense convolution", 1e-8)
