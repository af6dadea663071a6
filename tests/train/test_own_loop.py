"""A lean network in loops that are not ours: plain torch, a LightningModule, timm's pieces, Hugging Face's Trainer."""

from __future__ import annotations

import argparse
import copy
import math
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import leanconv as lc
from leanconv.core.errors import SettingError, TieError
from leanconv.train import LeanCallback
from tests.train.conftest import assert_same, state, stripes

METHOD = lc.SharedBasis(shared=4, unique=1, penalty_weight=3.0)


def small() -> nn.Sequential:
    """Two convolutions that share a basis, and one before them that stays dense."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def lean() -> nn.Module:
    model = small()
    network = lc.convert(model, lc.plan(model, METHOD, exclude="0", input_size=(1, 8, 8)), "fit")
    with torch.no_grad():
        for parameter in network[3].parameters():  # type: ignore[index]
            parameter *= 1.5  # bases start orthonormal, where the penalty is zero
    assert lc.penalty(network) > 0.1
    return network


def images() -> tuple[Tensor, Tensor]:
    found = stripes(96)
    return (found.images / 255 - 0.3) / 0.2, found.labels


def by_hand(steps: int, accumulate: int = 1, clip: float | None = None) -> nn.Module:
    """The plain loop of docs/training.md."""
    model = lean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = images()
    lc.check(model)
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(accumulate):
            rows = slice(16 * (step * accumulate + part), 16 * (step * accumulate + part + 1))
            (F.cross_entropy(model(x[rows]), y[rows]) / accumulate + lc.penalty(model) / accumulate).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return model


def test_a_plain_loop(tmp_path: Path) -> None:
    model = by_hand(6)
    assert lc.penalty(model) < lc.penalty(lean())
    lc.save(model, tmp_path)
    x, _ = images()
    torch.testing.assert_close(lc.load(tmp_path, model=small()).eval()(x), model.eval()(x))


class Mine(pl.LightningModule):
    """Somebody's own module, which knows nothing of leanconv."""

    def __init__(self, net: nn.Module, manual: bool = False) -> None:
        super().__init__()
        self.net = net
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)


def train(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), **settings,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(*images()), batch_size=16))
    return trainer


pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # of Lightning's
]


@pytest.mark.parametrize(
    ("settings", "manual", "expected"),
    [
        ({}, False, {"steps": 6}),
        ({}, True, {"steps": 6}),
        ({"accumulate_grad_batches": 3}, False, {"steps": 2, "accumulate": 3}),
        ({"gradient_clip_val": 0.05}, False, {"steps": 6, "clip": 0.05}),
    ],
)
def test_the_callback_trains_loss_and_penalty(
    settings: dict[str, Any], manual: bool, expected: dict[str, Any], tmp_path: Path
) -> None:
    module = Mine(lean(), manual)
    trainer = train(module, LeanCallback(tmp_path), **settings)
    wanted = by_hand(**expected)
    torch.testing.assert_close(dict(module.net.state_dict()), dict(wanted.state_dict()))
    before_last = lc.penalty(by_hand(**{**expected, "steps": expected["steps"] - 1})).detach()
    torch.testing.assert_close(trainer.callback_metrics["penalty"], before_last)
    loaded = lc.load(tmp_path, model=small())
    assert_same(state(loaded), state(module.net))
    lc.check(loaded)


def test_the_callback_saves_averaged_weights(tmp_path: Path) -> None:
    module = Mine(lean())
    train(module, LeanCallback(tmp_path), WeightAveraging())
    lc.check(module.net)
    loaded = lc.load(tmp_path, model=small())
    assert_same(state(loaded), state(module.net))
    assert not torch.equal(state(loaded)["0.weight"], state(by_hand(6))["0.weight"])


def test_a_lost_tie_is_seen_before_the_first_step() -> None:
    network = lean()
    dense = small()
    network[3] = dense[3]  # type: ignore[index]  # the owner of the basis is gone
    with pytest.raises(TieError):
        train(Mine(network), LeanCallback(network="net"))


def test_which_network_is_meant() -> None:
    module = Mine(lean())
    assert LeanCallback().network_of(module) is module.net
    module.head = nn.Linear(3, 3)
    with pytest.raises(
        SettingError, match=r"Mine holds 1 lean networks \(net\), beside head.weight; name the one to train"
    ):
        LeanCallback().network_of(module)
    assert LeanCallback(network="net").network_of(module) is module.net
    module.copy = copy.deepcopy(module.net)
    with pytest.raises(SettingError, match=r"holds 2 lean networks \(net, copy\)"):
        LeanCallback().network_of(module)
    with pytest.raises(SettingError, match="holds no lean network"):
        LeanCallback().network_of(Mine(small()))
    with pytest.raises(SettingError, match="network='nets' is not a part of Mine"):
        LeanCallback(network="nets").network_of(module)


def test_strategies_that_split_weights_are_refused() -> None:
    class Trainer:
        strategy = FSDPStrategy()

    with pytest.raises(SettingError, match="FSDPStrategy splits weights that layers share; use DDP"):
        LeanCallback().on_fit_start(Trainer(), Mine(lean()))  # type: ignore[arg-type]


