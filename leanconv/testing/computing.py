"""Rules for what an operator computes: shapes, counts, equality with the dense convolution, inference forms."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from leanconv.conversion.apply import convert
from leanconv.conversion.dense import to_dense
from leanconv.core.affine import Affine
from leanconv.core.count import count, count_macs
from leanconv.core.errors import LeanconvWarning, first_line
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec
from leanconv.deploy.compact import compact
from leanconv.inference.forms import forms_of
from leanconv.testing.networks import (
    Mixed,
    close,
    image,
    is_linear,
    lean_network,
    network,
    plan_for,
    require,
    unsettle_,
)
from leanconv.testing.rules import EVERY, ONCE, REJECTED, rule
from leanconv.testing.specs import LAYERS, SIZES


@rule(REJECTED)
def rejects_with_a_reason_and_leaves_it_dense(method: Method, spec: ConvSpec) -> None:
    """A convolution that the method rejects has a one-line reason, and its output does not change."""
    reason = method.reject(spec)
    require(isinstance(reason, str) and "\n" not in reason, f"the reason {reason!r} must be one line of text")
    model = network(spec)
    made = plan_for(model, method, spec)
    require(not made.groups, "a plan converts what reject() refuses; group() must ask accept()")
    require([kept.reason for kept in made.kept] == [reason] * LAYERS, "the plan gives another reason than reject()")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeanconvWarning)  # the plan converts nothing
        lean = convert(model, made)
    x = image(spec)
    require(all(torch.equal(a, b) for a, b in zip(model(x), lean(x), strict=True)), "the dense network changed")


@rule(EVERY)
def output_has_the_shape_of_conv2d(method: Method, spec: ConvSpec) -> None:
    """The shapes are equal on even, odd and tiny feature maps; a map that nn.Conv2d refuses, the operator refuses too."""
    dense, lean = network(spec), lean_network(method, spec)
    require(all(isinstance(module, ConvOp) for module in lean.convs), "build() must make a ConvOp for each convolution")
    for size in SIZES:
        x = image(spec, size)
        try:
            wanted = dense(x)
        except RuntimeError:  # nn.Conv2d refuses this map itself
            require(_refuses(lean, x), f"the operator takes a map of {size}, which nn.Conv2d refuses")
            continue
        found = lean(x)
        shapes = [tuple(y.shape) for y in wanted]
        require([tuple(y.shape) for y in found] == shapes, f"{[tuple(y.shape) for y in found]} is not {shapes}")
        require(all(bool(y.isfinite().all()) for y in found), f"the output of a map of {size} is not finite")


def _refuses(model: nn.Module, x: torch.Tensor) -> bool:
    try:
        model(x)
    except RuntimeError:
        return True
    return False


@rule(EVERY)
def counts_agree(method: Method, spec: ConvSpec) -> None:
    """Parameters and MACs are equal by the formulas, by the modules, and by torch's counter."""
    model, lean = network(spec), lean_network(method, spec)
    size = (spec.in_channels, 9, 7)
    made = plan_for(model, method, spec, (9, 7))
    found = count(lean, size)
    require(
        found.params == made.params() == found.stored,
        f"the modules have {found.params} parameters ({found.stored} stored), and params() gives {made.params()}",
    )
    by_formula, by_torch = sum(sum(group.macs()) for group in made.groups), count_macs(lean, size)
    require(found.macs == by_formula == by_torch, f"torch counts {by_torch} MACs, and macs() gives {by_formula}")
    require(made.params_dense() == count(model, size).params == LAYERS * spec.params(), "the dense count is wrong")


@rule(ONCE)
def shares_only_among_layers_that_can(method: Method, spec: ConvSpec) -> None:
    """A network whose convolutions differ in channels, kernel, stride, dilation and bias converts, and counts as planned."""
    changes: list[dict[str, Any]] = [
        {}, {"bias": not spec.bias}, {"out_channels": 2 * spec.out_channels}, {"in_channels": 2 * spec.in_channels},
        {"stride": (1, 1)}, {"padding": (2, 2), "dilation": (2, 2)}, {"padding": (2, 2), "kernel_size": (5, 5)},
    ]  # fmt: skip
    specs = [
        other for other in dict.fromkeys(replace(spec, **change) for change in changes) if method.reject(other) is None
    ]
    torch.manual_seed(0)
    model = in_eval(Mixed(specs).double())
    x = image(replace(spec, in_channels=max(other.in_channels for other in specs)), (9, 7))
    made = plan_for(model, method, replace(spec, in_channels=x.shape[1]), (9, 7))
    try:
        lean = convert(model, made, init="fit")
        shapes = [y.shape for y in lean(x)]
    except Exception as error:  # whatever the operator raises is the finding
        said = "a network of different layers does not convert and run; does group() put layers together that cannot share?"
        raise AssertionError(f"{said} {first_line(error)}") from error
    require(shapes == [y.shape for y in model(x)], "a network of different layers gives other shapes; see group()")
    found, planned = count(lean), made.params() + sum(kept.site.params() for kept in made.kept)
    require(
        found.params == planned, f"a network of different layers has {found.params} parameters, planned were {planned}"
    )


@rule(EVERY)
def equals_the_dense_convolution_it_names(method: Method, spec: ConvSpec) -> None:
    """A `LinearOp` computes what an nn.Conv2d with its dense weight and bias computes, in float64."""
    if not is_linear(method, spec):
        return
    lean = lean_network(method, spec)
    for module in lean.convs:
        shape = tuple(module.weight_dense().shape)
        require(shape == spec.weight_shape, f"weight_dense() has shape {shape} and not {spec.weight_shape}")
        view = module.weight  # what code reads as conv.weight
        if not isinstance(view, torch.Tensor):
            close(view + 0, module.weight_dense(), "op.weight is not weight_dense()")
    dense: Any = to_dense(lean)
    require(all(type(module) is nn.Conv2d for module in dense.convs), "to_dense() leaves an operator")
    for size in SIZES[:2]:
        x = image(spec, size)
        close(lean(x), dense(x), "the output is not that of the dense weight", 1e-10)


@rule(EVERY)
def forms_are_equal(method: Method, spec: ConvSpec) -> None:
    """Each inference form gives the operator's output, with and without a following normalisation layer."""
    op, norm = (in_eval(module.double()) for module in (method.build([spec])[0], nn.BatchNorm2d(spec.out_channels)))
    assert isinstance(op, ConvOp) and isinstance(norm, nn.BatchNorm2d)
    unsettle_(op)
    unsettle_(norm)
    x = image(spec, (9, 7), n=2)
    with torch.no_grad():
        plain = op(x)
        for affine, wanted in ((None, plain), (Affine.of(norm), norm(plain))):
            for name, build in forms_of(op, affine).items():
                close(build()(x), wanted, f"the form {name!r} gives another output", 1e-7)


@rule(EVERY)
def compact_is_equal(method: Method, spec: ConvSpec) -> None:
    """The compact form, which is exported for a small file, gives the same output."""
    lean, x = lean_network(method, spec), image(spec)
    close(compact(lean)(x), lean(x), "compact_() changes the output")
