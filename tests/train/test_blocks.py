"""Block by block: which blocks there are, the least error that each can reach, and what a stop must not change."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.data import ImageData
from leanconv.train import recover
from leanconv.train.blocks import recover_blocks_
from leanconv.train.partition import groups_of, lean_blocks
from tests.train.conftest import SMALL, assert_same, state
from tests.train.test_distill import lean_and_dense

IMAGES = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def parts_of(student: nn.Module, teacher: nn.Module, images: Tensor = IMAGES) -> list[tuple[str, ...]]:
    return [block.parts for block in lean_blocks(student, teacher, images[:2])]


def test_blocks_are_residual_blocks_and_those_that_share_are_one_group() -> None:
    student, teacher = lean_and_dense(lc.TiedBlock(blocks=2))
    assert parts_of(student, teacher) == [("layer1.0",), ("layer1.1",), ("layer2.0",)]
    assert [len(group) for group in groups_of(student, lean_blocks(student, teacher, IMAGES[:2]))] == [1, 1, 1]
    student, teacher = lean_and_dense(lc.DepthShared())
    groups = groups_of(student, lean_blocks(student, teacher, IMAGES[:2]))
    assert [[block.name for block in group] for group in groups] == [["layer1.0", "layer1.1"]]
    assert parts_of(teacher, copy.deepcopy(teacher)) == []


def plain(groups: int, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(groups)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 8, 3, groups=groups), nn.ReLU(inplace) if inplace else nn.Identity(),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=groups), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip


def test_without_a_residual_block_it_is_the_layer_with_the_norm_directly_behind_it() -> None:
    assert parts_of(plain(2), plain(1)) == [("2", "4"), ("6",)]
    assert parts_of(plain(2, inplace=True), plain(1, inplace=True)) == [("2",), ("6",)]


class Twice(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x))


def test_a_layer_that_runs_twice_is_learned_through_the_module_around_it() -> None:
    nets = [nn.Sequential(nn.Conv2d(1, 4, 1), Twice(groups)) for groups in (2, 1)]
    assert parts_of(nets[0], nets[1]) == [("1",)]
    assert parts_of(nets[0][1], nets[1][1], torch.zeros(2, 4, 3, 3)) == []


def test_a_layer_reaches_its_least_squares_solution() -> None:
    """One thin filter for both halves of the channels, y_b = T x_b: T from all halves by lstsq in float64."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False)).double()
    mixing = torch.randn(
        8, 8, dtype=torch.float64
    )  # correlated channels, so that the fit to weights alone is not the best
    images = torch.einsum("oi,nihw->nohw", mixing, torch.randn(32, 8, 3, 3, dtype=torch.float64))
    lean = lc.convert(dense, lc.plan(dense, lc.TiedBlock(blocks=2), input_size=(8, 3, 3)), "fit")
    wanted = dense(images).detach()
    x, y = (values.unflatten(1, (2, 4)).permute(2, 0, 1, 3, 4).flatten(1).T for values in (images, wanted))
    least = float((x @ torch.linalg.lstsq(x, y).solution - y).square().sum() / y.square().sum())
    (result,) = recover_blocks_(lean, dense, images, steps=400, lr=0.03)
    assert least < 0.95 * result.error_before
    assert least <= result.error_after * (1 + 1e-9) and result.error_after == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize("inputs", ["teacher", "student"])
