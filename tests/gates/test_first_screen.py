"""What the README's first screen and docs/lean.md say of networks made lean is what was measured."""

from __future__ import annotations

import json
from typing import Any

from tests.gates import tree

SEEDS = "lean_seeds-fast_vgg-amd-2026-11-27.json"
THIRD = "lean-fast_vgg_seed2-amd-2026-11-27.json"


def rows(name: str) -> dict[str, dict[str, Any]]:
    return {row["network"]: row for row in json.loads((tree.ROOT / "results" / name).read_text())["rows"]}


def text(name: str) -> str:
    return " ".join((tree.ROOT / name).read_text(encoding="utf-8").split())


def lost(row: dict[str, Any], dense: dict[str, Any], key: str) -> str:
    return f"{dense[key] - row[key]:.1f}"


def test_the_means_over_the_seeds():
    found = rows(SEEDS)
    lean, uniform, pruned = (found[name] for name in ("lean", "uniform", "pruned"))
    readme = text("README.md")
    assert (
        f"The lean networks take {lean['latency_ratio']:.2f} of the time, with {lean['params_ratio']:.2f} of the parameters, "
        f"and lose {lean['test_top1_lost']:.1f} points on the test part."
    ) in readme
    assert f"(`pruned`) lose {pruned['test_top1_lost']:.1f} points" in readme
    assert f"(`uniform`) loses {uniform['test_top1_lost']:.1f}, at {uniform['latency_ratio']:.2f} of the time" in readme
    page = text("docs/lean.md")
    assert f"**The lean networks lose {lean['test_top1_lost']:.1f} points.**" in page
    after = [f"{value:.1f}" for value in lean["validation_lost_by_seed"]]
    assert f"after it {after[0]}, {after[1]} and {after[2]}" in page
    assert f"`pruned` loses {pruned['test_top1_lost']:.1f} points" in page
    assert (
        f"`uniform` loses {uniform['test_top1_lost']:.1f} points, with less time ({uniform['latency_ratio']:.2f})"
        in page
    )


def test_the_means_are_those_of_the_files():
    """The gathered file holds the rows of the searches that it names."""
    gathered = json.loads((tree.ROOT / "results" / SEEDS).read_text())
    searches = [rows(name) for name in gathered["settings"]["files"]]
    for row in gathered["rows"]:
        own = [search[row["network"]]["test_top1_pct"] for search in searches if row["network"] in search]
        assert own == row["test_top1_pct_by_seed"] and len(own) == row["n"]
        assert abs(sum(own) / len(own) - row["test_top1_pct"]) < 1e-9


def test_the_narrower_network():
    found = rows(THIRD)
    dense, lean, narrower = (found[name] for name in ("dense", "lean", "narrower"))
    own = [lost(narrower, dense, key) for key in ("test_top1_pct", "quality")]
    other = [lost(lean, dense, key) for key in ("test_top1_pct", "quality")]
    said = f"{own[0]} points on the test part and {own[1]} on the validation part, and the lean network"
    assert f"loses {said} of this seed {other[0]} and {other[1]}" in text("README.md")
    assert f"loses {said} {other[0]} and {other[1]}" in text("docs/lean.md")


def test_the_other_searches():
    quarter, amx = rows("lean-fast_vgg_quarter-amd-2026-11-27.json"), rows("lean-fast_vgg-cifar10-2026-11-26.json")
    readme = text("README.md")
    assert f"the lean network loses {lost(quarter['lean'], quarter['dense'], 'test_top1_pct')} points" in readme
    assert f"with AMX, it lost {lost(amx['lean'], amx['dense'], 'test_top1_pct')} points" in readme
