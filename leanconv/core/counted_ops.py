"""Multiply-adds of the operations that torch's registry of formulas does not have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Formula = Callable[[Any, Tensor], int]  # of the arguments and the first output


def _convolution(args: Any, out: Tensor) -> int:
    return out.numel() * args[1][0].numel()  # weight: (out, in / groups, kh, kw)


def _tbc(args: Any, out: Tensor) -> int:
    return out.numel() * args[1][..., 0].numel()  # weight: (k, in, out)


def _matrix(index: int) -> Formula:
    """The formula of an operation that uses every element of one argument once: matrix times vector, vector times vector."""
    return lambda args, out: args[index].numel()


def _summed(inner: int) -> Formula:
    """The formula of an operation whose output elements are sums over the last dimension of one argument."""
    return lambda args, out: out.numel() * args[inner].shape[-1]


def _summed_batches(args: Any, out: Tensor) -> int:
    return out.numel() * args[1].shape[0] * args[1].shape[-1]


def _outer(args: Any, out: Tensor) -> int:
    return out.numel()


def _rnn_layer(args: Any, out: Tensor) -> int:
    steps = args[0].shape[0] * args[0].shape[1]  # of the sequence, and of the batch
    return steps * (args[1].numel() + args[2].numel())


MACS: dict[str, Formula] = {
    "torchvision::deform_conv2d": _convolution,  # sampling interpolates, which adds none
    "aten::conv_tbc": _tbc,
    "aten::mv": _matrix(0),
    "aten::dot": _matrix(0),
    "aten::vdot": _matrix(0),
    "aten::addmv": _matrix(1),
    "aten::addr": _outer,
    "aten::addbmm": _summed_batches,
    "aten::addmm_": _summed(1),
    "aten::baddbmm_": _summed(1),
    "aten::addbmm_": _summed_batches,
    "aten::addmv_": _matrix(1),
    "aten::addr_": _outer,
    "aten::_addmm_activation": _summed(1),
    "aten::_int_mm": _summed(0),
    "aten::mkldnn_rnn_layer": _rnn_layer,
}

# Operations of aten without multiply-adds, besides those that torch tags as element-wise, reduction or view: data is made,
# moved, compared, padded, sorted, normalised, pooled or interpolated. An operation that is neither here nor in a registry
# is listed as uncounted.
_NONE = re.compile(
    r"""_?(
    # made
    empty\w* | new_\w+ | zeros?\w* | ones\w* | full\w* | arange | range | linspace | logspace | eye | scalar_tensor | lift\w*
    | rand\w* | normal\w* | bernoulli\w* | uniform\w* | exponential | multinomial | poisson | binomial | cauchy | geometric
    | log_normal | standard_gamma | tri[lu](_indices)? | \w+_window | fft_r?fftfreq | efficientzerotensor | philox\w+
    # moved
    | copy\w* | to_copy | to_dense | to_mkldnn | clone | lazy_clone | detach | set | resize\w* | as_strided\w* | cat | stack
    | chunk_cat | index\w* | unsafe_index\w* | unsafe_masked_index\w* | gather | scatter\w* | select_scatter | slice_scatter
    | diagonal_scatter | take | put | masked_\w+ | where | embedding\w* | flip | roll | rot90 | repeat\w* | pixel_\w+
    | channel_shuffle | diag_embed | block_diag | im2col | col2im | constant_pad_nd | reflection_pad\w+ | replication_pad\w+
    | unsafe_view | reshape_alias | unsafe_split\w* | squeeze | unsqueeze | t | transpose | pin_memory | record_stream | complex
    | polar | fill\w* | mkldnn_reshape | mkldnn_transpose | local_scalar_dense | nested_\w+ | pack_padded_sequence
    | pad_packed_sequence | to_padded_tensor | padded_\w+ | jagged_\w+ | shallow_copy_data
    # compared and sorted
    | sort | topk | kthvalue | mode | median | nanmedian | aminmax | cum(max|min)(_helper)? | searchsorted | bucketize | isin
    | unique\w* | nonzero\w* | histc | bincount | allclose | equal | is_\w+ | has_\w+ | linalg_check_errors | \w*assert\w*
    | sym_\w+ | functional_sym\w+ | numel | stride | size | dim[IV]? | nnz
    # element by element, and running sums
    | cumsum | cumprod | logcumsumexp | trace | dist | renorm | add_relu | prelu_kernel | rrelu\w* | gelu | glu | hardswish | mish
    | heaviside | threshold | log_sigmoid_forward | xlogy | floor_divide | rsub | lcm | gcd | copysign | masked_scale
    | linalg_cross | thnn_fused_(lstm|gru)_cell | transform_bias_rescale_qkv | fake_quantize\w+ | fused_moving_avg\w+
    | quantize_per_\w+ | dequantize | int_repr | q_\w+ | qscheme | abs | eq | ne | lt | le | gt | ge
    | foreach_(?!mm)\w+ | \w+_loss\w* | binary_cross_entropy\w* | native_dropout | fused_dropout
    # normalised
    | \w*batch_norm\w* | native_\w*norm | \w*softmax | weight_norm_interface | native_group_norm | native_layer_norm
    # pooled and interpolated
    | \w*max_pool\w+ | \w*avg_pool\w+ | max_unpool\w+ | upsample\w+ | \w*grid_sampler\w* | fused_sdp_choice
    )_?""",
    re.VERBOSE,
)
_NONE_ELSEWHERE = {
    "torchvision::nms",
    "torchvision::roi_align",
    "torchvision::roi_pool",
    "torchvision::ps_roi_align",
    "torchvision::ps_roi_pool",
}
_TAGS = (torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.view_copy)
_cache: dict[Any, bool] = {}


def macs_of(func: Any) -> Formula | None:
    """The formula of an operation that torch's registry does not have; None when there is no formula here either."""
    return MACS.get(_name(func))


def adds_none(func: Any) -> bool:
    """Whether an operation adds no multiply-adds to the count."""
    if func not in _cache:
        _cache[func] = _adds_none(func)
    return _cache[func]


def _adds_none(func: Any) -> bool:
    if not isinstance(func, torch._ops.OpOverload):  # one that calls others, such as a loop
        return False
    space, _, name = _name(func).partition("::")
    if space in ("prim", "profiler") or _name(func) in _NONE_ELSEWHERE:
        return True
    return space == "aten" and (
        func.is_view or any(tag in func.tags for tag in _TAGS) or _NONE.fullmatch(name) is not None
    )


def _name(func: Any) -> str:
    return getattr(getattr(func, "_schema", None), "name", "")
