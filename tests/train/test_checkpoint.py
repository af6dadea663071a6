"""A checkpoint is continued only as it was written: a flipped bit, a lost entry or one of another kind is one clear line."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from leanconv.core.errors import FileError
from leanconv.data import ImageData
from leanconv.train import TrainConfig, fit
from leanconv.train.checkpoint import CHECKSUMS, read_checkpoint, sha256_of, write_checkpoint
from tests.train.conftest import SMALL, Net, assert_same, state, stripes
from tests.train.test_resume import CtrlC

AVERAGED = SMALL.replace(ema=0.8)
Change = Callable[[dict[str, Any]], Any]


def stopped(data: ImageData, folder: Path, config: TrainConfig = AVERAGED, step: int = 5) -> Path:
    """The checkpoint of a run that was stopped in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        fit(Net(CtrlC(step)), data, config, folder, progress=False)
    return folder / "last.ckpt"


def refusal(data: ImageData, folder: Path, config: TrainConfig = AVERAGED) -> str:
    before = (folder / "last.ckpt").read_bytes()
    with pytest.raises(FileError) as caught:
        fit(Net(torch.nn.Identity()), data, config, folder, resume=True, progress=False)
    text = str(caught.value)
    assert "\n" not in text and "last.ckpt: " in text and "delete it to start again" in text
    assert (folder / "last.ckpt").read_bytes() == before
    return text


def same(first: Any, second: Any) -> bool:
    return sha256_of(first) == sha256_of(second)


def test_a_flipped_bit_anywhere_is_seen(data: ImageData, tmp_path: Path) -> None:
    path = stopped(data, tmp_path)
    whole, content = read_checkpoint(path), path.read_bytes()
    draw = random.Random(0)
    refused = []
    for _ in range(250):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        try:
            assert same(read_checkpoint(path), whole), (place, bit)  # a bit that says nothing: padding, a date
        except FileError as error:
            refused.append(str(error))
    assert len(refused) > 50 and not [text for text in refused if "\n" in text]


def test_a_changed_value_is_seen_in_any_entry(data: ImageData, tmp_path: Path) -> None:
    path = stopped(data, tmp_path)
    whole = torch.load(path)
    names = [name for name in whole if name != CHECKSUMS]
    assert {"state_dict", "optimizer_states", "current_model_state", "loops", "progress"} <= set(names)
    for name in names:
        changed = copy.deepcopy(whole)
        changed[name] = {} if name == "progress" else None
        torch.save(changed, path)
        assert f"{name} is not what the run wrote there (checksum)" in refusal(data, tmp_path)
        del changed[name]
        torch.save(changed, path)
        refusal(data, tmp_path)
    changed = copy.deepcopy(whole)
    changed["optimizer_states"][0]["state"][3]["momentum_buffer"].view(torch.int32)[0] ^= (
        1  # the smallest change there is
    )
    torch.save(changed, path)
    assert "optimizer_states is not what the run wrote" in refusal(data, tmp_path)
    torch.save(whole | {"more": 1}, path)
    assert "more is not what the run wrote" in refusal(data, tmp_path)


def test_what_a_checksum_tells_apart() -> None:
    zeros = torch.zeros
    values: list[Any] = [
        None, 0, 1, True, 1.0, "1", [], [1], (1,), [[1], []], [[], [1]], ["a", "b"], ["ab"], {}, {"a": 1}, {1: "a"}, float("nan"),
        zeros(2), zeros(1, 2), zeros(2, dtype=torch.float64), -zeros(2), zeros(0), zeros(0, 1),
        zeros(2, dtype=torch.bfloat16), zeros(2, dtype=torch.float16), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]),
    ]  # fmt: skip
    assert len({sha256_of(value) for value in values}) == len(values)
    assert sha256_of(torch.arange(6.0).view(2, 3).T) == sha256_of(torch.arange(6.0).view(2, 3).T.contiguous())


