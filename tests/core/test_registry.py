"""Methods by their names: who has one, who may not, and what files make of it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.conversion.plan import Plan
from leanconv.core.errors import FileError, LeanconvWarning, SettingError
from leanconv.core.method import Method, registered
from leanconv.ops.tied_block import TiedBlock, TiedBlockConv2d


def halves() -> type[Method]:
    @dataclass(frozen=True)
    class Halves(TiedBlock):
        """Tied blocks by another name."""

    return Halves


def test_a_class_is_found_by_its_name_from_then_on():
    with pytest.raises(SettingError, match="unknown method 'halves'; there are depth_shared"):
        lc.find_method("halves")
    kind = halves()
    assert lc.find_method("halves") is kind and kind in lc.METHODS and "halves" in lc.list_methods()
    assert kind(4).label() == "halves(blocks=4)"


def test_a_class_that_is_defined_again_replaces_the_first():
    first, second = halves(), halves()
    assert first is not second and lc.find_method("halves") is second


def test_another_class_of_a_name_is_refused():
    with pytest.raises(SettingError) as error:
        type("TiedBlock", (TiedBlock,), {"__module__": "elsewhere", "__qualname__": "TiedBlock"})
    text = str(error.value)
    assert "leanconv.ops.tied_block.TiedBlock and elsewhere.TiedBlock; rename the class" in text and "\n" not in text
    assert lc.find_method("tied_block") is TiedBlock


def test_a_name_of_its_own():
    kind = type("TiedBlock", (TiedBlock,), {"name": "my_tied_block"})
    assert lc.find_method("my_tied_block") is kind and kind().label() == "my_tied_block(blocks=2)"
    for name in ("dense", "two words"):
        with pytest.raises(SettingError, match=f"cannot be called {name!r}"):
            type("Any", (TiedBlock,), {"name": name})


def test_slots_and_abstract_bases():
    @dataclass(frozen=True, slots=True)
    class Slotted(TiedBlock):
        """A dataclass with slots is made anew by its decorator."""

    assert lc.find_method("slotted") is Slotted

    class Base(Method):
        """Has no build."""

    assert "base" not in lc.list_methods() and Base.name == "base"


def converted(method: Method) -> nn.Module:
    torch.manual_seed(0)
    model = lc.create_model("resnet8")
    return lc.convert(model, lc.plan(model, method, "layer*.conv?")).eval()


def test_a_class_of_a_notebook_saves_and_loads_where_it_is_defined(tmp_path: Path):
    lean = converted(halves()(blocks=2))
    with pytest.warns(LeanconvWarning, match="Halves is defined in a function: the file loads only where"):
        lc.save(lean, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(lc.load(tmp_path)(x), lean(x))
    del registered["halves"]
    with pytest.raises(FileError, match="'halves' is not known here; it was defined in the module 'tests"):
        lc.load(tmp_path)


def test_a_method_that_load_could_not_find_is_not_saved(tmp_path: Path):
    lean = converted(halves()(blocks=2))
    del registered["halves"]
    with pytest.raises(
        SettingError, match=r"is not the method that is registered as 'halves'.* define the class again"
    ):
        lc.save(lean, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def group(**changes: object) -> dict[str, object]:
    plan = lc.plan(nn.Sequential(nn.Conv2d(8, 8, 3)), lc.TiedBlock(2)).to_json()
    assert plan["groups"][0]["module"] == "leanconv.ops.tied_block" and "package" not in plan["groups"][0]
    plan["groups"][0].update(changes)
    return json.loads(json.dumps(plan))


def test_plans_of_before_name_no_module():
    plan = group()
    del plan["groups"][0]["module"]  # type: ignore[index]
    assert Plan.from_json(plan).groups[0].method == lc.TiedBlock(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(module="a.b", package={"name": "a-b", "version": "1.2"}), "package a-b 1.2: pip install a-b, and import a.b"),
        (dict(module="a.b"), "'rare' is not known here; it was defined in the module 'a.b': import that first"),
        (dict(module="__main__"), "define the same class again, then load"),
        (dict(), "install a newer leanconv"),
        (dict(module=3, package=[]), "it was defined in the module '3'"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(changes: dict[str, object], message: str):
    with pytest.raises(FileError) as error:
        Plan.from_json(group(method="rare", **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_imports_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "bait.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileError, match="import that first"):
        Plan.from_json(group(method="rare", module="bait"))


def test_the_same_name_of_another_package_is_a_warning():
    with pytest.warns(
        LeanconvWarning, match="'tied_block' was theirs.ops's when the file was saved, and here it is leanconv"
    ):
        Plan.from_json(group(module="theirs.ops"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Plan.from_json(group(module="__main__"))
        Plan.from_json(group(module="leanconv.ops.moved"))


class Doubled(TiedBlockConv2d):
    """Computes something else than its parent."""

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().convolve(x)

    def weight_dense(self) -> torch.Tensor:
        return 2 * super().weight_dense()

    def bias_dense(self) -> torch.Tensor | None:
        return None


class Shown(TiedBlockConv2d):
    """Computes the same."""


def test_a_subclass_that_computes_otherwise_has_no_forms_of_its_parent():
    from leanconv.inference.forms import forms_of

    assert list(forms_of(Doubled(8, 8, 3, bias=False).eval())) == ["dense", "module"]
    assert "batch" in forms_of(Shown(8, 8, 3).eval())
