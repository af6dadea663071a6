from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.conversion.moments import collect, in_rounds
from leanconv.core.errors import DataError, SettingError
from leanconv.testing import SPECS


def unfolded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The inputs under the kernel at each output position, by convolutions with one-hot kernels: (groups, positions, F)."""
    _, width, kh, kw = conv.weight.shape
    size = width * kh * kw
    settings = lc.ConvSpec.of(conv).kwargs() | {"out_channels": size * conv.groups, "bias": False}
    probe = nn.Conv2d(**settings, dtype=x.dtype)
    with torch.no_grad():
        probe.weight.copy_(torch.eye(size).repeat(conv.groups, 1).view_as(probe.weight))
        return probe(x).unflatten(1, (conv.groups, size)).permute(1, 0, 3, 4, 2).flatten(1, 3)


@pytest.mark.parametrize("name", SPECS)
def test_moments_are_those_of_the_unfolded_input(name):
    conv = nn.Conv2d(**SPECS[name].kwargs()).double()
    batches = [torch.randn(3, conv.in_channels, 7, 9, dtype=torch.float64) + 0.5 for _ in range(2)]
    found = collect(nn.Sequential(conv), ["0"], batches, positions=None)["0"]
    u = torch.cat([unfolded(conv, x) for x in batches], 1)
    assert found.count == u.shape[1]
    torch.testing.assert_close(found.mean, u.mean(1))
    torch.testing.assert_close(found.second, u.mT @ u / u.shape[1])


def test_products_in_float32_are_near_those_in_float64():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 8, 3, padding=1)
    x = torch.randn(64, 16, 16, 16).relu() + 3
    found = collect(conv, [""], x.split(16))[""]
    exact = collect(conv.double(), [""], x.double().split(16))[""]
    assert found.second.dtype == torch.float64 and found.count == exact.count == 64 * 100
    torch.testing.assert_close(found.second, exact.second, rtol=1e-6, atol=1e-6)
    half = collect(conv.to(torch.bfloat16), [""], x.to(torch.bfloat16).split(16))[""]
    torch.testing.assert_close(half.second, exact.second, rtol=0.02, atol=0.1)


def test_a_sample_of_positions_estimates_the_same_moments():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    x = torch.randn(64, 4, 32, 32).cumsum(3) / 8
    some, every = (collect(conv, [""], [x[:32], x[32:]], positions=count)[""] for count in (64, None))
    assert some.count == 64 * 64 and every.count == 64 * 256
    assert float((some.second - every.second).norm() / every.second.norm()) < 0.1
    again = collect(conv, [""], [x[:32], x[32:]], positions=64)[""]
    assert torch.equal(some.second, again.second)


class Twice(nn.Module):
    """A layer that is called twice, one of the calls by keyword, and a linear layer on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.unused = nn.Conv2d(3, 3, 1), nn.Linear(3, 2), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(input=self.conv(x))
        return self.linear(y.flatten(2).mT)


def test_calls_count_together_and_layers_that_are_not_called_are_left_out():
    model, x = Twice().train(), torch.randn(2, 3, 4, 5)
    found = collect(model, ["conv", "linear", "unused"], [(x, torch.zeros(2))])
    assert set(found) == {"conv", "linear"}
    assert (found["conv"].count, found["linear"].count) == (2 * 2 * 20, 2 * 20)
    with torch.no_grad():
        once = model.conv(x)
        inputs = torch.cat([x, once]).movedim(1, 0).flatten(1)
        torch.testing.assert_close(found["conv"].second[0].float(), inputs @ inputs.T / inputs.shape[1])
        rows = model.conv(once).movedim(1, 0).flatten(1)
        torch.testing.assert_close(found["linear"].second[0].float(), rows @ rows.T / rows.shape[1])
    assert model.training


def test_layers_beyond_the_memory_bound_are_measured_in_several_passes():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3))
    x, seen, told = torch.randn(2, 2, 9, 9), [], []
    model.register_forward_hook(lambda *_: seen.append(1) and None)
    names = ["0", "1", "2"]
    whole = collect(model, names, [x])
    assert len(seen) == 1
    parts = collect(
        model, names, iter([x]), memory=8 * (18**2 + 36**2), progress=lambda done, every: told.append((done, every))
    )
    assert len(seen) == 3 and told == [(2, 3), (3, 3)]
    assert all(torch.equal(whole[name].second, parts[name].second) for name in names)
    assert in_rounds([9, 1], int, 3) == [[9], [1]] and in_rounds([], int, 3) == []


def test_what_cannot_be_measured_is_told():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
    with pytest.raises(SettingError, match=r"'1' is a ReLU"):
        collect(model, ["1"], [torch.zeros(1, 2, 4, 4)])
    with pytest.raises(SettingError, match=r"no layer 'head'"):
        collect(model, ["head"], [torch.zeros(1, 2, 4, 4)])
    with pytest.raises(DataError, match="no batch"):
        collect(model, ["0"], [])
    with pytest.raises(DataError, match=r"inputs of '0' hold NaN"):
        collect(model, ["0"], [torch.full((1, 2, 4, 4), float("nan"))])


REFUSED: list[tuple[Any, str]] = [
    ({"image": torch.zeros(1, 2, 4, 4), "label": 1}, r"a dict of 'image', 'label' .*\[batch\['image'\] for batch in loader\]"),
    (torch.zeros(1, 2, 4, 4).byte(), r"torch\.uint8 \(1, 2, 4, 4\) .*divide the images by 255, and normalise"),
    ((torch.zeros(1, 5, 4, 4), torch.zeros(1)), r"torch\.float32 \(1, 5, 4, 4\) .*expected input"),
    ("photo.png", r"'photo\.png' .*give batches of images \(N, C, H, W\)"),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "words"), REFUSED, ids=["dict", "uint8", "channels", "text"])
def test_a_batch_that_the_network_does_not_take_is_named(batch: Any, words: str):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3)
    )
    for read in (
        lambda: lc.convert(model, lc.plan(model, lc.LowRank(rank=2), input_size=(2, 4, 4)), "fit", data=[batch]),
        lambda: lc.reestimate_norms_(model, [batch]),
        lambda: lc.prune(model, 0.5, "activation", align=1, data=[batch], input_size=(2, 4, 4)),
        lambda: lc.prune(model, 0.5, "reconstruction", align=1, data=[batch], input_size=(2, 4, 4)),
    ):
        with pytest.raises(DataError, match=f"the network does not take a batch of {words}") as error:
            read()
        assert "\n" not in str(error.value)


def test_images_of_another_precision_are_converted():
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    x = torch.randn(2, 2, 6, 6)
    wanted = collect(model, ["0"], [x])["0"].second
    torch.testing.assert_close(collect(model, ["0"], [x.double()])["0"].second, wanted)
    torch.testing.assert_close(collect(model.half(), ["0"], [x])["0"].second, wanted, rtol=1e-2, atol=1e-2)
