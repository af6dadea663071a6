"""Optimizers and rules for parameters: equal to torch's own, exact on resume, and refused where they name nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import FileError, SettingError
from leanconv.core.layout import to_channels_last
from leanconv.data import ImageData
from leanconv.train import TrainConfig, fit
from leanconv.train.checkpoint import CHECKSUMS
from leanconv.train.config import ADDED
from leanconv.train.optimizers import make_optimizer, matrices, parameter_groups, set_lr
from tests.train.conftest import SMALL, Net, assert_same, state
from tests.train.test_resume import CtrlC, check_continues

MUON = TrainConfig(optimizer="muon", muon_momentum=0.6, muon_weight_decay=0.5, muon_lr=0.05, lr=0.1, momentum=0.8)


def hidden() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, (3, 2)), nn.Flatten(1), nn.Linear(6 * 4 * 5, 5), nn.Linear(5, 3)
    )  # fmt: skip


def scattered(model: nn.Module) -> nn.Module:
    """Weights without a view as a matrix: each lies in a larger tensor."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            wide = torch.zeros(*module.weight.shape[:3], module.weight.shape[3] + 1)[..., :-1]
            module.weight = nn.Parameter(wide.copy_(module.weight.detach()))
    return model


def loss_of(model: nn.Module, step: int) -> Tensor:
    images = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    return model(images).square().mean()


@pytest.mark.parametrize(
    "layout", [lambda model: model, to_channels_last, scattered], ids=["contiguous", "last", "scattered"]
)
@pytest.mark.parametrize("rest", ["sgd", "adamw"])
def test_muon_is_torchs_on_the_flattened_weights(layout: Callable[[nn.Module], nn.Module], rest: str) -> None:
    """Bit for bit, against torch's optimizers on separate parameters; columns are in the order of memory."""
    config = MUON.replace(muon_rest=rest, muon_adjust_lr="match_rms_adamw")
    model = layout(hidden())
    twin = layout(hidden())
    optimizer = make_optimizer(model, config)
    inner = [twin[2].weight, twin[4].weight]
    order = (0, 2, 3, 1) if layout is to_channels_last else (0, 1, 2, 3)
    flat = [nn.Parameter(inner[0].detach().permute(order).flatten(1)), nn.Parameter(inner[1].detach().clone())]
    others = [p for p in twin.parameters() if all(p is not own for own in inner)]
    muon = torch.optim.Muon(flat, 0.05, weight_decay=0.5, momentum=0.6, adjust_lr_fn="match_rms_adamw")
    plain: torch.optim.Optimizer = (
        torch.optim.SGD(others, 0.1, momentum=0.8, nesterov=True, weight_decay=5e-4)
        if rest == "sgd"
        else torch.optim.AdamW(others, 0.1, weight_decay=5e-4)
    )
    for step in range(3):
        optimizer.zero_grad()
        assert optimizer.step(lambda step=step: (lambda loss: (loss.backward(), loss)[1])(loss_of(model, step))) > 0
        twin.zero_grad()
        loss_of(twin, step).backward()
        flat[0].grad, flat[1].grad = inner[0].grad.permute(order).flatten(1), inner[1].grad
        muon.step()
        plain.step()
        inner[0].data.permute(order).copy_(flat[0].detach().view([inner[0].shape[i] for i in order]))
        inner[1].data.copy_(flat[1].detach())
        assert_same(state(model), state(twin))
    moved = optimizer.state[model[2].weight]["momentum_buffer"]
    assert torch.equal(moved.permute(order).flatten(1), muon.state[flat[0]]["momentum_buffer"])


def test_an_orthogonalised_step() -> None:
    """Without momentum and decay, the singular values of the step are those of torch's Newton-Schulz: about 1, times lr."""
    model = hidden()
    before = model[2].weight.detach().clone()
    optimizer = make_optimizer(model, MUON.replace(muon_momentum=0, muon_nesterov=False, muon_weight_decay=0))
    loss_of(model, 0).backward()
    optimizer.step()
    step = (before - model[2].weight.detach()).flatten(1).double() / 0.05
    values = torch.linalg.svdvals(step)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    assert float((step * model[2].weight.grad.flatten(1)).sum()) > 0


