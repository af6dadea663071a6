"""The optimised network is the same function, without norms, with its parallel convolutions merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.inference.optimize import forms_chosen, not_rewritten, optimize
from leanconv.timing import modules
from leanconv.timing.store import TimeStore
from tests.ops.contract import unsettle_


def settled(name: str, **settings: object) -> nn.Module:
    model = lc.create_model(name, **settings).eval()
    unsettle_(model)
    return model


def quick(model: nn.Module, x: Tensor, **settings: object) -> nn.Module:
    return optimize(model, x, measured=False, cache=None, **settings)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tied_resnet50_s", 64), ("tied_senet101_s", 64), ("spconv_resnet20", 32), ("basis_resnet32", 32),
        ("shard_vgg16", 32), ("ghost_vgg16", 32), ("timm/resnet18", 64), ("timm/efficientnet_b0", 64),
    ],
)  # fmt: skip
def test_same_function_without_norms(name, size):
    model = settled(name)
    x = torch.randn(2, 3, size, size)
    fast = quick(model, x)
    wide = x.double()
    expected = model.double()(wide)
    scale = expected.abs().max()
    torch.testing.assert_close(fast.double()(wide) / scale, expected / scale, rtol=0, atol=0.05)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_the_model_itself_stays():
    model = settled("resnet8")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quick(model, torch.randn(1, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32


def test_other_batches_and_sizes_too():
    model = settled("tied_resnet50_s", depths=(1, 1))
    fast = quick(model, torch.randn(1, 3, 64, 64))
    x = torch.randn(3, 3, 33, 47)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


class Splits(nn.Module):
    """Two 3x3s on the halves of a map, of which one is tied; their outputs are used as they are and together."""

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.b = nn.Sequential(lc.TiedBlockConv2d(4, 6, 3, padding=1, blocks=2), nn.BatchNorm2d(6))
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(4, 1)
        first, second = self.relu(self.a(parts[0])), self.relu(self.b(parts[1]))
        return torch.cat([first, second, first + second], 1)


def test_parallel_convolutions_become_one():
    model = Splits().eval()
    unsettle_(model)
    x = torch.randn(2, 8, 6, 5)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x))
    convs = [module for module in fast.modules() if isinstance(module, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.groups) for conv in convs] == [(8, 12, 2)]
    assert [choice.form for choice in forms_chosen(fast)] == ["merged(2)"]
    cats = [node for node in fast.graph.nodes if node.target is torch.cat]
    assert len(cats[0].args[0]) == 2  # the whole map, and the sum


def test_branches_that_differ_stay_apart():
    model = Splits().eval()
    model.b = nn.Sequential(nn.Conv2d(4, 6, 5, padding=2), nn.BatchNorm2d(6)).eval()
    x = torch.randn(2, 8, 6, 5)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x))
    assert sum(isinstance(module, nn.Conv2d) for module in fast.modules()) == 2


class Reused(nn.Module):
    """A convolution called twice, and one whose output is used before its norm too: their norms must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[1](self.twice(self.norms[0](self.twice(x))))
        y = self.once(x)
        return y + self.norms[2](y)


def test_norms_that_cannot_be_folded_stay():
    model = Reused().eval()
    unsettle_(model)
    x = torch.randn(2, 4, 6, 5)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fast.modules()) == 3


def test_a_wrong_fold_is_found(monkeypatch):
    """The layer stays as it is, and the network right."""
    from leanconv.inference import rewrite

    monkeypatch.setattr(rewrite, "folded", lambda weight, bias, affine: (weight, bias))
    model, x = settled("resnet8"), torch.randn(1, 3, 32, 32)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fast.modules()) == 9


def test_a_wrong_graph_is_put_back_as_it_was(monkeypatch):
    """What is wrong in more than one layer: here a norm that vanishes."""
    from leanconv.inference import rewrite

    monkeypatch.setattr(rewrite, "_norms", lambda module, names: [])
    model, x = settled("resnet8"), torch.randn(1, 3, 32, 32)
    with pytest.warns(LeanconvWarning, match="it gives other outputs after rewriting") as said:
        fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x))
    assert len(said) > 1 and not_rewritten(fast)[0].name == ""


