from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.errors import RunError, SettingError
from leanconv.core.penalty import PenaltyTerm
from leanconv.data import ImageData, TensorImages, make_loader
from leanconv.data.transforms import normalise
from leanconv.train import TrainConfig, evaluate, fit
from leanconv.train.feed import Feed
from leanconv.train.run import FitResult
from tests.train.conftest import SMALL, Net, assert_same, state


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_leaves_a_folder(data: ImageData, tmp_path: Path) -> None:
    model = Net()
    result = fit(model, data, SMALL.replace(epochs=6, weight_decay=0), tmp_path, progress=False)
    assert result.epochs == 6
    assert result.val_top1_pct == result.history[-1]["val_top1_pct"] > 90
    assert result.images_per_s > 0
    assert result.train_seconds == pytest.approx(sum(record["seconds"] for record in result.history))
    assert records(tmp_path) == result.history
    assert list(result.history[0]) == [
        "epoch", "lr", "train_loss", "penalty", "train_top1_pct",
        "val_loss", "val_top1_pct", "val_top5_pct", "seconds", "images_per_s",
        "peak_ram_bytes",
    ]  # fmt: skip
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4, 5, 6]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["lr"] == 0.1
    assert json.loads((tmp_path / "env.json").read_text())["versions"]["torch"] == torch.__version__.split("+")[0]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["val_top1_pct"] == result.val_top1_pct
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.yaml", "env.json", "last.ckpt", "metrics.jsonl", "summary.json",
    ]  # fmt: skip


