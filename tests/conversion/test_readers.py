"""A weight that someone else reads stays dense: a new module would compute with another one."""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict, deque, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import leanconv as lc


class Net(nn.Module):
    def __init__(self, change=lambda model: None):
        super().__init__()
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        change(self)

    def forward(self, x):
        return self.two(self.one(x))


def kept(model, **settings):
    plan = lc.plan(model, lc.TiedBlock(), **settings)
    return {item.site.name: item.reason for item in plan.kept}


def _other(weight):
    conv = nn.Conv2d(4, 4, 3)
    conv.weight = weight
    return conv


class Chain(list):
    pass


Pair = namedtuple("Pair", "layer number")


class Slot:
    __slots__ = ("weight",)

    def __init__(self, weight):
        self.weight = weight


def _same_storage(model):
    model.two.weight = nn.Parameter(model.one.weight.data)


HOLDERS = {
    "list": (lambda m: setattr(m, "held", [m.one.weight]), "held"),
    "nested": (lambda m: setattr(m, "held", {"a": (0, [m.one.weight])}), "held"),
    "bias": (lambda m: setattr(m, "held", (m.one.bias,)), "held"),
    "view": (lambda m: setattr(m, "held", m.one.weight.detach().view(-1)), "held"),
    "closure": (lambda m: setattr(m, "held", (lambda w: lambda: w.sum())(m.one.weight)), "held"),
    "partial": (lambda m: setattr(m, "held", functools.partial(torch.sum, m.one.weight)), "held"),
    "object": (lambda m: setattr(m, "held", types.SimpleNamespace(w=m.one.weight)), "held"),
    "weak": (lambda m: setattr(m, "held", weakref.ref(m.one.weight)), "held"),
    "parameter list": (lambda m: setattr(m, "held", nn.ParameterList([m.one.weight])), "held"),
    "hidden module": (lambda m: setattr(m, "held", [_other(m.one.weight)]), "held"),
    "function of the layer": (lambda m: setattr(m, "held", (lambda c: lambda x: c(x))(m.one)), "held"),
    "method of the layer": (lambda m: setattr(m, "held", m.one.forward), "held"),
    "hook": (lambda m: m.two.register_forward_hook((lambda w: lambda *_: w.sum())(m.one.weight)), "two._forward_hooks"),
    "array": (lambda m: setattr(m, "held", m.one.weight.detach().numpy()[1:]), "held"),
    "queue": (lambda m: setattr(m, "held", deque([m.one.weight])), "held"),
    "key": (lambda m: setattr(m, "held", {m.one.weight: 0}), "held"),
    "named tuple": (lambda m: setattr(m, "held", Pair(m.one, 0)), "held"),
    "own kind of list": (lambda m: setattr(m, "held", Chain([m.one])), "held"),
    "layer as a key": (lambda m: setattr(m, "held", {m.one: 2.0}), "held"),
    "weak layer": (lambda m: setattr(m, "held", weakref.ref(m.one)), "held"),
    "slot": (lambda m: setattr(m, "held", Slot(m.one.weight)), "held"),
    "same memory": (_same_storage, "two"),
}


@pytest.mark.parametrize(("change", "holder"), HOLDERS.values(), ids=HOLDERS)
def test_a_weight_that_something_else_holds_stays(change, holder):
    assert kept(Net(change))["one"] == f"it shares a parameter with {holder!r}; a conversion would end the sharing"


def test_an_optimizer_a_flat_buffer_a_hook_and_a_list_of_layers_read_nothing():
    model = Net()
    flat = torch.randn(2 * 144)
    for index, conv in enumerate((model.one, model.two)):
        conv.weight = nn.Parameter(flat[144 * index : 144 * (index + 1)].view(4, 4, 3, 3))
    model.optimizer = torch.optim.SGD(model.parameters())
    model.layers = [model.one, model.two]
    model.named = OrderedDict(a=(model.one,), b={"c": model.two})
    model.register_forward_hook(lambda *_: model.training)
    model.compile(backend="eager")
    assert kept(model, input_size=(4, 6, 6)) == {}


class Sums(Net):
    def forward(self, x):
        return super().forward(x) + self.one.weight.square().sum()


class Functional(Net):
    def forward(self, x):
        return self.two(F.conv2d(self.one(x), self.one.weight, padding=1))


class Data(Net):
    def forward(self, x):
        return super().forward(x) * self.one.weight.data.mean()


class Bias(Net):
    def forward(self, x):
        return super().forward(x) + torch.stack([self.one.bias, self.one.bias]).sum()


def test_a_class_attribute_and_a_global_that_a_forward_uses_are_readers():
    class Shared(Net):
        pass

    model = Shared()
    Shared.held = [model.one.weight]
    assert kept(model)["one"] == "it shares a parameter with 'Shared.held'; a conversion would end the sharing"

    class Outside(Net):
        def forward(self, x):
            return super().forward(x) + outside.sum()

    model = Outside()
    outside = model.one.weight
    assert "outside of the layer" in kept(model, input_size=(4, 6, 6))["one"]


class Stored(Sums):
    def forward(self, x):
        return super().forward(x.to("cpu"))


@pytest.mark.parametrize("kind", [Sums, Functional, Data, Bias, Stored])
def test_a_weight_that_the_networks_forward_reads_stays(kind):
    found = kept(kind(), input_size=(4, 6, 6))
    assert found == {
        "one": "the network also computes with its weight or bias outside of the layer; a conversion would not reach that use"
    }


def test_asking_a_weight_for_its_dtype_reads_nothing():
    class Asks(Net):
        def forward(self, x):
            return super().forward(x.to(self.one.weight.dtype).to(self.one.weight.device))

    assert kept(Asks(), input_size=(4, 6, 6)) == {}


@pytest.mark.parametrize("ask", [lambda w: w.shape[0], lambda w: w.size(0), len, lambda w: w.numel() // 36])
def test_a_weight_whose_shape_the_forward_reads_stays(ask):
    """An operator's weight has a shape of its own: the network would compute with another number."""

    class Shape(Net):
        def forward(self, x):
            return super().forward(x) * ask(self.one.weight)

    assert set(kept(Shape(), input_size=(4, 6, 6))) == {"one"}


def test_a_part_that_is_compiled_stays():
    model = nn.Sequential(Net(), Net())
    model[1] = torch.compile(model[1], backend="eager")
    assert set(kept(model).values()) == {"it runs inside torch.compile; convert first, and compile afterwards"}