def test_a_shared_weight_is_one_matrix() -> None:
    dense = lc.create_model("resnet8", width=4)
    lean = lc.convert(dense, lc.plan(dense, lc.DepthShared(), exclude="conv1", input_size=(3, 32, 32)), "fresh")
    by_muon, others = parameter_groups(lean, MUON)
    every = [own for group in [*by_muon, *others] for own in group["params"]]
    assert len(every) == len(set(every)) == len(list(lean.parameters()))
    assert all(own.ndim >= 2 for group in by_muon for own in group["params"])
    first, last = lean.conv1.weight, lean.fc.weight
    assert all(own is not first and own is not last for group in by_muon for own in group["params"])
    optimizer = make_optimizer(lean, MUON)
    lean(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert all(own.isfinite().all() for own in lean.parameters())


def test_what_muon_takes() -> None:
    model = hidden()
    assert [tuple(own.shape) for own in matrices(model, MUON)] == [(6, 4, 3, 2), (5, 120)]
    assert [tuple(own.shape) for own in matrices(model, MUON.replace(muon_exclude=["4.*", "5.*"]))] == [
        (4, 1, 3, 3), (6, 4, 3, 2),
    ]  # fmt: skip
    with pytest.raises(SettingError, match="finds no matrix to train between the first and the last layer; use 'sgd'"):
        make_optimizer(nn.Linear(3, 3), MUON)
    everything = make_optimizer(nn.Linear(3, 3, bias=False), MUON.replace(muon_exclude=[]).replace(optimizer="sgd"))
    assert len(everything.param_groups) == 1


def test_the_first_rule_decides_and_the_schedule_scales_each_group() -> None:
    config = TrainConfig(
        lr=0.5, lr_rules=["1.bias=64", "*.bias=2", "5.weight=0.5"], weight_decay_rules=["1.*=0.25"], no_decay_norm=True
    )
    model = hidden()
    optimizer = make_optimizer(model, config)
    set_lr(optimizer, 0.1)
    names = {own: name for name, own in model.named_parameters()}
    found = {
        names[own]: (round(group["lr"], 9), group["weight_decay"])
        for group in optimizer.param_groups
        for own in group["params"]
    }
    assert found == {
        "0.weight": (0.1, 5e-4), "2.weight": (0.1, 5e-4), "4.weight": (0.1, 5e-4), "5.weight": (0.05, 5e-4),
        "1.weight": (0.1, 0.25), "1.bias": (6.4, 0.25),
        "0.bias": (0.2, 0), "2.bias": (0.2, 0), "4.bias": (0.2, 0), "5.bias": (0.2, 0),
    }  # fmt: skip


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_decoupled_decay_does_not_depend_on_the_factor(optimizer: Any) -> None:
    """Without a gradient, momentum off, a weight shrinks by 1 - lr weight_decay, whatever its factor."""
    config = TrainConfig(
        optimizer=optimizer,
        lr=0.5,
        momentum=0,
        nesterov=False,
        weight_decay=0.1,
        muon_weight_decay=0.1,
        lr_rules=["2.*=8"],
    )
    for decoupled, factor in ((False, 8.0 * (0.04 if optimizer == "muon" else 1)), (True, 1.0)):
        model = hidden()
        before = model[2].weight.detach().clone()
        made = make_optimizer(model, config.replace(decoupled=decoupled))
        (model[2].weight * 0).sum().backward()
        made.step()
        torch.testing.assert_close(model[2].weight.detach(), before * (1 - 0.5 * 0.1 * factor))


def test_one_group_as_before() -> None:
    """The groups of the default settings are those of earlier versions, whose checkpoints continue."""
    model = hidden()
    weights = list(model.parameters())
    assert [len(group["params"]) for group in make_optimizer(model, SMALL).param_groups] == [len(weights)]
    groups = make_optimizer(model, SMALL.replace(no_decay_norm=True, weight_decay=0)).param_groups
    assert [[own.ndim >= 2 for own in group["params"]] for group in groups] == [[True] * 4, [False] * 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_rules": ["fc.*=2"]}, r"lr_rules='fc.\*' matches none of the 5 parameters \('0.weight', "),
        ({"weight_decay_rules": ["6.wieght=0"]}, "weight_decay_rules='6.wieght' matches none .* \\('6.weight'"),
        ({"freeze": ["6"]}, "freeze='6' matches a module and no parameter; write '6.*'"),
        ({"freeze": ["*"]}, "matches all parameters; leave some to train"),
        ({"optimizer": "muon"}, "finds no matrix to train"),
        ({"optimizer": "muon", "muon_exclude": ["x"]}, "muon_exclude='x' matches none"),
    ],
)
def test_a_glob_that_matches_nothing_is_refused_before_anything_is_written(
    settings: dict[str, Any], message: str, data: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        fit(Net(), data, SMALL.replace(**settings), tmp_path / "run", progress=False)
    with pytest.raises(SettingError):
        lc.fit(Net(), data, config=SMALL.replace(**settings), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


RULES = {"lr_rules": ["*.bias=4", "0.*=0.5"], "weight_decay_rules": ["1.*=0"], "decoupled": True}
TWO = SMALL.replace(epochs=2, precision="bf16")
CONFIGS = {
    "rules": TWO.replace(**RULES),
    "adamw": TWO.replace(optimizer="adamw", lr=0.01, ema=0.5, betas=(0.8, 0.99), **RULES),
    "muon": TWO.replace(optimizer="muon", muon_exclude=["6.*"], **RULES),
    "muon and adamw": TWO.replace(optimizer="muon", muon_rest="adamw", channels_last=False, schedule="cosine"),
    "frozen": TWO.replace(freeze=["1.*", "6.bias"], select="best"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_stopped_within_an_epoch_and_continued(config: TrainConfig, data: ImageData, tmp_path: Path) -> None:
    def network(last: nn.Module) -> Net:
        torch.manual_seed(0)
        return Net(nn.Linear(3, 3), nn.Linear(3, 3), last)

    check_continues(network, data, config, tmp_path)


def test_frozen_parameters_and_their_norms_stay(data: ImageData, tmp_path: Path) -> None:
    model = Net()
    model[6].weight.requires_grad_(False)  # the user's own choice stays
    before = state(model)
    fit(model, data, TWO.replace(freeze=["1.*", "6.*"]), tmp_path / "a", progress=False)
    after = state(model)
    assert [name for name, value in after.items() if not torch.equal(value, before[name])] == ["0.weight"]
    assert [own.requires_grad for own in model.parameters()] == [True, True, True, False, True]
    assert model[1].training
    half = Net()
    fit(half, data, TWO.replace(freeze=["1.weight"]), tmp_path / "b", progress=False)
    assert torch.equal(half[1].weight, before["1.weight"])
    assert not torch.equal(half[1].running_mean, before["1.running_mean"]), (
        "a norm with a trained bias follows its images"
    )


Change = Callable[[dict[int, dict[str, Any]]], Any]
WRONG: dict[str, tuple[str, Change, str]] = {
    "step": (
        "adamw",
        lambda s: s[0].update(step=torch.tensor(99.0)),
        "step of 0.weight is tensor(99.) and no count of at most",
    ),
    "step kind": ("adamw", lambda s: s[0].update(step=3), "step of 0.weight is 3 and no count"),
    "step gone": ("adamw", lambda s: s[0].pop("step"), "step of 0.weight is None"),
    "average shape": (
        "adamw",
        lambda s: s[1].update(exp_avg=torch.zeros(3)),
        "exp_avg of 1.weight is (3,) and not (8,)",
    ),
    "square": ("adamw", lambda s: s[0]["exp_avg_sq"].neg_(), "exp_avg_sq of 0.weight has negative values"),
    "square gone": ("adamw", lambda s: s[0].pop("exp_avg_sq"), "exp_avg_sq of 0.weight is missing"),
    "not finite": ("adamw", lambda s: s[0]["exp_avg"].fill_(torch.nan), "exp_avg of 0.weight is not finite"),
    "of sgd": (
        "adamw",
        lambda s: s[0].update(momentum_buffer=torch.zeros(1)),
        "exp_avg and exp_avg_sq of 0.weight is not all",
    ),
    "empty": ("adamw", lambda s: s.clear(), "the optimizer's state is empty"),
    "flat": (
        "muon",
        lambda s: s[0].update(momentum_buffer=torch.zeros(8, 9)),
        "of 0.weight is (8, 9) and not (8, 1, 3, 3)",
    ),
    "muon kind": ("muon", lambda s: s[0].update(exp_avg=torch.zeros(1)), "momentum_buffer of 0.weight is not all"),
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stopped runs whose checkpoints have no checksums."""
    from tests.train import conftest

    test = conftest.Unread(torch.tensor([0, 1, 2]))
    data = ImageData("stripes", ("rows", "columns", "none"), conftest.stripes(), test, (0.3,), (0.2,))
    folders = {}
    for name in ("adamw", "muon"):
        folders[name] = tmp_path_factory.mktemp(name)
        with pytest.raises(KeyboardInterrupt):
            fit(Net(CtrlC(2)), data, REFUSED[name], folders[name], progress=False)
        checkpoint = torch.load(folders[name] / "last.ckpt")
        del checkpoint[CHECKSUMS]
        torch.save(checkpoint, folders[name] / "last.ckpt")
    return folders


REFUSED = {
    "adamw": SMALL.replace(optimizer="adamw", lr=0.01),
    "muon": SMALL.replace(optimizer="muon", muon_exclude=["6.*"]),
}


@pytest.mark.parametrize("change", WRONG)
def test_a_state_of_another_kind_is_named(
    change: str, earlier: dict[str, Path], data: ImageData, tmp_path: Path
) -> None:
    kind, make, words = WRONG[change]
    checkpoint = torch.load(earlier[kind] / "last.ckpt")
    make(checkpoint["optimizer_states"][0]["state"])
    (tmp_path / "config.yaml").write_bytes((earlier[kind] / "config.yaml").read_bytes())
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(FileError) as caught:
        fit(Net(nn.Identity()), data, REFUSED[kind], tmp_path, resume=True, progress=False)
    assert words in str(caught.value)


def test_a_run_of_an_earlier_version_continues(data: ImageData, tmp_path: Path) -> None:
    """Its config.yaml lacks the newer settings, and its optimizer's groups have no factor."""
    whole = Net()
    fit(whole, data, SMALL, tmp_path / "whole", progress=False)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(5)), data, SMALL, folder, progress=False)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({n: v for n, v in settings.items() if n not in ADDED}))
    checkpoint = torch.load(folder / "last.ckpt")
    del checkpoint[CHECKSUMS]
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        del group["lr_factor"]
    torch.save(checkpoint, folder / "last.ckpt")
    with pytest.raises(SettingError, match=r"freeze=.* differs from the run's freeze=\[\]"):
        fit(Net(), data, SMALL.replace(freeze=["1.*"]), folder, resume=True, progress=False)
    model = Net(nn.Identity())
    fit(model, data, SMALL, folder, resume=True, progress=False)
    assert_same(state(model), state(whole))


def test_the_identity_leaves_out_newer_settings_at_their_defaults() -> None:
    plain = TrainConfig().identity()
    assert not set(ADDED) & set(plain) and "lr" in plain and "workers" not in plain
    changed = TrainConfig(freeze=["a.*"], decoupled=True).identity()
    assert set(changed) - set(plain) == {"freeze", "decoupled"} and changed["freeze"] == ["a.*"]
    assert copy.deepcopy(TrainConfig(**{**TrainConfig().to_json(), **changed})) == TrainConfig(
        freeze=["a.*"], decoupled=True
    )