def test_one_step_by_hand(data: ImageData, tmp_path: Path) -> None:
    """A whole run of one step equals plain torch: label smoothing, momentum, weight decay and all."""
    config = TrainConfig(
        epochs=1, batch_size=162, lr=0.2, schedule="constant", augment="none", validation=0,
        label_smoothing=0.1, weight_decay=0.01, threads=1,
    )  # fmt: skip
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    expected = copy.deepcopy(model)
    result = fit(model, data, config, tmp_path, progress=False)
    images = (data.train.images / 255 - 0.3) / 0.2  # type: ignore[attr-defined]
    loss = F.cross_entropy(expected(images), data.train.labels, label_smoothing=0.1)
    loss.backward()
    optimizer = torch.optim.SGD(expected.parameters(), 0.2, momentum=0.9, nesterov=True, weight_decay=0.01)
    optimizer.step()
    torch.testing.assert_close(model.state_dict(), expected.state_dict())
    assert result.history[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert (result.val_top1_pct, result.best_epoch) == (None, None)
    assert "val_loss" not in result.history[0]


def test_the_same_seed_gives_the_same_run(data: ImageData, tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = Net()
        torch.manual_seed(len(name) + seed)
        fit(model, data, SMALL.replace(seed=seed), tmp_path / name, progress=False)
        states.append(state(model))
    assert_same(states[0], states[1])
    assert not torch.equal(states[0]["0.weight"], states[2]["0.weight"])


def test_lr_follows_the_schedule(data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(epochs=4, schedule="step", milestones=(0.5, 0.75), validation=0)
    history = fit(Net(), data, config, tmp_path, progress=False).history
    assert [record["lr"] for record in history] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_plateau_follows_validation(data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(epochs=8, schedule="plateau", patience=0, gamma=0.5, lr=0.5)
    history = fit(Net(), data, config, tmp_path, progress=False).history
    best, lr, expected = float("inf"), 0.5, []
    for record in history:
        expected.append(lr)
        if record["val_loss"] < best * (1 - 1e-4):
            best = record["val_loss"]
        else:
            lr /= 2
    assert [record["lr"] for record in history] == pytest.approx(expected)
    assert lr < 0.5


class Pull(nn.Module):
    """A layer with a penalty on its weight's square."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.weight

    def penalty_terms(self) -> list[PenaltyTerm]:
        return [PenaltyTerm("pull", 0.5, self.weight.square().sum(), 3)]


def test_the_penalty_is_trained_and_recorded(data: ImageData, tmp_path: Path) -> None:
    model = Net(Pull())
    history = fit(model, data, SMALL.replace(weight_decay=0), tmp_path, progress=False).history
    assert 0 < history[-1]["penalty"] < history[0]["penalty"] < 2
    assert model[-1].weight.max() < 2


class Spoilt(nn.Module):
    """Turns the logits round from the third epoch on, so that the last epoch is not the best."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return -x if self.steps > 8 else x


@pytest.mark.parametrize("ema", [None, 0.5])
def test_best_keeps_the_best_validation_epoch(ema: float | None, data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(epochs=3, lr=0.05, schedule="constant", select="best", ema=ema)
    model = Net(Spoilt())
    result = fit(model, data, config, tmp_path, progress=False)
    top1 = [record["val_top1_pct"] for record in result.history]
    assert result.best_epoch == top1.index(max(top1)) + 1 != len(top1)
    assert result.val_top1_pct == max(top1) > top1[-1]
    _, validation = data.split(config.validation, config.seed)
    scores = evaluate(model, validation, mean=data.mean, std=data.std)
    assert scores.top1_pct == pytest.approx(max(top1))
    assert scores.loss == pytest.approx(result.history[result.best_epoch - 1]["val_loss"], rel=1e-4)


class Borrower(nn.Module):
    """Uses a module that it does not register, as layers that share weights do."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.__dict__["owner"] = owner

    def forward(self, x: Tensor) -> Tensor:
        return self.owner(x)


def test_ema_averages_a_shared_weight_once(data: ImageData, tmp_path: Path) -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        shared = nn.Conv2d(1, 1, 3, padding=1)
        return nn.Sequential(shared, Borrower(shared), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3))

    steps: list[dict[str, Tensor]] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                steps.append(state(model))
            return x

    config = SMALL.replace(ema=0.7, epochs=2, precision="fp32")
    model = network()
    model.append(Spy())
    fit(model, data, config, tmp_path / "averaged", progress=False)
    plain = network()
    fit(plain, data, config.replace(ema=None), tmp_path / "plain", progress=False)
    weights = [step["0.weight"] for step in steps[1:]] + [plain.state_dict()["0.weight"]]
    average = weights[0]  # torch's AveragedModel starts from the weights after the first step
    for weight in weights[1:]:
        average = 0.7 * average + 0.3 * weight
    torch.testing.assert_close(model.state_dict()["0.weight"], average)
    assert not torch.equal(average, weights[-1])
    assert model[1].owner is model[0]
    history = [json.loads(line) for line in (tmp_path / "averaged" / "metrics.jsonl").read_text().splitlines()]
    _, validation = data.split(config.validation, config.seed)
    scores = evaluate(model, validation, mean=data.mean, std=data.std)
    assert scores.loss == pytest.approx(history[-1]["val_loss"], rel=1e-4)


@pytest.mark.parametrize("at", [0, 5])
def test_a_loss_that_is_not_finite_stops(at: int, data: ImageData, tmp_path: Path) -> None:
    class Burst(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return x * float("inf") if self.training and self.calls == at + 1 else x

    config = SMALL.replace(schedule="constant")
    with pytest.raises(RunError, match=rf"epoch {at // 4 + 1}, step {at + 1}, lr=0.1; lower lr") as caught:
        fit(Net(Burst()), data, config, tmp_path, progress=False)
    assert "\n" not in str(caught.value)


def test_no_decay_on_norms_and_biases(data: ImageData, tmp_path: Path) -> None:
    norms = []
    for exempt in (False, True):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), Pull())
        config = SMALL.replace(weight_decay=0.5, no_decay_norm=exempt, validation=0, epochs=1)
        model[2].penalty_terms = list  # type: ignore[assignment]  # no penalty, and no gradient but the decay's
        fit(model, data, config, tmp_path / str(exempt), progress=False)
        norms.append(model[2].weight.norm().item())
    assert norms[0] < norms[1] == pytest.approx(12**0.5)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"channels_last": False}, {"validation": 0.0}])
def test_other_ways_to_run(settings: dict[str, Any], data: ImageData, tmp_path: Path) -> None:
    model = Net()
    result = fit(model, data, SMALL.replace(epochs=6, **settings), tmp_path, progress=False)
    assert result.history[-1]["train_top1_pct"] > 80
    assert model[0].weight.dtype == torch.float32


def test_compile_leaves_the_model_as_it_was(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    original = torch.compile

    def with_a_quick_backend(function: Any) -> Any:
        compiled.append(function)
        return original(function, backend="eager")

    monkeypatch.setattr(torch, "compile", with_a_quick_backend)
    model, plain = Net(), Net()
    fit(model, data, SMALL.replace(compile=True, ema=0.9), tmp_path / "compiled", progress=False)
    fit(plain, data, SMALL.replace(ema=0.9), tmp_path / "plain", progress=False)
    assert len(compiled) == 1
    assert model._compiled_call_impl is None
    torch.testing.assert_close(model.state_dict(), plain.state_dict())


def test_norms_that_cannot_be_synchronised_are_refused(data: ImageData, tmp_path: Path) -> None:
    class Active(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    config = SMALL.replace(epochs=1, sync_norms=True)
    model = Net()
    plain = fit(model, data, config, tmp_path / "plain", progress=False)
    assert plain.epochs == 1
    model.norm = Active(4)
    with pytest.raises(SettingError, match="sync_norms=True cannot replace 'norm', a Active"):
        fit(model, data, config, tmp_path / "active", progress=False)


def test_each_epoch_counts_its_own_steps(data: ImageData, tmp_path: Path) -> None:
    """The loss and the accuracy of an epoch are means over its own images, not over all so far."""
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.detach().clone())
            return x

    labels: list[Tensor] = []
    model = Net(Spy())
    config = SMALL.replace(epochs=2, lr=0.3, validation=0, augment="none")
    feed = make_loader(
        data.train, mean=data.mean, std=data.std, batch_size=32, train=True, seed=config.seed, drop_last=True
    )
    for epoch in range(2):
        feed.set_epoch(epoch)
        labels += [batch[1] for batch in feed]
    history = fit(model, data, config, tmp_path, progress=False).history
    losses = [F.cross_entropy(x, y).item() for x, y in zip(seen, labels, strict=True)]
    assert [record["train_loss"] for record in history] == pytest.approx(
        [sum(losses[:5]) / 5, sum(losses[5:]) / 5], rel=1e-5
    )
    assert abs(sum(losses[:5]) - sum(losses[5:])) > 0.5


def test_each_epoch_has_its_own_order(data: ImageData, tmp_path: Path) -> None:
    first: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                first.append(x.detach().clone())
            return x

    config = SMALL.replace(epochs=2, validation=0, augment="none", lr=1e-12)
    fit(nn.Sequential(Spy(), nn.Flatten(), nn.Linear(64, 3)), data, config, tmp_path, progress=False)
    assert len(first) == 10
    assert not torch.equal(first[0], first[5])


def test_norms_of_several_processes_on_cpus_are_refused(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"sync_norms=True takes statistics over several GPUs, .* leave it out"):
        fit(Net(), data, SMALL.replace(sync_norms=True), tmp_path / "run", accelerator="cpu", devices=2)
    assert not (tmp_path / "run").exists()


def test_the_validation_part_follows_the_seed_of_the_run(data: ImageData) -> None:
    def parts(seed: int) -> tuple[list[Any], list[Any]]:
        feed = Feed(data, SMALL.replace(seed=seed))
        assert isinstance(feed.train, TensorImages) and isinstance(feed.validation, TensorImages)
        assert torch.bincount(feed.validation.labels).tolist() == [11, 11, 11]
        return tuple(part.images.flatten(1).tolist() for part in (feed.train, feed.validation))  # type: ignore[return-value]

    first, again, other = parts(0), parts(0), parts(1)
    assert first == again
    assert first[1] != other[1] and sorted(first[0] + first[1]) == sorted(other[0] + other[1])
    expected = data.split(0.2, 1)[1]
    assert isinstance(expected, TensorImages) and expected.images.flatten(1).tolist() == other[1]


def test_the_network_must_suit_the_data(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="has 7 outputs, the data 3 classes; build it with num_classes=3"):
        fit(Net(classes=7), data, SMALL, tmp_path, progress=False)


def test_one_class_is_nothing_to_learn(data: ImageData, tmp_path: Path) -> None:
    one = TensorImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(SettingError, match="photos has one class, 'images', so there is nothing to learn"):
        fit(Net(classes=1), ImageData.of("photos", ("images",), one, one), SMALL, tmp_path, progress=False)


def test_fewer_images_than_a_batch(data: ImageData, tmp_path: Path) -> None:
    assert fit(Net(), data, SMALL.replace(batch_size=1000), tmp_path, progress=False).epochs == 3


def test_the_speed_is_the_median() -> None:
    history = [{"epoch": epoch, "seconds": 1.0, "images_per_s": speed} for epoch, speed in ((1, 10.0), (2, 30.0))]
    assert FitResult.of(history, "last").images_per_s == 20


def test_lookahead_returns_to_the_slow_average(data: ImageData, tmp_path: Path) -> None:
    """slow = d slow + (1 - d) weights with d = 0.95 (step / steps)^3 at each step; the last weights are the slow ones."""
    config = SMALL.replace(lookahead=1, epochs=1, precision="fp32", schedule="constant", momentum=0.0, nesterov=False)
    seen: list[list[torch.Tensor]] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            seen.append([parameter.detach().clone() for parameter in module.model.parameters()])

    model = Net()
    slow = [parameter.detach().clone() for parameter in model.parameters()]
    fit(model, data, config, tmp_path, progress=False, callbacks=[Watch()])  # users' callbacks come first
    for step, fast in enumerate(seen, 1):
        decay = 1.0 if step == len(seen) else 0.95 * (step / len(seen)) ** 3
        slow = [torch.lerp(a, b, 1 - decay) for a, b in zip(slow, fast, strict=True)]
    assert len(seen) > 2
    for own, expected in zip(model.parameters(), slow, strict=True):
        torch.testing.assert_close(own, expected)


def test_a_network_that_starts_from_images_gets_train_images(data: ImageData, tmp_path: Path) -> None:
    class Counted(Net):
        given: torch.Tensor | None = None

        def init_from_images_(self, images: torch.Tensor) -> None:
            self.given = images

    model = Counted()
    fit(model, data, SMALL.replace(epochs=1, validation=0.5), tmp_path, progress=False)
    assert model.given is not None
    first = data.split(0.5, SMALL.seed)[0].subset(torch.arange(3)).images
    expected = normalise(first, data.mean, data.std, channels_last=False)
    torch.testing.assert_close(model.given[:3], expected)


def test_images_move_to_the_device_as_bytes(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = set()

    def move(self: Feed, batch: tuple[Tensor, Tensor], device: torch.device, index: int) -> tuple[Tensor, Tensor]:
        moved.add(batch[0].dtype)
        return batch

    monkeypatch.setattr(Feed, "transfer_batch_to_device", move)
    fit(Net(), data, SMALL.replace(epochs=1), tmp_path / "run", progress=False)
    assert moved == {torch.uint8}
