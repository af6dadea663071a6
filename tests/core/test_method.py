from __future__ import annotations

import pytest

import leanconv as lc
from leanconv.core.errors import SettingError


def test_names_are_the_snake_case_of_the_class():
    assert [method.name for method in lc.METHODS if method.__module__.startswith("leanconv.")] == [
        *("depth_shared", "filter_summary", "ghost", "grouped", "het", "lego", "low_rank", "partial_conv"),
        *("shared_basis", "soft_shared", "split", "tied_block"),
    ]


def test_label_shows_the_first_setting_and_what_differs():
    assert lc.TiedBlock().label() == "tied_block(blocks=2)"
    assert lc.Split(ratio=0.25, fusion=False).label() == "split(ratio=0.25, fusion=False)"
    assert lc.DepthShared(blend=(1, 3)).label() == "depth_shared(scope='network', blend=(1, 3))"


@pytest.mark.parametrize(
    "method", [lc.TiedBlock(4), lc.SharedBasis(16, 2), lc.DepthShared(blend=(0, 2)), lc.Split(0.3)]
)
def test_settings_round_trip_and_methods_are_hashable(method):
    again = type(method).from_settings(method.settings())
    assert again == method and hash(again) == hash(method)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lc.TiedBlock(blocks=0), "blocks=0 must be"),
        (lambda: lc.TiedBlock(blocks=1.5), "blocks=1.5 must be a whole number"),
        (lambda: lc.TiedBlock(blocks=True), "blocks=True must be a whole number"),
        (lambda: lc.TiedBlock(blocks="4"), "blocks='4' must be a whole number"),
        (lambda: lc.SharedBasis(shared=-1), "shared=-1 must be a whole number of at least 0"),
        (lambda: lc.SharedBasis(shared=0, unique=0), "shared=0 and unique=0 leave no filter"),
        (lambda: lc.SharedBasis(bases=0), "bases=0 must be a whole number of at least 1"),
        (lambda: lc.SharedBasis(growth=0), "growth=0 must be a whole number of at least 1"),
        (lambda: lc.SharedBasis(norm=1), "norm=1 must be true or false"),
        (lambda: lc.SharedBasis(penalty_weight=-1), "penalty_weight=-1 must be a number of at least 0"),
        (lambda: lc.SharedBasis(penalty_weight=float("nan")), "penalty_weight=nan must be a number"),
        (lambda: lc.DepthShared(scope="layer"), "scope='layer' must be 'network' or 'stage'"),
        (lambda: lc.DepthShared(blend=(-1,)), "must be true, false or positions"),
        (lambda: lc.DepthShared(penalty_weight="1"), "penalty_weight='1' must be a number of at least 0"),
        (lambda: lc.Split(ratio=0), "ratio=0 must be a number above 0 and at most 1"),
        (lambda: lc.Split(ratio=1.5), "ratio=1.5 must be a number above 0 and at most 1"),
        (lambda: lc.Split(ratio="half"), "ratio='half' must be a number"),
        (lambda: lc.Split(groups=0), "groups=0 must be a whole number of at least 1"),
        (lambda: lc.Split(fusion="yes"), "fusion='yes' must be true, false or 'static'"),
        (lambda: lc.Split(representative="both"), "must be 'sum', 'chain' or 'full'"),
        (lambda: lc.TiedBlock.from_settings({"block": 2}), "tied_block has no setting 'block'; it has blocks"),
    ],
)
def test_bad_settings_name_value_and_rule(build, message):
    with pytest.raises(SettingError, match=message):
        build()