@pytest.mark.parametrize("method", [lc.TiedBlock(blocks=2), lc.DepthShared(penalty_weight=0.1)], ids=lambda m: m.name)
def test_stopped_after_a_group_and_continued(inputs: str, method: lc.Method, tmp_path: Path) -> None:
    options = {"steps": 12, "batch_size": 16, "lr": 0.02, "inputs": inputs}
    whole, teacher = lean_and_dense(method)
    before, start = state(teacher), state(whole)
    expected = recover_blocks_(whole, teacher, IMAGES, **options)  # type: ignore[arg-type]
    assert_same(state(teacher), before)
    assert sum(one.error_after for one in expected) < 0.9 * sum(one.error_before for one in expected)
    for name in ("conv1.weight", "fc.weight", "bn1.running_mean"):
        assert torch.equal(state(whole)[name], start[name]), f"{name} is in no lean block"
    lc.check(whole)

    def stop(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    student, _ = lean_and_dense(method)
    with pytest.raises(KeyboardInterrupt):
        recover_blocks_(student, teacher, IMAGES, **options, folder=tmp_path, say=stop)  # type: ignore[arg-type]
    again, _ = lean_and_dense(method)
    told: list[str] = []
    results = recover_blocks_(
        again, teacher, IMAGES, **options, folder=tmp_path, say=lambda done, total, text: told.append(text)  # type: ignore[arg-type]
    )  # fmt: skip
    assert results == expected and "layer1.0: error" in told[0]
    assert_same(state(again), state(whole))
    other, _ = lean_and_dense(method)
    with pytest.raises(SettingError, match="holds other blocks: steps is 12 there and 9 here"):
        recover_blocks_(other, teacher, IMAGES, **options | {"steps": 9}, folder=tmp_path)  # type: ignore[arg-type]


def test_activations_that_are_not_stored_give_the_same_weights() -> None:
    nets, results = [], []
    for memory in (1024, 0):
        student, teacher = lean_and_dense(lc.TiedBlock(blocks=2))
        results.append(recover_blocks_(student, teacher, IMAGES, steps=6, batch_size=16, memory_mib=memory))
        nets.append(student)
    assert [one.stored for one in results[0] + results[1]] == [True] * 3 + [False] * 3
    values = 2 * 8 * 8 * 8  # input and output of layer1.0 for one image
    assert results[0][0].memory_mib == pytest.approx(48 * values * 4 / 2**20)
    assert results[1][0].memory_mib == pytest.approx(16 * values * 4 / 2**20)
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict(), rtol=1e-4, atol=1e-5)


def test_a_larger_error_is_taken_back() -> None:
    student, teacher = lean_and_dense(lc.TiedBlock(blocks=2))
    before = state(student)
    results = recover_blocks_(student, teacher, IMAGES, steps=1, lr=1e3)
    assert all(one.error_after == one.error_before for one in results)
    assert_same(state(student), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 1}, "batch_size=1 and 48 images: both must be at least 2"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"inputs": "both"}, "inputs='both' must be 'teacher' or 'student'"),
    ],
)
def test_settings_that_break_a_rule(options: dict[str, int], said: str) -> None:
    student, teacher = lean_and_dense(lc.TiedBlock(blocks=2))
    with pytest.raises(SettingError, match=said):
        recover_blocks_(student, teacher, IMAGES, **options)  # type: ignore[arg-type]


def test_blocks_then_distillation_stopped_and_continued(data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(epochs=1, distill="kl_standardised")
    whole, teacher = lean_and_dense(lc.TiedBlock(blocks=2))
    result = recover(whole, teacher, data, config, tmp_path / "whole", progress=False, block_steps=4)
    assert result.history[0]["distill_loss"] > 0
    for name in ("block-000.safetensors", "block-002.safetensors", "blocks.json"):
        assert (tmp_path / "whole" / "blocks" / name).exists()
    student, _ = lean_and_dense(lc.TiedBlock(blocks=2))
    bad = config.replace(distill="features", distill_layers=["none"])
    with pytest.raises(SettingError, match="distill_layers"):  # after the blocks
        recover(student, teacher, data, bad, tmp_path / "parts", progress=False, block_steps=4)
    again, _ = lean_and_dense(lc.TiedBlock(blocks=2))
    recover(again, teacher, data, config, tmp_path / "parts", progress=False, block_steps=4)
    assert_same(state(again), state(whole))
    read, _ = lean_and_dense(lc.TiedBlock(blocks=2))
    recover(read, teacher, data, config, tmp_path / "parts", progress=False, block_steps=4)
    assert_same(state(read), state(whole))


def test_a_narrower_network_has_no_block_that_learns_alone(
    data: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher, student = (lc.create_model("resnet8", num_classes=3, in_chans=1, width=width) for width in (8, 4))
    recover(student, teacher, data, SMALL.replace(epochs=1), tmp_path, block_steps=2)
    assert "no block learns alone: none has the same input and output sizes" in capfd.readouterr().err
