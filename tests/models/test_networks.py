"""leanconv's own networks: counts equal to hand formulas, any image size, traceable and exportable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leanconv.core.count import count
from leanconv.models import create_model
from leanconv.models.resnet import PadShortcut

# The hosts that the papers' networks are made of; those have tests of their own
NAMES = [*(f"resnet{depth}" for depth in (8, 20, 32, 44, 56, 110)), "resnet18_cifar", "resnet34_cifar", "vgg16"]
VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_SIDES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)


def resnet_formula(depths: tuple[int, ...], width: int, shortcut: str, classes: int, chans: int) -> tuple[int, int]:
    """(params, MACs at 32x32), written out from the paper's text."""
    side = 32
    params = 9 * chans * width + 2 * width
    macs = 9 * chans * width * side**2
    before = width
    for stage, depth in enumerate(depths):
        channels = width * 2**stage
        side = 32 // 2**stage
        weights = 9 * channels * before + 9 * channels**2 * (2 * depth - 1)
        params += weights + 4 * channels * depth
        macs += weights * side**2
        if shortcut == "B" and channels != before:
            params += channels * before + 2 * channels
            macs += channels * before * side**2
        before = channels
    return params + before * classes + classes, macs + before * classes


def vgg_formula(head_params: int, head_macs: int, bias: bool) -> tuple[int, int]:
    inputs = (3, *VGG_WIDTHS[:-1])
    weights = [9 * i * o for i, o in zip(inputs, VGG_WIDTHS, strict=True)]
    norms_and_biases = (2 + bias) * sum(VGG_WIDTHS)
    macs = sum(w * side**2 for w, side in zip(weights, VGG_SIDES, strict=True))
    return sum(weights) + norms_and_biases + head_params, macs + head_macs


@pytest.mark.parametrize(
    ("name", "depths", "width", "option"),
    [
        ("resnet8", (1, 1, 1), 16, "B"),
        ("resnet20", (3, 3, 3), 16, "B"),
        ("resnet32", (5, 5, 5), 16, "A"),
        ("resnet44", (7, 7, 7), 16, "A"),
        ("resnet56", (9, 9, 9), 16, "A"),
        ("resnet110", (18, 18, 18), 16, "A"),
        ("resnet18_cifar", (2, 2, 2, 2), 64, "B"),
        ("resnet34_cifar", (3, 4, 6, 3), 64, "B"),
    ],
)
def test_resnet_counts(name: str, depths: tuple[int, ...], width: int, option: str) -> None:
    counted = count(create_model(name))
    assert (counted.params, counted.macs) == resnet_formula(depths, width, option, 10, 3)
    other = "A" if option == "B" else "B"
    changed = count(create_model(name, shortcut=other, num_classes=7, in_chans=1, width=8))
    assert (changed.params, changed.macs) == resnet_formula(depths, 8, other, 7, 1)


@pytest.mark.parametrize(
    ("name", "settings", "params"),
    [
        ("resnet20", {}, 272_474),
        ("resnet20", {"shortcut": "A"}, 269_722),
        ("resnet56", {}, 853_018),
        ("resnet34_cifar", {"num_classes": 100}, 21_328_292),
        ("vgg16", {}, 14_991_946),
    ],
)
def test_counts_the_papers_rest_on(name: str, settings: dict[str, object], params: int) -> None:
    assert count(create_model(name, **settings)).params == params  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("head", "classes", "params", "macs"),
    [
        ("512bn", 10, 512 * 512 + 512 + 2 * 512 + 512 * 10 + 10, 512 * 512 + 512 * 10),
        ("512-512", 10, 2 * (512 * 512 + 512) + 512 * 10 + 10, 2 * 512 * 512 + 512 * 10),
        ("1024-1024", 100, 1025 * 1024 + 513 * 1024 + 1025 * 100, 512 * 1024 + 1024 * 1024 + 1024 * 100),
        ("linear", 10, 513 * 10, 512 * 10),
    ],
)
def test_vgg_counts(head: str, classes: int, params: int, macs: int, bias: bool) -> None:
    counted = count(create_model("vgg16", head=head, num_classes=classes, conv_bias=bias))
    assert (counted.params, counted.macs) == vgg_formula(params, macs, bias)


def test_vgg_of_equal_widths_is_shardnets() -> None:
    n = 32
    model = create_model("vgg16", widths=(n,) * 5)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(p.numel() for conv in convs for p in conv.parameters()) == 12 * 9 * n**2 + 27 * n + 13 * n == 111_872


def test_vgg_is_unchanged_by_what_serves_other_sizes() -> None:
    """At 32x32 the pool before the head and the rounding of the max-pools do nothing."""
    model = create_model("vgg16", widths=(8,) * 5).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        model.avgpool = nn.Identity()
        for module in model.modules():
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = False
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(3, 32, 32), (3, 33, 31), (1, 8, 8)])
def test_forward_and_backward(name: str, size: tuple[int, int, int]) -> None:
    model = create_model(name, in_chans=size[0], num_classes=5)
    out = model(torch.randn(2, *size))
    assert out.shape == (2, 5)
    out.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_trace_and_export(name: str) -> None:
    model = create_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
        if name not in ("resnet110", "resnet56", "resnet44", "resnet34_cifar"):  # deeper copies of what is exported
            exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
            torch.testing.assert_close(exported(x), expected)
            assert exported(x[:1].repeat(5, 1, 1, 1)).shape == (5, 10)


@pytest.mark.parametrize("name", ["resnet8", "vgg16"])
def test_compiles_whole(name: str) -> None:
    model = create_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        model.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(model(x), expected)


def test_pad_shortcut_matches_a_strided_convolution_and_keeps_values() -> None:
    x = torch.randn(1, 4, 7, 5)
    y = PadShortcut(extra=3, stride=2)(x)
    assert y.shape == nn.Conv2d(4, 7, 3, stride=2, padding=1)(x).shape
    assert torch.equal(y[:, :4], x[:, :, ::2, ::2])
    assert not y[:, 4:].any()


def test_same_seed_same_weights() -> None:
    def build(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return create_model("resnet8").state_dict()

    first, again, other = build(3), build(3), build(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    std = (2 / (9 * 64)) ** 0.5  # He, fan out
    assert first["layer3.0.conv2.weight"].std().item() == pytest.approx(std, rel=0.05)
