"""Rules for an operator that replaces an nn.Conv2d: which inputs the operator takes, and which attributes it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from leanconv.conversion.apply import convert
from leanconv.core.errors import LeanconvError
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.core.spec import ConvSpec
from leanconv.testing.networks import close, image, lean_network, network, plan_for, require, still_norms
from leanconv.testing.rules import EVERY, ONCE, SOME, rule

ATTRIBUTES = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    *("padding_mode", "transposed", "output_padding"),
)


@rule(EVERY)
def takes_one_image_without_a_batch(method: Method, spec: ConvSpec) -> None:
    """(I, H, W) -> (O, H', W'), as nn.Conv2d does."""
    lean, dense = lean_network(method, spec), network(spec)
    x = image(spec, (6, spec.in_channels))  # as wide as it has channels: a mistaken dimension would fit
    for training in (False, True):
        still_norms(lean, training)
        close(lean(x[0]), [y[0] for y in lean(x[:1])], "one image gives another output than a batch of one", 1e-7)
        require([y.shape for y in lean(x[0])] == [y.shape for y in dense(x[0])], "one image gives another shape")


@rule(SOME)
def takes_its_input_by_name(method: Method, spec: ConvSpec) -> None:
    """``op(input=x)`` is ``op(x)``, as with nn.Conv2d; define `convolve`, and not `forward`."""
    lean, x = lean_network(method, spec), image(spec)
    still_norms(lean, False)
    for conv in lean.convs:
        close(conv(input=x), conv(x), "an input that is given by its name changes the output")


@rule(SOME)
def takes_an_empty_batch(method: Method, spec: ConvSpec) -> None:
    """The forward and the backward pass accept an empty batch, as nn.Conv2d does."""
    lean, dense = lean_network(method, spec), network(spec)
    x = image(spec)[:0].requires_grad_()
    found = lean(x)
    require([y.shape for y in found] == [y.shape for y in dense(x)], "an empty batch gives another shape")
    sum(y.sum() for y in found).backward()
    require(x.grad is not None and x.grad.shape == x.shape, "an empty batch gives no gradient")


@rule(EVERY)
def refuses_other_channels_and_ranks_by_name(method: Method, spec: ConvSpec) -> None:
    """An input of another shape raises a one-line error that names the expected shape; define `convolve`, and not `forward`."""
    lean, channels = lean_network(method, spec), spec.in_channels
    wrong = [(2, c, 8, 8) for c in (1, channels + 1, channels * 2, channels // 2)]
    for shape in (*wrong, (channels + 1, 8, 8), (channels, 8), (2, channels, 1, 8, 8)):
        try:
            lean(torch.zeros(shape, dtype=torch.float64))
        except LeanconvError as error:
            text = str(error)
            named = f"(N, {channels}, H, W)" in text and str(shape[-3:])[1:-1] in text and "\n" not in text
            require(named and isinstance(error, RuntimeError), f"an input of shape {shape} is refused by {text!r}")
        else:
            raise AssertionError(f"an input of shape {shape} is not refused")


@rule(EVERY)
def shows_the_attributes_of_conv2d(method: Method, spec: ConvSpec) -> None:
    """The operator has the attributes of nn.Conv2d that other code reads, with the same values."""
    lean, dense = lean_network(method, spec).float(), network(spec).float()
    x = image(spec, dtype=torch.float32)
    for ours, plain in zip(lean.convs, dense.convs, strict=True):
        for name in ATTRIBUTES:
            found, wanted = getattr(ours, name), getattr(plain, name)
            require(found == wanted, f"{name} is {found!r} and not {wanted!r}")
        pads = tuple(ours._reversed_padding_repeated_twice)
        require(pads == tuple(plain._reversed_padding_repeated_twice), "_reversed_padding_repeated_twice differs")
        weight, bias = ours.weight, ours.bias
        require(
            weight.dtype == torch.float32 and weight.device == plain.weight.device, "weight has another dtype or device"
        )
        require(weight.requires_grad, "weight does not require a gradient")
        require(weight.dim() == weight.ndim == 4, f"weight has {weight.dim()} dimensions; return a WeightView")
        require(bias is None or bias.dtype == torch.float32, "bias has another dtype")
        other = torch.randn_like(plain.weight)
        same = torch.equal(ours._conv_forward(x, other, None), plain._conv_forward(x, other, None))
        require(same, "_conv_forward gives another output than that of nn.Conv2d")
    require(all(op.weight.dtype == torch.float16 for op in lean.half().convs), "after half() the weight is not float16")


class Casts(nn.Module):
    """A network that reads the dtype and the device of its weights, but not their values."""

    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        self.convs: Any = nn.ModuleList(nn.Conv2d(**spec.kwargs()) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for conv in self.convs:
            like = conv.weight
            y = x.to(device=like.device, dtype=like.dtype) + like.new_zeros(1)
            outputs.append(conv(y if conv.bias is None else y + 1))
        return tuple(outputs)


@rule(ONCE)
def serves_a_network_that_reads_dtype_and_device(method: Method, spec: ConvSpec) -> None:
    """The output is the same when such a network runs eagerly, traced, compiled and exported."""
    model = in_eval(Casts(spec).double())
    lean = convert(model, plan_for(model, method, spec))
    x = image(spec, dtype=torch.float32)
    convs: Any = lean.convs
    moved = 0 if convs[0].bias is None else 1
    wanted = [conv(x.double() + moved) for conv in convs]
    torch._dynamo.reset()
    compiled: Any = torch.compile(lean, backend="aot_eager", fullgraph=True)
    for run in (lean, fx.symbolic_trace(lean), compiled, torch.export.export(lean, (x,)).module()):
        close(run(x), wanted, "a network that casts to the dtype of a weight gives another output")
