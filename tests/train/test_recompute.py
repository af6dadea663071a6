"""Gradient checkpointing changes the memory and nothing else; the memory is recorded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.data import ImageData
from leanconv.train import TrainConfig, fit
from leanconv.train.memory import peaks
from leanconv.train.recompute import blocks_of, recomputed
from tests.train.conftest import SMALL, Net, assert_same, state
from tests.train.test_resume import CtrlC, untimed


def residual(last: nn.Module | None = None, method: Any = None) -> nn.Module:
    """Blocks with norms of both kinds of running mean, dropout, and weights that two blocks share."""
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=None if i else 0.1), nn.ReLU(), nn.Dropout(0.2),
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4),
        )
        for i in range(3)
    ]  # fmt: skip
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sequential(*blocks), nn.Flatten(), nn.Linear(256, 3))
    lean = net if method is None else lc.convert(net, lc.plan(net, method, where="1.*", input_size=(1, 8, 8)), "fresh")
    return lean if last is None else nn.Sequential(lean, last)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        (None, {"accumulate": 2, "ema": 0.5}),
        (lc.DepthShared(scope="network"), {"precision": "bf16", "mixup": 0.3, "optimizer": "adamw", "lr": 0.01}),
        (lc.SharedBasis(shared=2), {}),
    ],
    ids=["dense", "depth_shared", "shared_basis"],
)
def test_weights_and_records_are_the_same(method: Any, more: dict[str, Any], data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(epochs=1, **more)
    plain, again = residual(method=method), residual(method=method)
    first = fit(plain, data, config, tmp_path / "plain", progress=False)
    second = fit(again, data, config.replace(grad_checkpointing=True), tmp_path / "again", progress=False)
    assert_same(state(plain), state(again))
    assert untimed(first.history) == untimed(second.history)
    assert not any("forward" in vars(module) for module in again.modules()), "the network is as it was"


def test_a_block_keeps_a_forward_of_its_own() -> None:
    network, x = residual().eval(), torch.ones(1, 1, 8, 8)
    network[1][0].forward = lambda x: 2 * nn.Sequential.forward(network[1][0], x)
    before = network(x)
    with recomputed(network):
        assert torch.equal(network(x), before)
    assert torch.equal(network(x), before)


def test_a_run_may_change_it_when_it_resumes(data: ImageData, tmp_path: Path) -> None:
    whole = residual(nn.Identity())
    fit(whole, data, SMALL, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(residual(CtrlC(5)), data, SMALL, tmp_path / "run", progress=False)
    model = residual(nn.Identity())
    fit(model, data, SMALL.replace(grad_checkpointing=True), tmp_path / "run", resume=True, progress=False)
    assert_same(state(model), state(whole))


def test_blocks_keep_their_input_only() -> None:
    def saved(wanted: bool) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = copy.deepcopy(net)
        with recomputed(model, wanted) as names, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            assert len(names) == 3 * wanted
            loss = model(images).square().sum()
            size = sum(kept.values())
            loss.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
        return size

    grads: list[list[Tensor | None]] = []
    net, images = lc.create_model("resnet8", num_classes=10), torch.randn(16, 3, 32, 32)
    assert saved(True) < 0.5 * saved(False)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True) if a is not None and b is not None)


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("resnet20", "layer1.0", 9),
        ("timm/resnet18", "layer1.0", 8),
        ("timm/convnext_atto", "stem", 17),
        ("fast_vgg", "block1", 3),
    ],
)
def test_the_blocks_of_networks(name: str, first: str, count: int) -> None:
    found = dict(blocks_of(lc.create_model(name, num_classes=10)))
    assert next(iter(found)) == first and len(found) == count
    assert not any(name != other and other.startswith(f"{name}.") for name in found for other in found)


def test_layers_that_only_borrow_their_weight_count() -> None:
    shared = residual(method=lc.DepthShared(scope="network"))
    assert [name for name, _ in blocks_of(shared)] == ["1.0", "1.1", "1.2"]


def test_what_cannot_be_computed_again(data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(grad_checkpointing=True)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(
        SettingError, match="grad_checkpointing=True: Sequential has no blocks of several layers; leave it"
    ):
        fit(flat, data, config, tmp_path, progress=False)
    with pytest.raises(SettingError, match="leave grad_checkpointing out, or compile"):
        TrainConfig(compile=True, grad_checkpointing=True)


def test_memory_is_recorded_and_old_records_lack_it(data: ImageData, tmp_path: Path) -> None:
    result = fit(Net(), data, SMALL, tmp_path / "run", progress=False, logger="csv")
    sizes = [record["peak_ram_bytes"] for record in result.history]
    assert sizes == sorted(sizes) and 2**20 < sizes[-1] <= peaks(torch.device("cpu"))["peak_ram_bytes"]
    assert "peak_ram_bytes_step" in next((tmp_path / "run" / "csv").rglob("metrics.csv")).read_text()
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(6)), data, SMALL, tmp_path / "old", progress=False)
    from leanconv.train.checkpoint import read_checkpoint, write_checkpoint

    path = tmp_path / "old" / "last.ckpt"
    checkpoint = read_checkpoint(path)
    for record in checkpoint["progress"]["history"]:
        del record["peak_ram_bytes"]
    write_checkpoint(checkpoint, path)
    continued = fit(Net(nn.Identity()), data, SMALL, tmp_path / "old", resume=True, progress=False)
    assert untimed(continued.history) == untimed(result.history)
    lines = (tmp_path / "old" / "metrics.jsonl").read_text().splitlines()
    assert ["peak_ram_bytes" in json.loads(line) for line in lines] == [False, True, True]
    assert fit(Net(nn.Identity()), data, SMALL, tmp_path / "old", resume=True, progress=False).epochs == 3
