from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.errors import SettingError
from leanconv.data import TensorImages
from leanconv.train import evaluate
from leanconv.train.scoring import log_probabilities
from tests.train.conftest import Net, stripes

MEAN, STD = (0.3,), (0.2,)


class Corner(nn.Module):
    """Logits for seven classes: the top-left pixel's neighbourhood, whatever the rest."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :7]


def test_scores_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    labels = torch.randint(0, 7, (40,))
    scores = evaluate(Corner(), TensorImages(images, labels), mean=MEAN, std=STD, batch_size=16)
    logits = (images[:, 0, 0, :7] / 255 - 0.3) / 0.2
    order = logits.argsort(dim=1, descending=True)
    assert scores.n == 40
    assert scores.top1_pct == pytest.approx(100 * sum(order[:, 0] == labels).item() / 40)  # type: ignore[union-attr]
    assert scores.top5_pct == pytest.approx(100 * (order[:, :5] == labels[:, None]).sum().item() / 40)
    assert scores.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_fewer_than_five_classes() -> None:
    assert evaluate(Net(), stripes(), mean=MEAN, std=STD).top5_pct == 100


def test_modes_of_the_modules_come_back() -> None:
    model = Net()
    model[1].eval()
    before = [module.training for module in model.modules()]
    stats = model[1].running_mean.clone()
    evaluate(model, stripes(), mean=MEAN, std=STD)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model[1].running_mean, stats)


def test_ten_crops_average_probabilities() -> None:
    crops = torch.randn(2, 10, 1, 8, 8)
    expected = Corner()(crops.flatten(0, 1)).softmax(dim=1).view(2, 10, 7).mean(dim=1)
    torch.testing.assert_close(log_probabilities(Corner(), crops).exp(), expected)
    model = Net().eval()
    scores = evaluate(model, stripes(), mean=MEAN, std=STD, ten_crop=True, batch_size=50)
    assert scores.n == 162
    sure = 1000 * torch.eye(8)[:1].expand(
        1, 10, 1, 8, 8
    )  # the probability of the other classes is below the least float
    assert log_probabilities(Corner(), sure).tolist() == [[0.0] + [-1000.0] * 6]


def test_bf16_is_close() -> None:
    model = Net()
    full = evaluate(model, stripes(), mean=MEAN, std=STD)
    assert evaluate(model, stripes(), mean=MEAN, std=STD, precision="bf16").loss == pytest.approx(full.loss, rel=0.02)
    assert evaluate(model, stripes(), mean=MEAN, std=STD, channels_last=False).loss == pytest.approx(full.loss)


def test_a_network_without_one_output() -> None:
    with pytest.raises(SettingError, match=r"returns shape \(162, 1, 8, 8\); give one that returns"):
        evaluate(nn.Identity(), stripes(), mean=MEAN, std=STD)
