"""The fast VGG: its size, its whitening stem, and its settings."""

from __future__ import annotations

import pytest
import torch

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.models.fast_vgg import FastVGG


def coloured(count: int = 200, channels: int = 3) -> torch.Tensor:
    """Smooth images with correlated channels."""
    noise = torch.randn(count, channels, 12, 12, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 3, 1) + noise.mean(dim=1, keepdim=True)[..., 1:-1, 1:-1]


def test_size_as_published() -> None:
    counted = lc.count(lc.create_model("fast_vgg"))
    assert counted.params == 1_972_792  # 1.97 M
    assert counted.macs == 118_147_360  # 118 M


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stem_whitens(channels: int) -> None:
    model, images = FastVGG(in_chans=channels), coloured(channels=channels)
    model.init_from_images_(images)
    half = model.whiten.out_channels // 2
    with torch.no_grad():
        found = model.whiten(images).permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(found[:half], -found[half:])
    torch.testing.assert_close(torch.cov(found[:half]), torch.eye(half), atol=0.1, rtol=0)
    assert not model.whiten.weight.requires_grad


def test_the_stem_is_set_once_also_after_loading() -> None:
    model = FastVGG()
    model.init_from_images_(coloured())
    again = FastVGG()
    again.load_state_dict(model.state_dict())
    again.init_from_images_(torch.randn(50, 3, 8, 8))
    assert torch.equal(again.whiten.weight, model.whiten.weight)


def test_narrower_and_deeper() -> None:
    assert [FastVGG(width=0.7).get_submodule(f"block{i}.conv1").out_channels for i in (1, 2, 3)] == [48, 176, 176]
    assert hasattr(FastVGG(depth=3).block2, "conv3")
    assert FastVGG(depth=1)(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(SettingError, match="width=0 must be a number above 0"):
        FastVGG(width=0)
    with pytest.raises(SettingError, match="three channel counts"):
        FastVGG(widths=(64, 64))


def test_the_first_filters_pass_their_channel_on() -> None:
    model = FastVGG()
    x = torch.randn(1, 64, 9, 9)
    torch.testing.assert_close(model.block1.conv2(x), x)
