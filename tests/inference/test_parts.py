"""Networks of which only some can be traced, or that have dtypes of their own: optimized part by part, and always right."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.sharing import parameters_in_use
from leanconv.inference.optimize import forms_chosen, not_rewritten, optimize
from tests.ops.contract import unsettle_


def quick(model: nn.Module, x: Tensor, **settings: object) -> nn.Module:
    return optimize(model, x, measured=False, cache=None, **settings)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def block(inputs: int = 4, outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Decides(nn.Module):
    """Control flow between blocks, and a block with control flow of its own."""

    def __init__(self, deeper: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b = block(), nn.Sequential(block(), block())
        self.blocks = nn.ModuleList([deeper or block(), lc.SplitConv2d(4, 4, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.mean() > 1e6:
            x = x / 2
        for part in self.blocks:
            x = part(x)
        return self.b(x)


def test_control_flow_is_left_and_the_rest_optimized() -> None:
    model = Decides(Decides()).eval()
    unsettle_(model)
    x = torch.randn(2, 4, 8, 8)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert norms(model) > 8 and norms(fast) == 0
    left = {part.name: part.reason for part in not_rewritten(fast)}
    assert {"", "blocks.0"} <= set(left) and "cannot be traced" in left[""]
    assert {choice.layer for choice in forms_chosen(fast)} == {"blocks.1.0", "blocks.0.blocks.1.0"}


def test_measuring_does_so_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from leanconv.inference import optimize as module

    monkeypatch.setattr(module, "times_of", lambda layer, forms, *_: dict.fromkeys(forms, 2.0) | {"merged": 1.0})
    monkeypatch.setattr(module, "_is_faster", lambda *_: True)
    model = Decides().eval()
    unsettle_(model)
    x = torch.randn(2, 4, 8, 8)
    fast = optimize(model, x, cache=None)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert [(choice.layer, choice.form) for choice in forms_chosen(fast)] == [("blocks.1.0", "merged")]


class LooksInside(Decides):
    """It reads what a rewritten module no longer has, and calls a part of one by itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = self.b[1](x) * self.a[0].weight.mean()
        return x + self.a[1](self.a[0](x))


def test_a_part_that_is_read_from_outside_is_put_back() -> None:
    model = LooksInside().eval()
    unsettle_(model)
    x = torch.randn(2, 4, 8, 8)
    with pytest.warns(LeanconvWarning, match=r"the module '\w' stays unchanged"):
        fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert 0 < norms(fast) < norms(model)


class Ways(nn.Module):
    """Called with a mask, and without."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.block(x)
        return x if mask is None else x * mask


class Masks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ways, self.other = Ways(), Ways()

    def forward(self, x: Tensor) -> Tensor:
        y = self.ways(self.ways(x), mask=x.sigmoid())
        return self.other(y, None) if y.sum() > -1e9 else y


def test_a_module_called_in_two_ways() -> None:
    model = Masks().eval()
    unsettle_(model)
    x = torch.randn(2, 4, 8, 8)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert norms(fast) == 0


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_nothing_to_optimize_is_no_error() -> None:
    x = torch.randn(1, 3, 4, 4)
    fast = quick(Nothing(), x)
    assert torch.equal(fast(x), x.abs() if x.sum() == x.abs().sum() else Nothing()(x))
    assert forms_chosen(fast) == () and not_rewritten(fast)[0].reason.startswith("it cannot be traced")


class Casts(Decides):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.float()))


class Kernel(nn.Module):
    """A plain tensor as a kernel, which follows no change of dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.block = torch.randn(4, 1, 3, 3), block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(nn.functional.conv2d(x, self.kernel, groups=4, padding=1))


class Bytes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x / 255)


