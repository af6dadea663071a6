"""Every operator against its release's way of computing, written out here in plain torch from the papers' equations.

Nothing of leanconv computes the wanted values: weights are drawn in the release's shapes and put into the operator. Where we
differ from a release on purpose, the difference is tested by name.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leanconv as lc

strides = pytest.mark.parametrize("stride", [1, 2])
sizes = pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 6)], ids=str)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def norm(channels: int) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(channels).double()
    for tensor in (module.weight.data, module.bias.data, module.running_mean):
        tensor.normal_()
    module.running_var.uniform_(0.5, 2)
    return module


def put(op: nn.Module, **tensors: Tensor | nn.Module) -> nn.Module:
    """`op` in float64 with these parameters and norms, by their dotted names."""
    op = op.double()
    state = {}
    for name, value in tensors.items():
        name = name.replace("__", ".")
        state |= (
            {name: value} if isinstance(value, Tensor) else {f"{name}.{k}": v for k, v in value.state_dict().items()}
        )
    op.load_state_dict(state, strict=True)
    return op


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("stride", "size"), [(1, (8, 8)), (1, (7, 9)), (2, (8, 8)), (2, (6, 10))])
def test_spconv(stride, size, training):
    """gwc + pwc on a part, conv1x1 on the rest, two norms, a softmax over the stacked means.

    At stride 2 the release takes even maps alone: its pooling rounds down.
    """
    gwc, pwc, conv1x1, bias = draw(6, 2, 3, 3), draw(6, 4, 1, 1), draw(6, 4, 1, 1), draw(6)
    bn1, bn2 = norm(6).train(training), norm(6).train(training)
    op = lc.SplitConv2d(8, 6, 3, stride, 1, bias=False)
    op = put(
        op,
        grouped__weight=gwc,
        point__weight=pwc,
        redundant__weight=conv1x1,
        redundant__bias=bias,
        norm3=bn1,
        norm1=bn2,
    )
    x = draw(2, 8, *size)
    costly, cheap = x[:, :4], x[:, 4:]
    out3 = F.conv2d(costly, gwc, stride=stride, padding=1, groups=2)
    if stride == 2:
        costly, cheap = F.avg_pool2d(costly, 2, 2), F.avg_pool2d(cheap, 2, 2)
    out3 = bn1(out3 + F.conv2d(costly, pwc))
    out1 = bn2(F.conv2d(cheap, conv1x1, bias))
    ratio = torch.stack([F.adaptive_avg_pool2d(out3, 1), F.adaptive_avg_pool2d(out1, 1)], 2).softmax(2)
    wanted = out3 * ratio[:, :, 0] + out1 * ratio[:, :, 1]
    torch.testing.assert_close(op.train(training)(x), wanted)


@strides
@sizes
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("form", ["grouped", "fold"])
def test_tbc(stride, size, kernel_size, form):
    weight, bias = draw(3, 2, kernel_size, kernel_size), draw(3)
    op = put(lc.TiedBlockConv2d(8, 12, kernel_size, stride, kernel_size // 2, blocks=4), weight=weight, bias=bias)
    op.form = form
    x = draw(2, 8, *size)
    y = F.conv2d(x.reshape(2 * 4, 2, *size), weight, bias, stride, kernel_size // 2)
    torch.testing.assert_close(op(x), y.reshape(2, 12, *y.shape[2:]))


@strides
@sizes
def test_tgc_is_the_papers_and_not_the_releases(stride, size):
    """Eq. 4 counts channels by group, then by block; the release, which folds the blocks first, by block, then by group."""
    weight, bias = draw(6, 2, 3, 3), draw(6)
    op = put(lc.TiedBlockConv2d(8, 12, 3, stride, 1, groups=2, blocks=2), weight=weight, bias=bias)
    x = draw(2, 8, *size)
    parts = x.split(2, 1)
    banks = list(zip(weight.split(3), bias.split(3), strict=True))
    wanted = [F.conv2d(parts[2 * group + block], *banks[group], stride, 1) for group in range(2) for block in range(2)]
    torch.testing.assert_close(op(x), torch.cat(wanted, 1))
    release = F.conv2d(x.reshape(4, 4, *size), weight, bias, stride, 1, groups=2)
    assert not torch.allclose(op(x), release.reshape(2, 12, *release.shape[2:]))


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_tfc(blocks):
    weight, bias = draw(12 // blocks, 8 // blocks), draw(12 // blocks)
    op = put(lc.TiedBlockLinear(8, 12, blocks=blocks), weight=weight, bias=bias)
    x = draw(5, 8)
    torch.testing.assert_close(op(x), (x.reshape(5 * blocks, -1) @ weight.T + bias).reshape(5, 12))


@pytest.mark.parametrize("blocks", [1, 2])
def test_tied_se(blocks):
    squeeze, b1, expand, b2 = (
        draw(4 // blocks, 16 // blocks),
        draw(4 // blocks),
        draw(16 // blocks, 4 // blocks),
        draw(16 // blocks),
    )
    op = lc.TiedSE(16, 4, blocks=blocks)
    op = put(op, squeeze__weight=squeeze, squeeze__bias=b1, expand__weight=expand, expand__bias=b2)
    x = draw(3, 16, 5, 7)
    hidden = F.linear(F.adaptive_avg_pool2d(x, 1).reshape(3 * blocks, -1), squeeze, b1).reshape(3, 4).clamp(min=0)
    gate = 1 / (1 + torch.exp(-F.linear(hidden.reshape(3 * blocks, -1), expand, b2).reshape(3, 16)))
    torch.testing.assert_close(op(x), torch.einsum("nchw,nc->nchw", x, gate))


@pytest.mark.parametrize("training", [False, True])
@strides
@sizes
@pytest.mark.parametrize(("expansion", "out"), [(2, 8), (2, 7), (4, 10)])
def test_ghost(stride, size, expansion, out, training):
    first = -(-out // expansion)
    primary, cheap = draw(first, 6, 3, 3), draw(first * (expansion - 1), 1, 3, 3)
    norms = norm(first).train(training), norm(first * (expansion - 1)).train(training)
    op = lc.GhostConv2d(6, out, 3, stride, 1, bias=False, expansion=expansion)
    op = put(op, primary__conv__weight=primary, primary__norm=norms[0], cheap__conv__weight=cheap, cheap__norm=norms[1])
    x = draw(2, 6, *size)
    x1 = F.relu(norms[0](F.conv2d(x, primary, stride=stride, padding=1)))
    x2 = F.relu(norms[1](F.conv2d(x1, cheap, padding=1, groups=first)))
    torch.testing.assert_close(op.train(training)(x), torch.cat([x1, x2], 1)[:, :out])


@strides
@sizes
@pytest.mark.parametrize("part", [2, 4])
def test_hetconv(stride, size, part):
    """Filter by filter: k x k on the channels of one remainder, the middle tap alone on the others."""
    kernels = draw(8, 8, 3, 3)
    op = lc.HetConv2d(8, 8, 3, stride, 1, bias=False, part=part).double()
    conv = nn.Conv2d(8, 8, 3, stride, 1, bias=False).double()
    x = draw(2, 8, *size)
    with torch.no_grad():
        conv.weight.copy_(kernels)
        lc.Het(part).fit_([op], [conv])
    maps = []
    for f in range(8):
        y = 0
        for c in range(8):
            full = (c - f) % part == 0
            kernel = kernels[f, c] if full else kernels[f, c, 1:2, 1:2]
            y = y + F.conv2d(x[:, c : c + 1], kernel[None, None], stride=stride, padding=1 if full else 0)
        maps.append(y)
    torch.testing.assert_close(op(x), torch.cat(maps, 1))


@pytest.mark.parametrize("training", [False, True])
@strides
@sizes
def test_legonet(stride, size, training):
    """Split by split, with a one-hot combination. The release has stride 1 alone; ours is in the legos' convolution."""
    lego, combination, coefficients = draw(3, 4, 3, 3), draw(6, 2, 3), draw(6, 2)
    op = lc.LegoConv2d(8, 6, 3, stride, 1, bias=False)
    op = put(op, weight=lego, selector=combination, coefficients=coefficients).train(training)
    x = draw(2, 8, *size)
    wanted = 0
    for i in range(2):
        features = F.conv2d(x[:, 4 * i : 4 * i + 4], lego, padding=1)[:, :, ::stride, ::stride]
        chosen = combination[:, i] == combination[:, i].max(1, keepdim=True).values
        wanted = wanted + F.conv2d(features, (chosen * coefficients[:, i : i + 1])[:, :, None, None])
    torch.testing.assert_close(op(x), wanted)


