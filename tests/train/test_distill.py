"""Learning from a teacher: the losses in float64, whole runs against plain torch, and what a teacher must not change."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.notes import set_task
from leanconv.core.task import Task
from leanconv.data import ImageData, TensorImages, make_loader
from leanconv.experiment.teacher import Teacher
from leanconv.models.resnet import resnet
from leanconv.train import TrainConfig, fit
from leanconv.train.checkpoint import read_checkpoint
from leanconv.train.distill import Distillation, dist_loss, feature_loss, kl_loss, standardised, weights_digest
from tests.gates.tree import ROOT
from tests.train.conftest import SMALL, Net, Unread, assert_same, state, stripes
from tests.train.test_fit import Pull
from tests.train.test_resume import check_continues


def logits(count: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, count, classes, dtype=torch.float64)
    return student.requires_grad_(), 2 * teacher


def softmax(rows: np.ndarray) -> np.ndarray:
    return np.exp(rows) / np.exp(rows).sum(1, keepdims=True)


def test_kl_is_the_sum_over_classes() -> None:
    student, teacher = logits()
    p, q = softmax(teacher.numpy() / 3), softmax(student.detach().numpy() / 3)
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    assert kl_loss(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-12)
    kl_loss(student, teacher, 3.0).backward()
    np.testing.assert_allclose(student.grad, 3 * (q - p) / len(p), rtol=1e-10)  # type: ignore[arg-type]


def test_standardised_logits() -> None:
    student, _ = logits()
    rows = student.detach().numpy()
    expected = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, ddof=1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(standardised(student).detach(), expected, rtol=1e-12)
    flat = torch.zeros(2, 3, requires_grad=True)
    standardised(flat).square().sum().backward()
    assert flat.grad is not None and bool(flat.grad.isfinite().all()), "equal logits have a gradient"


def test_dist_is_pearsons_correlation_of_rows_and_columns() -> None:
    student, teacher = logits()
    p, q = softmax(teacher.numpy() / 2), softmax(student.detach().numpy() / 2)
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    assert dist_loss(student, teacher, 2.0).item() == pytest.approx(rows + columns, rel=1e-10)
    assert torch.autograd.gradcheck(lambda z: dist_loss(z, teacher, 2.0), student)
    one = torch.zeros(1, 3, requires_grad=True)
    dist_loss(one, torch.ones(1, 3), 1.0).backward()
    assert one.grad is not None and bool(one.grad.isfinite().all()), "a batch of one image has no correlation"


def test_feature_loss_compares_directions() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    cosines = [float(a.flatten() @ b.flatten() / a.norm() / b.norm()) for a, b in zip(s, t, strict=True)]
    assert float(feature_loss(s, t)) == pytest.approx(np.mean([2 - 2 * c for c in cosines]), rel=1e-12)


def teacher_net() -> Net:
    torch.manual_seed(1)
    net = Net()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.train()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_one_step_by_hand(accumulate: int, data: ImageData, tmp_path: Path) -> None:
    """(1 - w) cross-entropy + w T^2 KL + penalty; the teacher is in eval mode and is not changed."""
    config = TrainConfig(
        epochs=1, batch_size=162, lr=0.2, schedule="constant", augment="none", validation=0, momentum=0, nesterov=False,
        weight_decay=0, label_smoothing=0.1, threads=1, distill_weight=0.7, distill_temperature=2.0, accumulate=accumulate,
    )  # fmt: skip
    model, teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), Pull()), teacher_net()
    expected, before, digest = copy.deepcopy(model), state(teacher), weights_digest(teacher)
    result = fit(model, data, config, tmp_path, progress=False, teacher=teacher)
    assert_same(state(teacher), before)
    assert teacher.training and all(parameter.requires_grad for parameter in teacher.parameters())
    images = (data.train.images / 255 - 0.3) / 0.2  # type: ignore[attr-defined]
    with torch.no_grad():
        wanted = copy.deepcopy(teacher).eval()(images)
    found = expected(images)
    labels = F.cross_entropy(found, data.train.labels, label_smoothing=0.1)
    taught = 4 * F.kl_div((found / 2).log_softmax(1), (wanted / 2).softmax(1), reduction="batchmean")
    loss = 0.3 * labels + 0.7 * taught
    (loss + lc.penalty(expected)).backward()
    torch.optim.SGD(expected.parameters(), 0.2).step()
    torch.testing.assert_close(model.state_dict(), expected.state_dict())
    record = result.history[0]
    assert record["train_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert record["distill_loss"] == pytest.approx(taught.item(), rel=1e-4)
    assert record["penalty"] > 0
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert {name.removeprefix("model.") for name in checkpoint["state_dict"]} == set(model.state_dict())
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["teacher_digest"] == digest


def test_dist_compares_the_images_of_one_part(data: ImageData, tmp_path: Path) -> None:
    """docs/training.md names this among what `accumulate` changes; `kl` is the same for the whole batch (above)."""
    config = SMALL.replace(epochs=1, batch_size=162, augment="none", validation=0, distill="dist", accumulate=27)
    model, teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), teacher_net()
    images = (data.train.images / 255 - 0.3) / 0.2  # type: ignore[attr-defined]
    order = make_loader(data.train, mean=[0.3], std=[0.2], batch_size=162, train=True, seed=config.seed).sampling.order(
        0
    )
    with torch.no_grad():
        pairs = [(model(part), copy.deepcopy(teacher).eval()(part)) for part in images[order].tensor_split(27)]
    found = fit(model, data, config, tmp_path, progress=False, teacher=teacher).history[0]["distill_loss"]
    whole = dist_loss(*map(torch.cat, zip(*pairs, strict=True)), 4.0)
    assert found == pytest.approx(np.mean([float(dist_loss(*pair, 4.0)) for pair in pairs]), rel=1e-4)
    assert abs(found - float(whole)) > 1e-3


CONFIGS = {
    "kl": {"accumulate": 2, "mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "ema": 0.5},
    "kl_standardised": {"lookahead": 3, "precision": "bf16"},
    "dist": {"select": "best", "mixup": 0.2, "schedule": "plateau"},
    "features": {"ema": 0.5, "clip": 1.0, "accumulate": 2},
}


@pytest.mark.parametrize("distill", CONFIGS)
def test_stopped_within_an_epoch_and_continued(distill: Any, data: ImageData, tmp_path: Path) -> None:
    config = SMALL.replace(epochs=2, distill=distill, distill_weight=0.5, **CONFIGS[distill])
    parts = config.accumulate
    check_continues(
        lambda last: Net(last),
        data,
        config,
        tmp_path,
        steps=(1, 5 * parts) if parts > 1 else (1, 5),
        teacher=teacher_net(),
    )


def lean_and_dense(method: lc.Method) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    dense = resnet((2, 1), num_classes=3, in_chans=1, width=8, shortcut="B")
    with torch.no_grad():
        for _ in range(30):  # the norms see images, as in a training
            dense(torch.randn(32, 1, 8, 8))
    return lc.convert(dense, lc.plan(dense, method, exclude="conv1", input_size=(1, 8, 8)), "fit"), dense


def test_features_are_those_of_the_last_layer_of_each_size(data: ImageData) -> None:
    student, teacher = lean_and_dense(lc.DepthShared(penalty_weight=0.1))
    config = SMALL.replace(distill="features")
    distillation = Distillation(teacher, student, data, config)
    assert distillation.layers == ["layer1", "layer2"]
    student.train()
    images = torch.randn(4, 1, 8, 8)
    with distillation.watching(student):
        loss = distillation.loss(images, student(images))
    seen = []
    for network in (student, teacher.eval()):
        x = network.layer1(network.relu(network.bn1(network.conv1(images))))  # type: ignore[operator]
        seen.append((x, network.layer2(x)))  # type: ignore[operator]
    expected = (feature_loss(seen[0][0], seen[1][0]) + feature_loss(seen[0][1], seen[1][1])) / 2
    torch.testing.assert_close(loss, expected)
    assert not any(module._forward_hooks for module in student.modules())
    chosen = Distillation(teacher, student, data, config.replace(distill_layers=["layer*.*.conv2"])).layers
    assert chosen == ["layer1.0.conv2", "layer1.1.conv2", "layer2.0.conv2"]
    for globs, other, said in (
        (["layer9"], student, "distill_layers='layer9' matches no layer with the same name and output shape"),
        ([], nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "no feature maps with the same layer name and shape"),
    ):
        with pytest.raises(SettingError, match=said):
            Distillation(teacher, other, data, config.replace(distill_layers=globs))


@pytest.mark.parametrize("distill", ["kl", "features"])
def test_a_lean_network_learns_from_its_dense_one(distill: Any, data: ImageData, tmp_path: Path) -> None:
    student, teacher = lean_and_dense(lc.DepthShared(penalty_weight=0.1))
    config = SMALL.replace(distill=distill, epochs=6, distill_weight=1.0, weight_decay=0, augment="none", lr=0.05)
    history = fit(student, data, config, tmp_path, progress=False, teacher=teacher).history
    assert history[-1]["distill_loss"] < 0.5 * history[0]["distill_loss"]
    assert history[0]["penalty"] > 0
    lc.check(student)


def test_the_teacher_gets_its_own_normalisation_and_gives_the_classes_in_order(data: ImageData) -> None:
    teacher = teacher_net()
    set_task(teacher, Task((0.6,), (0.5,), (8, 8), ("none", "rows", "columns")))
    student = Net()
    distillation = Distillation(teacher, student, data, SMALL)
    pixels = torch.rand(5, 1, 8, 8)
    expected = copy.deepcopy(teacher).eval()((pixels - 0.6) / 0.5)[:, [1, 2, 0]]
    torch.testing.assert_close(distillation.teach((pixels - 0.3) / 0.2), expected, rtol=1e-4, atol=1e-4)


def test_a_published_teacher_gets_the_normalisation_of_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, as `--teacher` takes it; without a download, the weights are new."""
    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: build(name, **more))
    part = TensorImages(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.arange(3))
    data = ImageData("photos", ("a", "b", "c"), part, part, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    teacher = Teacher.open("timm/test_resnet(num_classes=3)").network.eval()
    pixels, (mean, std) = torch.rand(2, 3, 32, 32), (torch.tensor(v).view(3, 1, 1) for v in (data.mean, data.std))
    found = Distillation(teacher, copy.deepcopy(teacher), data, SMALL).teach((pixels - mean) / std)
    torch.testing.assert_close(found, teacher((pixels - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
    with pytest.warns(LeanconvWarning, match="does not say how its images were normalised"):
        assert Distillation(build("test_resnet", num_classes=3), teacher, data, SMALL).affine is None


@pytest.mark.parametrize(
    ("classes", "names", "said"),
    [
        (4, None, "the teacher has 4 outputs and stripes has 3 classes; take a teacher that was trained on this data"),
        (3, ("rows", "columns", "dots"), "the teacher and stripes have different classes: stripes has 'none'"),
        (4, ("rows", "columns", "none", "dots"), "stripes has no 'dots'"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(
    classes: int, names: tuple[str, ...] | None, said: str, data: ImageData, tmp_path: Path
) -> None:
    teacher = Net(classes=classes)
    if names:
        set_task(teacher, Task((0.3,), (0.2,), (8, 8), names))
    with pytest.raises(SettingError, match=said):
        fit(Net(), data, SMALL, tmp_path / "run", progress=False, teacher=teacher)
    assert not (tmp_path / "run").exists()


def test_settings_without_a_teacher_are_refused(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"distill='dist' needs a teacher; give --teacher \(teacher=\)"):
        fit(Net(), data, SMALL.replace(distill="dist"), tmp_path / "run", progress=False)
    with pytest.raises(SettingError, match=r"distill_weight=0\.5 needs a teacher"):
        lc.fit(Net(), data, SMALL.replace(distill_weight=0.5), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingError, match="is for distill='features', not 'kl'"):
        TrainConfig(distill_layers=["layer1"])
    with pytest.raises(SettingError, match="distill_temperature=2 is not for distill='features'"):
        TrainConfig(distill="features", distill_temperature=2)


def test_a_run_keeps_its_teacher(data: ImageData, tmp_path: Path) -> None:
    fit(Net(), data, SMALL.replace(epochs=1), tmp_path, progress=False, teacher=teacher_net())
    for other in (Net(), None):
        with pytest.raises(SettingError, match=r"teacher_digest=.* differs from the run's teacher_digest="):
            fit(Net(), data, SMALL.replace(epochs=1), tmp_path, progress=False, resume=True, teacher=other)


def test_compiled_it_learns_the_same(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: original(function, backend="eager"))
    losses = []
    for compiled in (False, True):
        student, teacher = lean_and_dense(lc.TiedBlock(blocks=2))
        config = SMALL.replace(distill="features", compile=compiled, ema=0.5, epochs=2)
        history = fit(student, data, config, tmp_path / str(compiled), progress=False, teacher=teacher).history
        losses.append([record["distill_loss"] for record in history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


PROGRAM = """
import sys
from tests.train.test_distill import learn
learn(sys.argv[1], 2)
"""


def learn(folder: str, devices: int) -> list[float]:
    """Without norms, so that two halves of a batch have the gradient of the whole batch."""
    data = ImageData("stripes", ("rows", "columns", "none"), stripes(), Unread(torch.tensor([0, 1, 2])), (0.3,), (0.2,))
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)) for _ in range(2)]
    config = SMALL.replace(epochs=2, augment="none", lr=0.05, distill="features")
    options: dict[str, Any] = {"progress": False, "accelerator": "cpu", "devices": devices}
    history = fit(nets[0], data, config, folder, teacher=nets[1], **options).history
    return [record["distill_loss"] for record in history]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "two")]
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert answer.returncode == 0, answer.stderr
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    losses = learn(str(tmp_path / "one"), 1)
    assert [json.loads(line)["distill_loss"] for line in lines] == pytest.approx(losses, rel=1e-3)
    assert losses[1] < losses[0]
