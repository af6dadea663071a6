"""Methods as text."""

from __future__ import annotations

import pytest

from leanconv.conversion.methods import label_of, parse_method, parse_methods
from leanconv.core.errors import SettingError
from leanconv.models.create import parse_target
from leanconv.ops import METHODS, DepthShared, SharedBasis, Split, TiedBlock

GOOD = [
    ("dense", [None]),
    ("tied_block", [TiedBlock()]),
    ("tied_block()", [TiedBlock()]),
    (" tied_block( blocks = 4 ) ", [TiedBlock(blocks=4)]),
    ("dense,tied_block(blocks=2),split(ratio=0.5)", [None, TiedBlock(blocks=2), Split(ratio=0.5)]),
    ("dense,\n split(ratio=0.25, groups=4),", [None, Split(ratio=0.25, groups=4)]),
    ("shared_basis(shared=0, unique=4, norm=False)", [SharedBasis(shared=0, unique=4, norm=False)]),
    ("depth_shared(scope='stage', blend=True)", [DepthShared(scope="stage", blend=True)]),
    ("depth_shared(blend=(0, 2))", [DepthShared(blend=(0, 2))]),
]

BAD = [
    ("", "is not a method"),
    ("1", "is not a method"),
    ("(((", "is not a method"),
    ("tied_block(blocks=2", "is not a method"),
    ("dense]+[dense", "is not a method"),
    ("a.b(c=1)", "unknown method 'a.b'"),
    ("tied_block,,split", "is not a method"),
    (",tied_block", "is not a method"),
    ("split(**{'ratio': 0.5})", "is not a method"),
    ("[split for split in ()]", "is not a method"),
    ("dense" + "(" * 300, "is not a method"),
    ("tied_blok", r"did you mean 'tied_block'\?\); there are dense, depth_shared"),
    ("TiedBlock(blocks=2)", "did you mean 'tied_block'"),
    ("zzz", r"unknown method 'zzz'; there are dense, depth_shared"),
    ("tied_block(block=4)", r"no setting 'block' \(did you mean 'blocks'\?\); it has blocks=2"),
    ("tied_block(4)", r"by name: tied_block\(blocks=4\), not tied_block\(4\)"),
    ("tied_block(blocks=2, blocks=4)", "blocks is given twice"),
    ("dense, dense", "dense is given twice"),
    ("tied_block,tied_block(blocks=2)", r"tied_block\(blocks=2\) is given twice"),
    ("dense(a=1)", "dense has no setting 'a'; it has none"),
    ("dense(1)", "dense takes no setting, and 1 is one"),
    ("tied_block(blocks=__import__('os'))", "not a plain value; write a number"),
    ("split(fusion=false)", "write fusion=False"),
    ("depth_shared(scope=stage)", "write scope='stage'"),
    ("depth_shared(scope='stag')", "scope='stag' must be 'network' or 'stage'"),
    ("tied_block(blocks=0)", "tied_block: blocks=0 must be"),
    ("tied_block(blocks='a')", "blocks='a' must be"),
    ("split(ratio=-0.5)", "ratio=-0.5 must be"),
    ("split(ratio=1e400)", "ratio=inf must be"),
    ("shared_basis(penalty_weight='x')", "value of the wrong kind|penalty_weight='x' must be"),
    ("depth_shared(blend=None)", "value of the wrong kind|blend=None must be"),
]


@pytest.mark.parametrize(("text", "methods"), GOOD)
def test_reads(text: str, methods: list[object]) -> None:
    assert list(parse_methods(text).values()) == methods


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_refuses_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as error:
        parse_methods(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", METHODS)
def test_labels_read_back(method: type) -> None:
    assert parse_method(label_of(method())) == method()


def test_one_method_is_one_method() -> None:
    assert parse_method("dense") is None
    with pytest.raises(SettingError, match="has 2; `leanconv compare` takes several"):
        parse_method("dense,split")


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("resnet20", "resnet20", {}),
        ("timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k", {}),
        ("resnet20(width=32, shortcut='A')", "resnet20", {"width": 32, "shortcut": "A"}),
        ("vgg16(widths=(8, 8, 8, 8, 8))", "vgg16", {"widths": (8,) * 5}),
        ("timm/resnet50()", "timm/resnet50", {}),
    ],
)
def test_targets_with_settings(text, name, settings):
    assert parse_target(text) == (name, settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet20(", "is not a network; write a name"),
        ("resnet20(**x)", "is not a network; write a name"),
        ("a(b=1)(c=2)", "is not a network; write a name"),
        ("(b=1)", "is not a network; write a name"),
        ("resnet20(32)", r"by name: resnet20\(setting=32\), not resnet20\(32\)"),
        ("resnet20(width=f())", r"resnet20: width=f\(\) is not a plain value"),
        ("resnet20(width=1, width=2)", "width is given twice"),
        ("resnet20(width=1),vgg16()", "names 2; one network is wanted here"),
    ],
)
def test_what_is_no_target(text, message):
    with pytest.raises(SettingError, match=message):
        parse_target(text)
