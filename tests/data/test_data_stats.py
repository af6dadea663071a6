"""Mean and standard deviation of each channel, exactly."""

from __future__ import annotations

import pytest
import torch

from leanconv.data.stats import channel_stats


def test_they_are_those_of_all_pixels_of_all_blocks() -> None:
    draw = torch.Generator().manual_seed(0)
    blocks = [torch.randint(0, 256, (3, n), generator=draw, dtype=torch.uint8) for n in (5, 70)]
    mean, std = channel_stats(blocks)
    pixels = torch.cat(blocks, dim=1).double() / 255
    assert mean == pytest.approx(pixels.mean(1).tolist())
    assert std == pytest.approx(pixels.std(1, correction=0).tolist())


def test_a_constant_channel_has_one_grey_level() -> None:
    """So that normalising stays finite."""
    mean, std = channel_stats([torch.tensor([[7, 7, 7], [0, 255, 0]], dtype=torch.uint8)])
    assert mean[0] == pytest.approx(7 / 255)
    assert std[0] == pytest.approx(1 / 255) and std[1] == pytest.approx(2**0.5 / 3)
