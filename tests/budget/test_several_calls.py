"""A layer that is called several times is fitted to the inputs of all calls, and each call keeps its own mean and spread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leanconv.budget.costs import formula_costs
from leanconv.budget.scores import fit_all, score_all
from leanconv.budget.space import candidates_of
from leanconv.budget.walk import Walk


class Twice(nn.Module):
    """The same convolution, of rank 8, on two inputs of other scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = (
            nn.Conv2d(1, 32, 3, padding=1),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.Linear(32, 4),
        )
        self.conv.weight.data = 0.2 * (torch.randn(32, 8) @ torch.randn(8, 288)).view(32, 32, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(self.stem(x)))
        return self.fc(self.conv(10 * x).mean((2, 3)))


class Inside(nn.Module):
    """A layer in a module that is called as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Twice()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x if float(x.sum()) > -1e9 else -x)


@pytest.mark.parametrize(("kind", "prefix"), [(Twice, ""), (Inside, "body.")])
def test_the_walk_notes_all_calls(kind, prefix):
    torch.manual_seed(0)
    model, images = kind().eval(), torch.randn(2, 1, 8, 8)
    walk = Walk(model, images)
    walk.go(f"{prefix}conv", 2)
    (first, middle), (second, last) = walk.calls
    conv = model.get_submodule(f"{prefix}conv")
    with torch.no_grad():
        assert torch.equal(conv(first), middle) and torch.equal(conv(second), last)
        assert torch.equal(second, 10 * torch.relu(middle)) and torch.equal(walk.output(), model(images))
    walk.go(f"{prefix}conv")
    assert len(walk.calls) == 1 and torch.equal(walk.given, first) and torch.equal(walk.dense, middle)


def test_a_candidate_that_is_exact_in_all_calls_has_no_score(tmp_path: Path):
    torch.manual_seed(0)
    model, images = Twice().eval(), torch.randn(32, 1, 8, 8)
    space = candidates_of(model, (1, 8, 8), methods=["low_rank"], where="conv")
    keys = fit_all(model, space, formula_costs(model, space), ("macs",), images, tmp_path)
    found = score_all(model, space.only(keys), images, tmp_path)
    (exact,) = [key for key in found if "rank=8" in key]
    assert found[exact] < 1e-4

    file = tmp_path / "fits" / "conv.safetensors"
    stored = load_file(file)
    assert stored["mean"].shape == stored["std"].shape == (2, 32)
    save_file(stored | {name: stored[name][0] for name in ("mean", "std")}, file)  # as an earlier version wrote it
    (tmp_path / "scores.jsonl").unlink()
    assert score_all(model, space.only(keys), images, tmp_path)[exact] > 1e-2