@strides
@sizes
def test_soft_sharing(stride, size):
    """SWRN: a bank (k, O, I, kh, kw), coefficients (k, 1, 1, 1, 1) of each layer, and the sum of their product as its weight."""
    bank, mix = draw(3, 6, 4, 3, 3), [draw(3, 1, 1, 1, 1) for _ in range(2)]
    layers = nn.ModuleList(lc.SoftShared(templates=3).build([lc.ConvSpec(4, 6, 3, stride, 1, bias=False)] * 2)).double()
    with torch.no_grad():
        layers[0].bank.weight.copy_(bank.flatten(0, 1))
        for layer, coefficients in zip(layers, mix, strict=True):
            layer.coefficients.copy_(coefficients.flatten())
    x = draw(2, 4, *size)
    for layer, coefficients in zip(layers, mix, strict=True):
        torch.testing.assert_close(layer(x), F.conv2d(x, (bank * coefficients).sum(0), None, stride, 1))


@pytest.mark.parametrize("training", [False, True])
@strides
@sizes
def test_filter_bases(stride, size, training):
    """basis_conv and shared_basis side by side, concatenated, a norm, coeff_conv."""
    own, shared, coefficients, bn = draw(2, 4, 3, 3), draw(3, 4, 3, 3), draw(6, 5, 1, 1), norm(5).train(training)
    op = lc.SharedBasisConv2d(4, 6, 3, stride, 1, bias=False, shared=3, unique=2)
    op = put(op, unique=own, basis__weight=shared, coefficients=coefficients, norm=bn)
    x = draw(2, 4, *size)
    both = torch.cat([F.conv2d(x, own, None, stride, 1), F.conv2d(x, shared, None, stride, 1)], 1)
    torch.testing.assert_close(op.train(training)(x), F.conv2d(bn(both), coefficients))