def test_timms_own_pieces(tmp_path: Path) -> None:
    """timm's train.py is a script beside the package, not in it; these are the pieces that it is made of, in its order."""
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler, dispatch_clip_grad

    model, (x, y) = lean(), images()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=0.01)
    ema = ModelEmaV3(model, decay=0.5)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=3, warmup_epochs=0, cooldown_epochs=0)
    scaler = NativeScaler(device="cpu")
    saver = CheckpointSaver(
        model, optimizer, model_ema=ema, amp_scaler=scaler, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path)
    )
    shadow, updates = state(model), 0
    before = float(lc.penalty(model).detach())
    lc.check(model)
    for epoch in range(epochs):
        for rows in torch.arange(96).split(16):
            loss = F.cross_entropy(model(x[rows]), y[rows]) + lc.penalty(model)
            scaler(loss, optimizer, clip_grad=1.0, clip_mode="norm", parameters=model.parameters())
            optimizer.zero_grad()
            ema.update(model, step=updates)
            updates += 1
            for name, value in state(model).items():  # each shared tensor once, not once a user of it
                shadow[name] = shadow[name].lerp(value, 0.5) if value.is_floating_point() else value
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch, metric=float(loss.detach()))
    assert float(lc.penalty(model).detach()) < before
    lc.check(ema.module)
    torch.testing.assert_close(dict(ema.module.state_dict()), shadow)
    dispatch_clip_grad(model.parameters(), 1.0)
    lc.save(ema, tmp_path / "lean")
    assert_same(state(lc.load(tmp_path / "lean", model=small())), state(ema.module))

    # it holds no plan: its weights load into a converted network
    checkpoint = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    again = lean()
    again.load_state_dict(checkpoint["state_dict"])
    lc.check(again)
    assert_same(state(again), state(model))


def test_weight_decay_groups_of_timm_hold_each_shared_weight_once() -> None:
    from timm.optim import create_optimizer_v2

    model = lean()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=0.01)
    by_decay = {group["weight_decay"]: {id(p) for p in group["params"]} for group in optimizer.param_groups}
    assert sum(map(len, by_decay.values())) == len(list(model.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    free, decayed = ({names[key] for key in by_decay[decay]} for decay in (0.0, 0.01))
    assert all(model.get_parameter(name).ndim > 1 for name in decayed)
    assert all(model.get_parameter(name).ndim <= 1 for name in free)
    assert any("bank" in name or "basis" in name for name in decayed)


def test_vectors_that_are_weights_get_no_decay_from_timm() -> None:
    """Those of FilterSummary and SoftShared, as docs/training.md says."""
    from timm.optim import param_groups_weight_decay

    exempt = {}
    for method in lc.METHODS:
        dense = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(3)))
        network = lc.convert(dense, lc.plan(dense, method(), input_size=(16, 8, 8)), "fresh")
        norms = {id(p) for part in network.modules() if isinstance(part, nn.BatchNorm2d) for p in part.parameters()}
        named = {id(p) for name, p in network.named_parameters() if name.rpartition(".")[2] != "bias"}
        groups = param_groups_weight_decay(network, 0.1)
        free = [parameter for group in groups if group["weight_decay"] == 0 for parameter in group["params"]]
        exempt[method.__name__] = any(id(parameter) in named - norms for parameter in free)
    assert {name for name, found in exempt.items() if found} == {"FilterSummary", "SoftShared"}


def test_what_timms_saver_pickles_is_read_when_it_is_allowed(tmp_path: Path) -> None:
    from timm.utils import CheckpointSaver

    model = lean()
    saver = CheckpointSaver(
        model, torch.optim.SGD(model.parameters(), lr=0.1), args=argparse.Namespace(model="lean", epochs=1),
        checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(0, metric=1.0)
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "last.pth.tar", weights_only=True)
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / "last.pth.tar", weights_only=True)["arch"] == "lean"


def test_one_parameter_under_two_names_is_what_breaks() -> None:
    """Why leanconv shares modules by reference: timm's averaging goes through names, and averages an alias twice."""
    from timm.utils import ModelEmaV3

    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    ema = ModelEmaV3(tied, decay=0.5, foreach=False)
    with torch.no_grad():
        start = tied[0].weight.clone()
        tied[0].weight += 1
    ema.update(tied)
    torch.testing.assert_close(ema.module[0].weight, start + 0.75)  # type: ignore[index]  # and not + 0.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hugging_faces_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Wrapped(nn.Module):
        """The Trainer wants keywords, and an output with a loss."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.net(pixel_values)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class LeanTrainer(transformers.Trainer):  # type: ignore[misc,name-defined]
        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **more)
            loss = loss + lc.penalty(model)
            return (loss, outputs) if return_outputs else loss

    x, y = images()
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(x, y, strict=True)]
    model = Wrapped(lean())
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=1, per_device_train_batch_size=16, use_cpu=True, report_to=[],
        lr_scheduler_type="constant", optim="sgd", learning_rate=0.05, weight_decay=0.0, max_grad_norm=math.inf,
        train_sampling_strategy="sequential", save_strategy="epoch", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    LeanTrainer(model, arguments, train_dataset=rows).train()

    expected, (x, y) = lean(), images()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    for part in range(6):
        optimizer.zero_grad()
        at = slice(16 * part, 16 * part + 16)
        (F.cross_entropy(expected(x[at]), y[at]) + lc.penalty(expected)).backward()
        optimizer.step()
    torch.testing.assert_close(dict(model.net.state_dict()), dict(expected.state_dict()))
    lc.check(model.net)
    lc.save(model.net, tmp_path / "lean")
    assert_same(state(lc.load(tmp_path / "lean", model=small())), state(model.net))
    again = Wrapped(lean())  # its own checkpoint is plain safetensors, since each shared tensor has one name
    from safetensors.torch import load_file

    again.load_state_dict(load_file(tmp_path / "out" / "checkpoint-6" / "model.safetensors"))
    assert_same(state(again.net), state(model.net))