def optimizer(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return checkpoint["optimizer_states"][0]


def buffer(checkpoint: dict[str, Any], value: Any, index: int = 0) -> None:
    optimizer(checkpoint)["state"][index]["momentum_buffer"] = value


def group(checkpoint: dict[str, Any], **settings: Any) -> None:
    optimizer(checkpoint)["param_groups"][0].update(settings)


def loops(checkpoint: dict[str, Any], path: str, value: Any) -> None:
    inner = checkpoint["loops"]["fit_loop"]
    *parts, last = path.split("/")
    for part in parts:
        inner = inner[part]
    inner[last] = value


PROGRESS = "epoch_loop.batch_progress"
STEP = "epoch_loop.automatic_optimization.optim_progress/optimizer/step/total/completed"
# Changes of a checkpoint without checksums, as earlier versions wrote it, and what is said of each.
WRONG: dict[str, tuple[Change, str]] = {
    "weight shape": (lambda c: c["state_dict"].update({"model.0.weight": torch.zeros(1)}), "0.weight is (1,) in it"),
    "weight dtype": (
        lambda c: c["state_dict"].update({"model.6.bias": torch.zeros(3).double()}),
        "6.bias is (3,) of torch.float64 in it and (3,) here",
    ),
    "weight missing": (lambda c: c["state_dict"].pop("model.6.bias"), "6.bias is missing in it"),
    "weight added": (lambda c: c["state_dict"].update({"model.7.bias": torch.zeros(3)}), "(3,) in it and missing here"),
    "weight not finite": (lambda c: c["state_dict"]["model.6.bias"].fill_(torch.nan), "6.bias of its state_dict is not finite"),
    "weights gone": (lambda c: c.update(state_dict=[]), "state_dict holds no weights"),
    "no weights": (lambda c: c.pop("state_dict"), "state_dict holds no weights"),
    "current shape": (
        lambda c: c["current_model_state"].update({"model.6.bias": torch.zeros(4)}), "6.bias is (4,) in it"
    ),
    "current infinite": (
        lambda c: c["current_model_state"]["model.1.running_var"].fill_(float("inf")),
        "1.running_var of its current_model_state is not finite",
    ),
    "no average": (lambda c: c.pop("averaging_state"), "averaging_state.n_averaged is missing"),
    "average count": (lambda c: c["averaging_state"].update(n_averaged=torch.tensor(99)), "averaging_state.n_averaged"),
    "average step": (lambda c: c["callbacks"]["WeightAveraging"].update(latest_update_step="x"), "at step 'x'"),
    "no callbacks": (lambda c: c.pop("callbacks"), "callbacks is missing"),
    "buffer of nothing": (lambda c: buffer(c, torch.zeros(0)), "momentum_buffer of 0.weight is (0,) and not (8, 1, 3, 3)"),
    "buffer flat": (lambda c: buffer(c, torch.zeros(72)), "momentum_buffer of 0.weight is (72,)"),
    "buffer dtype": (lambda c: buffer(c, torch.zeros(8).double(), 1), "momentum_buffer of 1.weight is (8,) of torch.float64"),
    "buffer integer": (lambda c: buffer(c, torch.zeros(8).long(), 2), "momentum_buffer of 1.bias is (8,) of torch.int64"),
    "buffer not finite": (lambda c: buffer(c, torch.full((8,), float("inf")), 1), "momentum_buffer of 1.weight is not finite"),
    "buffer none": (lambda c: buffer(c, None), "momentum_buffer of 0.weight is missing"),
    "buffer number": (lambda c: buffer(c, 3), "momentum_buffer of 0.weight is int"),
    "buffer of another optimiser": (
        lambda c: optimizer(c)["state"].update({0: {"exp_avg": torch.zeros(8, 1, 3, 3)}}),
        "momentum_buffer of 0.weight is not all",
    ),
    "state empty": (lambda c: optimizer(c).update(state={}), "the optimizer's state is empty"),
    "state of no parameter": (lambda c: optimizer(c)["state"].update({77: {}}), "state 77 belongs to no parameter"),
    "state none": (lambda c: optimizer(c).update(state=None), "the optimizer has no state"),
    "no optimiser": (lambda c: c.update(optimizer_states=[]), "optimizer_states is not one state"),
    "optimiser gone": (lambda c: c.pop("optimizer_states"), "optimizer_states is not one state"),
    "groups": (lambda c: optimizer(c)["param_groups"].append({}), "2 groups of parameters in it and 1 here"),
    "groups none": (lambda c: optimizer(c).update(param_groups=None), "the optimizer has no groups"),
    "parameters": (lambda c: group(c, params=[0, 1]), "params of the optimizer's group 0 is [0, 1]"),
    "momentum": (lambda c: group(c, momentum=0.5), "momentum of the optimizer's group 0 is 0.5 in it"),
    "decay": (lambda c: group(c, weight_decay=torch.nan), "weight_decay of the optimizer's group 0 is nan"),
    "uphill": (lambda c: group(c, maximize=True), "maximize of the optimizer's group 0 is True"),
    "rate": (lambda c: group(c, lr=float("inf")), "lr of the optimizer's group 0 is inf"),
    "schedulers": (lambda c: c.update(lr_schedulers=[{}]), "lr_schedulers is list"),
    "step": (lambda c: c.update(global_step=-1), "global_step is -1"),
    "another step": (lambda c: c.update(global_step=7), "_batches_that_stepped is 5 and not from 6 to 7"),
    "step text": (lambda c: c.update(global_step="6"), "global_step is '6'"),
    "epoch": (lambda c: c.update(epoch=3), "epoch is 3 and not 1"),
    "loops gone": (lambda c: c.pop("loops"), "is_last_batch is None"),
    "step before the epoch": (lambda c: c.update(global_step=3), "is 2, which does not fit 3 steps and 1 epochs"),
    "loop step": (lambda c: loops(c, STEP, 3), "step.total.completed is 3 and not 6"),
    "loop batch": (lambda c: loops(c, f"{PROGRESS}/current/processed", 4), "current.processed is 4 and not 2"),
    "loop end": (lambda c: loops(c, f"{PROGRESS}/is_last_batch", True), "does not fit"),
    "loop epoch": (lambda c: loops(c, "epoch_progress/current/processed", 2), "epoch_progress.current.processed is 2 and not 1"),
    "loop tensor": (lambda c: loops(c, "epoch_progress/total/ready", torch.ones(())), "epoch_progress.total.ready is tensor(1.)"),
    "no progress": (lambda c: c.pop("progress"), "not a checkpoint of leanconv"),
    "history none": (lambda c: c["progress"].update(history=None), "progress.history is no list"),
    "history short": (lambda c: c["progress"].update(history=[]), "does not fit 6 steps and 0 epochs"),
    "history long": (lambda c: c["progress"].update(history=c["progress"]["history"] * 4), "it has 4 epochs, and the run has 3"),
    "history order": (lambda c: c["progress"]["history"][0].update(epoch=2), "progress.history, epoch 1: no such record"),
    "history not finite": (lambda c: c["progress"]["history"][0].update(val_loss=float("nan")), "val_loss is nan and no finite"),
    "history without": (lambda c: c["progress"]["history"][0].pop("val_loss"), "val_loss is None and no finite number"),
    "sums shape": (lambda c: c["progress"].update(sums=torch.zeros(3)), "progress.sums is (3,) and not (4,)"),
    "sums none": (lambda c: c["progress"].update(sums=None), "progress.sums is missing"),
    "sums not finite": (lambda c: c["progress"]["sums"].fill_(float("inf")), "progress.sums is not finite"),
    "seconds": (lambda c: c["progress"].update(train_seconds="long"), "train_seconds is 'long'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped run whose checkpoint has no checksums, as earlier versions wrote it."""
    from tests.train import conftest

    test = conftest.Unread(torch.tensor([0, 1, 2]))
    data = ImageData("stripes", ("rows", "columns", "none"), conftest.stripes(), test, (0.3,), (0.2,))
    path = stopped(data, tmp_path_factory.mktemp("earlier"))
    checkpoint = torch.load(path)
    del checkpoint[CHECKSUMS]
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("change", WRONG)
def test_an_entry_of_another_kind_is_named(change: str, earlier: Path, data: ImageData, tmp_path: Path) -> None:
    make, words = WRONG[change]
    checkpoint = torch.load(earlier)
    make(checkpoint)
    (tmp_path / "config.yaml").write_bytes((earlier.parent / "config.yaml").read_bytes())
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert words in refusal(data, tmp_path)


def test_a_checkpoint_of_an_earlier_version_continues(earlier: Path, data: ImageData, tmp_path: Path) -> None:
    whole, model = Net(), Net(torch.nn.Identity())
    fit(whole, data, AVERAGED, tmp_path / "whole", progress=False)
    for name in ("config.yaml", "last.ckpt"):
        (tmp_path / name).write_bytes((earlier.parent / name).read_bytes())
    fit(model, data, AVERAGED, tmp_path, resume=True, progress=False)
    assert_same(state(model), state(whole))


def test_a_run_without_averages_refuses_those_of_another(earlier: Path, data: ImageData, tmp_path: Path) -> None:
    path = stopped(data, tmp_path, SMALL)
    torch.save(torch.load(earlier), path)
    assert "the run averages no weights" in refusal(data, tmp_path, SMALL)


@pytest.mark.parametrize("step", [3, 5])
def test_other_images_are_seen_by_the_number_of_steps(step: int, data: ImageData, tmp_path: Path) -> None:
    stopped(data, tmp_path, step=step)
    fewer = ImageData(data.name, data.classes, stripes(120), data.test, data.mean, data.std)
    with pytest.raises(FileError, match=r"last.ckpt: written with other images \(4 steps an epoch in it, and 3 here\)"):
        fit(Net(torch.nn.Identity()), fewer, AVERAGED, tmp_path, resume=True, progress=False)


def test_parameters_that_get_no_gradient_have_no_buffer(data: ImageData, tmp_path: Path) -> None:
    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.ones(2))
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(KeyboardInterrupt):
        fit(Net(Idle(), CtrlC(5)), data, SMALL, tmp_path, progress=False)
    assert fit(Net(Idle(), torch.nn.Identity()), data, SMALL, tmp_path, resume=True, progress=False).epochs == 3


def test_sums_are_written_whatever_torch_is_set_to(tmp_path: Path) -> None:
    try:
        torch.serialization.set_crc32_options(False)
        write_checkpoint({"progress": {"a": torch.ones(3)}}, tmp_path / "last.ckpt")
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "last.ckpt")["progress"]["a"].sum() == 3
