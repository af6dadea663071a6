"""Optimized networks keep code for other sizes, run what was rewritten, and are measured with the norms behind their layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.inference.autotune import signature
from leanconv.inference.merge import Branches
from leanconv.inference.optimize import not_rewritten, optimize
from tests.ops.contract import unsettle_


def block() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())


class Scaled(nn.Module):
    """Asks whether it gets a tensor, which a tracer's value is not, and then for its size; halves the values of wide images."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.is_tensor(x) and x.shape[-1] > 20
        return self.block(x.float() / 255) / (2 if wide else 1)


class Unbatched(Scaled):
    """Takes one image without a batch."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.is_tensor(x) and x.shape[-1] > 20
        return self.block(x[None]) / (2 if wide else 1)


BYTES = torch.arange(2 * 4 * 8 * 8).remainder(256).to(torch.uint8).view(2, 4, 8, 8)


@pytest.mark.parametrize(("network", "example"), [(Scaled, BYTES), (Unbatched, BYTES[0] / 255)], ids=["bytes", "3-d"])
@pytest.mark.filterwarnings("ignore:.*at another batch and image size")
def test_code_for_other_sizes_is_kept_for_other_inputs_too(network: type[nn.Module], example: Tensor) -> None:
    model = network()
    unsettle_(model)
    model.eval()
    fast = optimize(model, example, measured=False, cache=None)
    wide = example.repeat_interleave(4, dim=-1)
    torch.testing.assert_close(fast(example), model(example), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast(wide), model(wide), rtol=1e-4, atol=1e-5)


class Listed(nn.Module):
    """Calls its blocks from a plain list, and cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(), block()
        self.order = [self.first, self.second]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.order:
            x = part(x)
        return x if x.mean() < 1e6 else x / 2


def test_a_part_in_a_plain_list_runs_as_it_was_rewritten() -> None:
    model = Listed()
    unsettle_(model)
    model.eval()
    x = torch.randn(1, 4, 8, 8)
    fast = optimize(model, x, measured=False, cache=None)
    assert [left.name for left in not_rewritten(fast)] == [""]
    assert fast.order[0] is fast.first and isinstance(fast.order[1], GraphModule)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert model.order[0] is model.first and not isinstance(model.first, GraphModule)


def test_times_are_of_a_layer_with_the_norm_behind_it(tmp_path: Path) -> None:
    layers = [lc.SplitConv2d(8, 8, 3, padding=1), lc.SplitConv2d(8, 8, 3, padding=1)]
    names = set()
    for norm in ([], [nn.BatchNorm2d(8)]):
        model = nn.Sequential(layers[len(norm)], *norm, nn.ReLU()).eval()
        optimize(model, torch.randn(1, 8, 8, 8), cache=str(tmp_path / "times.json"), threads=1)
        names = set(json.loads((tmp_path / "times.json").read_text())["times_ms"])
    assert len(names) == 2
    convs = [nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)]
    kinds = {
        signature(Branches(convs, [[nn.BatchNorm2d(2)] * a, [nn.BatchNorm2d(2)] * b])) for a in (0, 1) for b in (0, 1)
    }
    assert len(kinds) == 4


def test_a_cache_and_a_network_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    x = torch.randn(1, 8, 8, 8)
    with pytest.raises(SettingError, match=r"cache=.* is a folder; give a file, such as .*forms\.json"):
        optimize(nn.Conv2d(8, 8, 3), x, cache=tmp_path)
    with pytest.raises(SettingError, match="cache is a int and must be a path"):
        optimize(nn.Conv2d(8, 8, 3), x, cache=3)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="'weight' is on the meta device"):
        optimize(nn.Conv2d(8, 8, 3, device="meta"), x)
