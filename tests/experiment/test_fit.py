"""lc.fit and lc.evaluate, as a notebook calls them."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import RunError, SettingError
from leanconv.core.notes import get_task
from leanconv.data import open_data
from leanconv.experiment import EpochEnded
from leanconv.experiment.settings import read_config
from leanconv.files.target import code_digest
from leanconv.train import TrainConfig
from leanconv.train.distill import weights_digest
from leanconv.train.scoring import autocast

from .conftest import QUICK, Listed, Net, striped


def test_a_users_network_on_a_users_data_sets(net: Net, pair: tuple[Listed, Listed]) -> None:
    result = lc.fit(net, pair, **QUICK | {"epochs": 8})
    assert result.network is net, "a network that is handed in is trained in place"
    assert result.scores.top1_pct > 90 and result.scores.n == 30
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert result.folder is None and result.counts["params"] == sum(p.numel() for p in net.parameters())
    assert lc.evaluate(net, pair).n == 30
    assert "Test top-1" in str(result.table())
    assert "<table>" in result._repr_html_()
    assert get_task(net) is None, "what its own transform does to an image is not known"


def test_a_run_that_was_refused_at_its_start_leaves_its_folder_free(tmp_path: Path) -> None:
    single = striped(3), striped(15)
    with pytest.raises(SettingError, match=r"validation=0\.1 holds out nothing: .*; add images, or .* validation=0"):
        lc.fit(Net(), single, out=tmp_path / "run", **QUICK)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}
    assert lc.fit(Net(), single, out=tmp_path / "run", validation=0, **QUICK).scores.n == 15


def test_what_a_data_set_prepares_is_not_changed(net: Net, pair: tuple[Listed, Listed], monkeypatch: Any) -> None:
    seen: list[torch.Tensor] = []
    forward = Net.forward

    def record(self: Net, images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach().cpu().clone())
        return forward(self, images)

    monkeypatch.setattr(Net, "forward", record)
    lc.evaluate(net, pair)
    batch = seen[-1]
    assert torch.equal(batch, torch.stack([image for image, _ in (pair[1][i] for i in range(30))]))


@pytest.mark.parametrize("kind", ["pil", "uint8"])
def test_images_as_pil_and_as_bytes_train_like_tensors(kind: str) -> None:
    config = TrainConfig(epochs=2, batch_size=32, threads=1, augment="none")
    runs = []
    for data in ((striped(120), striped(30)), (Listed(120, kind), Listed(30, kind))):
        torch.manual_seed(0)
        runs.append(lc.fit(Net(), data, config, progress=False))
    assert runs[0].scores == runs[1].scores
    assert all(
        torch.equal(a, b)
        for a, b in zip(runs[0].network.state_dict().values(), runs[1].network.state_dict().values(), strict=True)
    )
    task = get_task(runs[1].network)
    assert task is not None and task.classes == ("rows", "columns", "none") and task.image_size == (8, 8)


def test_one_pair_of_tensors_is_divided_always_alike(net: Net) -> None:
    twin = copy.deepcopy(net)
    first, second = (lc.fit(model, striped(150), **QUICK) for model in (net, twin))
    assert first.scores.n == 30 and first.scores == second.scores
    assert lc.fit(Net(), striped(150), test_split=0.4, **QUICK).scores.n == 60


def test_a_network_by_name_with_a_method_by_name() -> None:
    result = lc.fit("resnet8(width=4)", "digits", method="tied_block(blocks=2)", epochs=1, threads=1, progress=False)
    plan = lc.plan_of(result.network)
    assert plan is not None and plan.groups[0].method == lc.TiedBlock(blocks=2)
    assert result.summary["method"] == "tied_block(blocks=2)" and result.scores.n == 355


def test_a_users_network_is_converted_in_a_copy(net: Net, pair: tuple[Listed, Listed]) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = lc.fit(net, pair, method=lc.TiedBlock(blocks=2), where=["3"], **QUICK)
    assert lc.plan_of(net) is None and lc.plan_of(result.network) is not None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Reversed(Listed):
    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.images, self.targets = self.images.flip(0), self.targets.flip(0)


def test_a_finished_run_is_read_back_and_another_refused(net: Net, pair: tuple[Listed, Listed], tmp_path: Path) -> None:
    first = lc.fit(net, pair, out=tmp_path / "run", **QUICK)
    trained = {name: value.clone() for name, value in net.state_dict().items()}
    fresh = Net()
    again = lc.fit(fresh, pair, out=tmp_path / "run", **QUICK)
    assert again.scores == first.scores and again.history == first.history
    assert all(torch.equal(value, trained[name]) for name, value in again.network.state_dict().items())
    with pytest.raises(SettingError, match="holds another run: network is"):
        lc.fit(nn.Sequential(*Net(width=4)), pair, out=tmp_path / "run", **QUICK)
    dark = Listed(120)
    dark.images //= 2
    with pytest.raises(SettingError, match="holds another run: the data set of this name had other images there"):
        lc.fit(Net(), (dark, pair[1]), out=tmp_path / "run", **QUICK)
    with pytest.raises(SettingError, match=r"holds another run: data.digest is"):
        lc.fit(Net(), (Listed(120), Reversed(30)), out=tmp_path / "run", **QUICK)
    with pytest.raises(SettingError, match=r"train\.lr is"):
        lc.fit(Net(), pair, out=tmp_path / "run", lr=0.01, **QUICK)


def test_other_statistics_of_the_same_images_are_another_run(tmp_path: Path) -> None:
    data = open_data("digits")
    options: dict[str, Any] = {"epochs": 1, "threads": 1, "progress": False}
    lc.fit("resnet8(width=4)", data, out=tmp_path, **options)
    with pytest.raises(
        SettingError, match=r"holds another run: data\.normalisation\.mean is \[0\.\d+\] there and \[0\.9\]"
    ):
        lc.fit("resnet8(width=4)", replace(data, mean=(0.9,)), out=tmp_path, **options)


def test_another_function_of_the_same_name_is_another_run(pair: tuple[Listed, Listed], tmp_path: Path) -> None:
    def of(width: int) -> Any:
        def mine() -> Net:
            return Net(width)

        return mine

    first = lc.fit(of(8), pair, out=tmp_path / "run", **QUICK)
    before = torch.get_rng_state()
    assert lc.fit(of(8), pair, out=tmp_path / "run", **QUICK).scores == first.scores
    assert torch.equal(torch.get_rng_state(), before), "a function that is called for its layers draws nothing"
    with pytest.raises(SettingError, match=r"holds another run: built is '\w+' there and '\w+' here"):
        lc.fit(of(64), pair, out=tmp_path / "run", **QUICK)
    noted = json.loads((tmp_path / "run" / "run.json").read_text())
    del noted["built"]  # a run of an older leanconv
    (tmp_path / "run" / "run.json").write_text(json.dumps(noted))
    assert lc.fit(of(8), pair, out=tmp_path / "run", **QUICK).scores == first.scores


def test_progress_is_a_function(net: Net, pair: tuple[Listed, Listed], capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Any] = []
    lc.fit(net, pair, **QUICK | {"progress": events.append})
    assert [(type(event), event.epoch, event.epochs) for event in events] == [(EpochEnded, 1, 2), (EpochEnded, 2, 2)]
    assert events[0].record["train_loss"] > 0 and "epoch 1/2, loss" in str(events[0])
    assert capsys.readouterr() == ("", "")


class Steps(pl.Callback):
    count = 0

    def on_train_batch_end(self, *arguments: Any, **more: Any) -> None:
        Steps.count += 1


def test_callbacks_of_the_users_see_every_step(net: Net, pair: tuple[Listed, Listed]) -> None:
    Steps.count = 0
    lc.fit(net, pair, callbacks=[Steps()], **QUICK)
    assert Steps.count == 2 * (108 // 32)


def test_a_function_makes_the_network_from_the_seed(pair: tuple[Listed, Listed]) -> None:
    runs = [lc.fit(Net, pair, seed=seed, **QUICK) for seed in (0, 0, 1)]
    weights = [run.network.get_parameter("0.weight") for run in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert runs[0].job.target == "Net"


def test_nothing_is_left_behind_without_a_folder(
    net: Net, pair: tuple[Listed, Listed], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lc.fit(net, pair, **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epoch": 1}, "epoch=1: no such setting; did you mean epochs"),
        ({"config": "best"}, "'best' does not exist; there are quick_digits"),
        ({"pretrained": True}, "pretrained=True is for networks by name"),
        ({"method": "tied_blok"}, "did you mean 'tied_block'"),
    ],
)
def test_a_mistake_is_one_line(net: Net, pair: tuple[Listed, Listed], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        lc.fit(net, pair, **QUICK | settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_one_glob_stands_for_itself_and_functions_are_refused(net: Net, pair: tuple[Listed, Listed]) -> None:
    with pytest.raises(SettingError, match=r"where='nothing\.\*' matches none of"):
        lc.fit(net, pair, method="tied_block(blocks=2)", where="nothing.*", epochs=1, progress=False)
    for settings, said in (
        ({"where": lambda site: True}, "where=<function .* must be a glob or several globs; for a function, convert"),
        ({"config": {"epochs": 1}}, r"config={'epochs': 1} must be TrainConfig\(...\), the name of a recipe"),
    ):
        with pytest.raises(SettingError, match=said):
            lc.fit(net, pair, **settings)


def test_a_network_that_does_not_fit_is_refused_before_training(pair: tuple[Listed, Listed]) -> None:
    with pytest.raises(SettingError, match="outputs of shape"):
        lc.fit(Net(classes=7), pair, **QUICK)


def test_outputs_that_are_not_finite_are_told(net: Net, pair: tuple[Listed, Listed]) -> None:
    with torch.no_grad():
        net[-1].bias[0] = float("nan")
    with pytest.raises(RunError, match="the loss on Listed is NaN: the network's outputs hold NaN or infinity"):
        lc.evaluate(net, pair)


def test_evaluate_refuses_a_class() -> None:
    with pytest.raises(SettingError, match=r"not type; if <class .*Net'> builds a network, call it first"):
        lc.evaluate(Net, "digits")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"part": "val"}, "part='val' must be 'test' or 'train'"),
        ({"precision": "bfloat16"}, "precision='bfloat16' must be 'auto', 'fp32' or 'bf16'"),
    ],
)
def test_evaluate_refuses_other_parts_and_precisions(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        lc.evaluate("nowhere", "digits", **settings)
    if "precision" in settings:
        with pytest.raises(SettingError, match=says):
            autocast(torch.device("cpu"), settings["precision"])


def test_evaluate_takes_a_folder_a_part_and_crops(tmp_path: Path) -> None:
    result = lc.fit("resnet8(width=4)", "digits", out=tmp_path / "run", epochs=1, threads=1, progress=False)
    assert lc.evaluate(tmp_path / "run", "digits", precision="bf16").n == 355
    assert lc.evaluate(result.network, "digits", part="train").n == 1442
    assert lc.evaluate(str(tmp_path / "run"), "digits", ten_crop=True).n == 355
    assert result.report(tmp_path / "page.html").read_text().count("<svg") == 1


def test_a_run_that_the_progress_function_ends_is_continued_exactly(
    net: Net, pair: tuple[Listed, Listed], tmp_path: Path
) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, EpochEnded) and event.epoch == 2:
            raise KeyboardInterrupt

    settings = QUICK | {"epochs": 4}
    whole = lc.fit(copy.deepcopy(net), pair, **settings)
    with pytest.raises(KeyboardInterrupt):
        lc.fit(copy.deepcopy(net), pair, out=tmp_path, **settings | {"progress": stop})
    with pytest.raises(SettingError, match=r"resume=True"):
        lc.fit(copy.deepcopy(net), pair, out=tmp_path, **settings)
    epochs: list[int] = []
    resumed = lc.fit(
        copy.deepcopy(net), pair, out=tmp_path, resume=True,
        **settings | {"progress": lambda event: epochs.append(event.epoch)},
    )  # fmt: skip
    assert epochs == [3, 4]
    assert resumed.scores == whole.scores
    states = resumed.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_teacher_by_folder_belongs_to_the_run(tmp_path: Path) -> None:
    quick = {"epochs": 1, "threads": 1, "progress": False}
    dense = tmp_path / "dense"
    lc.fit("resnet8", "digits", out=dense, **quick)  # type: ignore[arg-type]
    out = tmp_path / "lean"
    options: dict[str, Any] = {"method": "tied_block(blocks=2)", "init": "fit", "distill": "dist", "out": out, **quick}
    run = lc.fit(str(dense), "digits", teacher=dense, **options)
    assert run.history[0]["distill_loss"] > 0
    settings, request = read_config(out / "config.yaml")
    assert (settings["distill"], request["teacher"]) == ("dist", str(dense.resolve()))
    assert "teacher_digest" not in request
    assert set(lc.load(out).state_dict()) == set(run.network.state_dict())
    assert lc.fit(str(dense), "digits", teacher=lc.load(dense), **options).summary == run.summary, "the same teacher"
    with pytest.raises(SettingError, match=r"holds another run: teacher is '\w+' there and '\w+' here"):
        lc.fit(str(dense), "digits", teacher=out, **options)


@pytest.mark.parametrize("teacher", ["runs/missing", "resnet8"])
def test_a_teacher_without_weights_is_refused(teacher: str) -> None:
    with pytest.raises(
        SettingError, match=f"teacher '{teacher}' is no folder of a trained network and no network with"
    ):
        lc.fit("resnet8", "digits", teacher=teacher)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_precision(net: Net, pair: tuple[Listed, Listed], dtype: torch.dtype) -> None:
    assert lc.evaluate(copy.deepcopy(net).to(dtype), pair).top1_pct == pytest.approx(
        lc.evaluate(net, pair).top1_pct, abs=10
    )
    message = rf"is {dtype}; leanconv trains float32: call model\.float\(\) first"
    with pytest.raises(SettingError, match=message):
        lc.fit(copy.deepcopy(net).to(dtype), pair, **QUICK)
    with pytest.raises(SettingError, match=message):
        lc.fit(net, pair, teacher=copy.deepcopy(net).to(dtype), **QUICK)
    with pytest.raises(SettingError, match=message):
        lc.lean(copy.deepcopy(net).to(dtype), pair, "macs=0.6", progress=False, cache=None)


class Activated(Net):
    """Its layers do not say what it computes with them."""

    def __init__(self, act: str = "relu") -> None:
        super().__init__()
        self.act = act

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return getattr(torch, self.act)(super().forward(images))


class Doubled(Activated):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


def test_another_network_of_the_same_layers_is_not_read_back(pair: tuple[Listed, Listed], tmp_path: Path) -> None:
    first = lc.fit(Activated(), pair, out=tmp_path / "run", **QUICK)
    assert lc.fit(Activated(), pair, out=tmp_path / "run", **QUICK).to_json() == first.to_json()
    for other in (Activated("tanh"), lambda: Activated("tanh")):
        with pytest.raises(SettingError, match="holds another run"):
            lc.fit(other, pair, out=tmp_path / "run", **QUICK)
    digests = {code_digest(network) for network in (Activated(), Activated("tanh"), Doubled())}
    assert len(digests) == 3 and code_digest(Activated()) in digests
    torch.manual_seed(0)
    teachers = Activated(), Activated("tanh")
    teachers[1].load_state_dict(teachers[0].state_dict())
    assert weights_digest(teachers[0]) != weights_digest(teachers[1])
    noted = json.loads((tmp_path / "run" / "run.json").read_text())
    del noted["network_code"]  # an older run is read as before
    (tmp_path / "run" / "run.json").write_text(json.dumps(noted))
    assert lc.fit(Activated(), pair, out=tmp_path / "run", **QUICK).to_json() == first.to_json()
