"""What a search measures and counts: all kinds of layers, whole shares, blocks that are residual, networks that are lean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.search.controls import residual_blocks
from leanconv.search.importance import channel_scores
from leanconv.search.pruning import removable_graph
from tests.conversion.test_unseen_code import Listed

SIZE = (3, 8, 8)
IMAGES = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LAYERS = {
    "transposed": lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1),
    "transposed groups": lambda: nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2),
    "volume": lambda: nn.Sequential(nn.Unflatten(2, (2, 4)), nn.Conv3d(8, 4, (1, 3, 3), padding=1)),
    "rows": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 4, 3, padding=1)),
}


def network(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), LAYERS[name]()).double().eval()


@pytest.mark.parametrize("name", LAYERS)
def test_the_score_of_a_channel_is_the_error_of_any_layer_that_reads_it(name: str) -> None:
    model = network(name)
    sets = removable_graph(model, SIZE).sets
    if name == "transposed groups":  # not followed
        assert not sets
        return
    (found,) = sets
    with torch.no_grad():
        seen = model[:2](IMAGES)
        full, bias = model[2](seen), model[2](torch.zeros_like(seen))
        wanted = []
        for channel in range(8):
            without = seen.clone()
            without[:, channel] = 0
            wanted.append((model[2](without) - full).square().sum() / (full - bias).square().sum())
    scores = channel_scores(model, [found], "activation", [IMAGES])["0"]
    torch.testing.assert_close(scores, torch.stack(wanted))
    first = channel_scores(model, [found], "reconstruction", [IMAGES])["0"].argmin()
    assert first == scores.argmin()


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.w, self.out = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(self.conv(x).mean((2, 3)), self.w))


def test_a_set_with_a_reader_that_cannot_be_measured_stays_whole() -> None:
    model, images = Functional().eval(), IMAGES.float()
    with pytest.raises(SettingError, match=r"'w' reads it, and no call of a layer"):
        lc.prune(model, ratios={"conv": 0.5}, criterion="activation", data=[images], align=1, input_size=SIZE)
    assert lc.prune(model, ratios={"conv": 0.5}, align=1, input_size=SIZE).conv.out_channels == 4


def test_a_share_of_one_removes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 1))
    for thin in (lc.prune(model, 1.0, input_size=SIZE), lc.prune(model, ratios={"*": 1.0}, input_size=SIZE)):
        assert (thin[0].out_channels, thin[2].out_channels) == (20, 10)


class Single(nn.Module):
    """Convolutions of single images, products of functions, and a transposed convolution by its keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.w, self.w1, self.w2 = (nn.Parameter(torch.randn(*shape)) for shape in ((16, 16, 2, 2), (16, 16), (16, 4)))
        self.b1, self.b2 = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([self.second(F.relu(self.first(image))) for image in x])
        x = F.conv_transpose2d(input=F.relu(x), weight=self.w, stride=2).mean((2, 3))
        return torch.addmm(self.b2, torch.addmm(self.b1, x, self.w1).relu(), self.w2)


def test_a_budget_is_met_with_single_images_and_functions() -> None:
    model = Single().eval()
    thin = lc.prune(model, 0.5, align=1, input_size=SIZE)
    assert 0.4 < lc.count(thin, SIZE).macs / lc.count(model, SIZE).macs <= 0.5


class Block(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.b = kind, *(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "sum":
            return self.a(x) + self.b(x)
        if self.kind == "difference":
            return self.a(x) + self.b(x) - x
        if self.kind == "changed":
            return F.relu(x, inplace=True) + self.a(x)
        if self.kind == "view":
            return (x.flatten(2) + self.a(x).flatten(2)).view(x.shape)
        return x.clone() + self.a(x)


@pytest.mark.parametrize("kind", ["sum", "difference", "changed", "view", "residual"])
def test_a_residual_block_adds_to_its_input_itself(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(kind), nn.Conv2d(8, 4, 1))
    assert [block.name for block in residual_blocks(model, SIZE)] == (["1"] if kind in ("view", "residual") else [])


def test_a_block_that_would_still_run_is_no_candidate() -> None:
    class Frozen(tuple):
        """A conversion does not look into it."""

    assert [block.name for block in residual_blocks(Listed(), SIZE)] == ["r1", "r2"]
    model = Listed()
    model.blocks = Frozen([model.r1, model.r2])
    assert residual_blocks(model, SIZE) == []


def test_a_lean_network_and_wrong_ratios_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))
    lean = lc.convert(model, lc.TiedBlock(2), where="1")
    for make in (lc.prune, lc.narrower):
        with pytest.raises(SettingError, match="prune the dense network, then convert"):
            make(lean, 0.5, input_size=SIZE)
    with pytest.raises(SettingError, match="must be a dict"):
        lc.prune(model, ratios=[0.5], input_size=SIZE)  # type: ignore[arg-type]


def test_taylor_names_a_backbone_without_gradients() -> None:
    class Frozen(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            with torch.no_grad():
                x = self[0](x)
            return self[1](x).mean((2, 3))

    model = Frozen(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    batch = IMAGES.float(), torch.zeros(4, dtype=torch.long)
    with pytest.raises(SettingError, match=r"no gradient for '0.weight', which the network uses"):
        lc.prune(model, 0.5, "taylor", align=1, data=[batch], input_size=SIZE)


def test_a_narrower_network_trains_what_was_frozen_and_takes_a_new_head() -> None:
    model = lc.create_model("resnet8")
    model.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in lc.narrower(model, 0.5, align=2).parameters())
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)).requires_grad_(False)
    assert all(parameter.requires_grad for parameter in lc.narrower(plain, 0.5, align=2, input_size=SIZE).parameters())
    name, head = list(model.named_children())[-1]
    setattr(model, name, nn.Linear(head.in_features, 3))
    assert getattr(lc.narrower(model, 0.5, align=2), name).out_features == 3