class Mixed(nn.Module):
    """A body in bfloat16 and a head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = block().bfloat16(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.bfloat16()).float().mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (Casts, torch.float32), (Casts, torch.float16), (Casts, torch.float64), (Kernel, torch.float32), (Bytes, torch.uint8),
        (Mixed, torch.float32), (Mixed, torch.bfloat16), (Nothing, torch.int64),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
def test_networks_with_dtypes_of_their_own(kind: type[nn.Module], dtype: torch.dtype) -> None:
    model = kind().eval()
    unsettle_(model)
    x = (100 * torch.rand(2, 4, 8, 8)).to(dtype)
    fast = quick(model, x)
    with torch.no_grad():
        found, expected = fast(x), model(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    assert norms(fast) == 0
    before = {name: value.dtype for name, value in model.state_dict().items() if value.is_floating_point()}
    assert {value.dtype for value in fast.state_dict().values()} == set(before.values())


class Volume(nn.Module):
    """Parameters and buffers of five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.volume = block(), nn.Conv3d(1, 2, 3, padding=1)
        self.register_buffer("anchors", torch.ones(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.volume(self.block(x)[:, None]).flatten(1, 2) * self.anchors.mean()


class Asks(nn.Module):
    """Asks whether it gets a tensor, which a tracer's value is not, and then for its batch or its size."""

    def __init__(self, batch: bool) -> None:
        super().__init__()
        self.first, self.batch = block(), batch

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_tensor(x) and self.batch and len(x) > 1:
            x = x - x.mean(0, keepdim=True)
        if torch.is_tensor(x) and not self.batch and x.shape[-1] % 4:
            x = nn.functional.pad(x, (0, -x.shape[-1] % 4))
        return self.first(x)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.filterwarnings("ignore:.*at another batch and image size")
def test_code_for_another_batch_or_size_is_not_lost(batch: bool) -> None:
    model = nn.Sequential(block(), Asks(batch)).eval()
    fast = quick(model, torch.randn(1, 4, 8, 8))
    x = torch.randn(2, 4, 8, 7)
    torch.testing.assert_close(fast(x), model(x))
    assert norms(fast) == 0 and [part.name for part in not_rewritten(fast)] == ["", "1"]


class Logits(dict):
    """A dict with attributes, as many networks return."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


class Named(nn.Module):
    def __init__(self, kind: type[dict]) -> None:
        super().__init__()
        self.first, self.kind = block(), kind

    def forward(self, x: Tensor) -> dict:
        return self.kind(logits=self.first(x).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*dict in place of Logits")
def test_the_class_of_the_output_stays() -> None:
    model, x = Named(Logits).eval(), torch.randn(2, 4, 8, 8)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x).logits, model(x).logits)
    assert norms(fast) == 0 and [part.name for part in not_rewritten(fast)] == [""]
    assert not not_rewritten(quick(Named(OrderedDict).eval(), x))  # a dict is as good


class Adapts(nn.Module):
    """Keeps a norm in training mode, which adapts to each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = block(), block()

    def train(self, mode: bool = True) -> Adapts:
        super().train(mode)
        self.first[1].train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def test_a_norm_that_the_network_keeps_in_training_mode_stays_so() -> None:
    model, x = Adapts().eval(), 3 * torch.randn(2, 4, 8, 8) + 1
    fast = quick(model, x).eval()
    torch.testing.assert_close(fast(x), model(x))
    assert norms(fast) == 1 and "keeps 'first.1' in training mode" in not_rewritten(fast)[0].reason


def test_a_shared_weight_whose_owner_is_expanded_gets_another() -> None:
    dense = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
    lean, x = lc.convert(dense, lc.DepthShared()).eval(), torch.randn(1, 8, 8, 8)
    for index in (2, 3):
        lean[index].register_forward_hook(lambda *_: None)
    fast = quick(lean, x)
    held = {id(parameter) for parameter in fast.parameters()}
    assert {id(weight) for weight in parameters_in_use([*fast.modules()])} == held
    torch.testing.assert_close(fast(x), lean(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.double()(x.double()), lean.double()(x.double()), rtol=1e-4, atol=1e-4)
    assert [name for name in fast.state_dict() if "bank" in name] == ["2.bank.weight", "2.bank.bias"]


class Strides(nn.Module):
    """Takes every second pixel by the strides of a contiguous map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = block(4, 8), block(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        return self.last(torch.as_strided(x, (n, c, h // 2, w // 2), (c * h * w, h * w, 2 * w, 2)))


def test_code_that_depends_on_the_memory_layout_keeps_its_outputs() -> None:
    model, x = Strides().eval(), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(quick(model, x)(x), model(x))


@pytest.mark.parametrize("channels_last", [True, False])
def test_tensors_of_five_dimensions(channels_last: bool) -> None:
    model = Volume().eval()
    unsettle_(model)
    x = torch.randn(2, 4, 8, 8)
    fast = quick(model, x, channels_last=channels_last)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert norms(fast) == 0


class Changing(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.block, self.how, self.calls = block(), how, 0

    def forward(self, x: Tensor) -> Tensor:
        x, self.calls = self.block(x), self.calls + 1
        noise = {"noise": torch.randn_like(x), "dropout": nn.functional.dropout(x), "state": x * self.calls}
        return x + noise[self.how]


@pytest.mark.parametrize("how", ["noise", "dropout", "state"])
def test_a_network_that_gives_another_output_each_time_is_said_to(how: str) -> None:
    with pytest.raises(SettingError, match=r"Changing itself gives another output each time .*draws random numbers"):
        quick(Changing(how).eval(), torch.randn(1, 4, 8, 8))


class Special(nn.Module):
    """NaN, infinities, booleans and whole numbers in its output."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, None, float]:
        y = self.block(x).mean((2, 3))
        odd = y.masked_fill(torch.tensor([True, False, False, False]), float("nan")).clone()
        odd[:, 1], odd[:, 2] = float("inf"), float("-inf")
        return odd, y > y.mean(), y.argmax(1), None, float("nan")


def test_outputs_that_are_not_finite_or_not_floating() -> None:
    model = Special().eval()
    unsettle_(model)
    x = torch.randn(3, 4, 8, 8)
    fast = quick(model, x)
    torch.testing.assert_close(fast(x)[:3], model(x)[:3], equal_nan=True)
    assert norms(fast) == 0


def test_what_it_is_for_is_kept() -> None:
    model = lc.create_model("resnet8").eval()
    task = lc.Task((0.5,) * 3, (0.25,) * 3, (16, 16), tuple("abcdefghij"))
    lc.set_task(model, task)
    assert lc.get_task(quick(model, torch.randn(1, 3, 16, 16))) == task


class Casts(nn.Module):
    """A network that computes a part of itself in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(), block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.b(x)


def test_autocast_in_a_forward_pass_is_kept() -> None:
    torch.manual_seed(0)
    model, x = Casts(), torch.randn(2, 4, 8, 8)
    unsettle_(model)
    model.eval()
    fast = quick(model, x)
    assert fast(x).dtype == model(x).dtype == torch.bfloat16
    assert "it switches autocast" in not_rewritten(fast)[0].reason
    assert norms(fast.a) == 0