def test_it_measures_once_and_remembers(tmp_path: Path, monkeypatch):
    model = settled("spconv_resnet20")
    x = torch.randn(1, 3, 16, 16)
    file = tmp_path / "cache" / "forms.json"
    fast = optimize(model, x, cache=file, threads=1)
    assert len(forms_chosen(fast)) == 18
    for choice in forms_chosen(fast):
        assert choice.times_ms and choice.form in choice.times_ms
    entries = json.loads(file.read_text())["times_ms"]
    assert 5 <= len(entries) < 18  # layers that are alike are measured once
    assert all("eager | " in key and " | 1 | torch.float32 | channels_last | 1x" in key for key in entries)
    monkeypatch.setattr(modules, "measure", lambda *_: pytest.fail("measured again"))
    again = optimize(model, x, cache=file, threads=1)
    assert [choice.form for choice in forms_chosen(again)] == [choice.form for choice in forms_chosen(fast)]
    file.write_text("{broken")
    assert TimeStore(file).times == {}


def test_the_result_compiles_exports_and_saves():
    model = settled("spconv_resnet20", num_classes=5)
    x = torch.randn(2, 3, 16, 16)
    fast = quick(model, x)
    expected = fast(x)
    exported = torch.export.export(fast, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)).module()
    torch.testing.assert_close(exported(x), expected)
    assert exported(torch.randn(5, 3, 16, 16)).shape == (5, 5)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    other = quick(settled("spconv_resnet20", num_classes=5), x)
    other.load_state_dict(fast.state_dict())
    torch.testing.assert_close(other(x), expected)


def test_low_precision():
    model = settled("tied_resnet50_s", depths=(1,)).bfloat16()
    x = torch.randn(1, 3, 32, 32).bfloat16()
    fast = quick(model, x)
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.bfloat16}
    assert fast(x).dtype == torch.bfloat16


def test_save_refuses_it(tmp_path):
    with pytest.raises(SettingError, match="save the lean network instead"):
        lc.save(quick(settled("resnet8"), torch.randn(1, 3, 32, 32)), tmp_path)


def test_errors_name_the_way_out():
    with pytest.raises(SettingError, match=r"example has shape \(0, 3, 8, 8\) and no image; give at least one"):
        quick(nn.Conv2d(3, 4, 3), torch.zeros(0, 3, 8, 8))
    with pytest.raises(SettingError, match="example is tuple, not a tensor; optimize takes networks of one input"):
        quick(settled("resnet8"), (torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)))
    with pytest.raises(SettingError, match=r"does not run on an example of \(1, 4, 8, 8\)"):
        quick(settled("resnet8"), torch.randn(1, 4, 8, 8))
    with pytest.raises(SettingError, match="did not come from optimize"):
        forms_chosen(settled("resnet8"))
    with pytest.raises(SettingError, match="runtime='tpu' must be 'eager', 'compile'"):
        optimize(settled("spconv_resnet20"), torch.randn(1, 3, 8, 8), runtime="tpu", cache=None)


def test_a_form_must_be_clearly_quicker():
    assert modules.fastest({"grouped": 1.0, "rows": 0.97, "batch": 1.2}) == "grouped"
    assert modules.fastest({"grouped": 1.0, "rows": 0.94, "batch": 0.9}) == "batch"


def test_what_is_quick_alone_and_slow_together_is_left(monkeypatch):
    from leanconv.inference import optimize as module

    monkeypatch.setattr(module, "times_of", lambda layer, forms, *_: dict.fromkeys(forms, 2.0) | {[*forms][-1]: 1.0})
    x = torch.randn(1, 3, 16, 16)
    for quicker, expected in ((True, "module"), (False, "branches")):
        monkeypatch.setattr(module, "_is_faster", lambda *_, quicker=quicker: quicker)
        choices = forms_chosen(optimize(settled("spconv_resnet20"), x, cache=None))
        assert {choice.form for choice in choices} == {expected}