@pytest.mark.parametrize("size", [(8, 8), (12, 16)], ids=str)
def test_octave_but_for_its_stride(size):
    """At stride 1 the release's four paths. At stride 2 the release averages 2 x 2 pixels and convolves with stride 1; ours
    convolves with the stride, so that alpha 0 is the ordinary network: a difference on purpose, at that stride alone."""
    hh, hl, lh, ll = draw(6, 4, 3, 3), draw(6, 4, 3, 3), draw(6, 4, 3, 3), draw(6, 4, 3, 3)
    high, low = draw(2, 4, *size), draw(2, 4, size[0] // 2, size[1] // 2)
    names = {"high_to_high": hh, "high_to_low": hl, "low_to_high": lh, "low_to_low": ll}

    def ours(stride: int) -> tuple[Tensor, Tensor]:
        op = lc.OctaveConv2d(8, 12, 3, stride, 1, bias=False)
        return put(op, **{f"{name}__weight": weight for name, weight in names.items()})((high, low))

    def release(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        up = F.interpolate(F.conv2d(low, lh, padding=1), scale_factor=2, mode="nearest")
        down = F.conv2d(F.avg_pool2d(high, 2, 2), hl, padding=1)
        return F.conv2d(high, hh, padding=1) + up, down + F.conv2d(low, ll, padding=1)

    torch.testing.assert_close(ours(1), release(high, low))
    strided, pooled = ours(2), release(F.avg_pool2d(high, 2, 2), F.avg_pool2d(low, 2, 2))
    for mine, theirs in zip(strided, pooled, strict=True):
        assert mine.shape == theirs.shape and not torch.allclose(mine, theirs)
