"""`leanconv lean`: from a run to a lean network, and what it says about wrong budgets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import leanconv as lc
from tests.cli.conftest import one_line


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return lc.save(lc.create_model("resnet8", num_classes=10, in_chans=1), tmp_path / "dense")


def test_a_search_prints_json_and_leaves_a_network(call, saved, tmp_path, monkeypatch):
    monkeypatch.setattr("leanconv.budget.flow.FINAL_SECONDS", 0.02)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = ("--methods", "tied_block", "--images", 16, "--points", 2, "--recovery-epochs", 0, "--controls", "none")
    answer = call(
        "lean",
        saved,
        "--budget",
        "macs=0.6",
        "--budget",
        "params=0.8",
        *flags,
        "--threads",
        1,
        "-o",
        tmp_path / "lean",
        "--json",
    )
    assert answer.code == 0, answer.err
    dense, lean = json.loads(answer.out)["rows"]
    assert lean["macs"] <= 0.6 * dense["macs"] and lean["params"] <= 0.8 * dense["params"]
    assert "[4/8] solve" in answer.err and (tmp_path / "lean" / "report.html").exists()
    assert lc.count(lc.load(tmp_path / "lean")).params == lean["params"]
    summary = json.loads((tmp_path / "lean" / "summary.json").read_text())
    assert summary["settings"]["target"] == "dense"  # no folder of this machine
    again = call("lean", saved, "--budget", "macs=0.6,params=0.8", *flags, "--threads", 1, "-o", tmp_path / "lean")
    assert again.code == 0 and "was finished earlier; nothing was trained" in again.err
    anew = call("lean", saved, "--budget", "macs=1e-9", *flags, "-o", tmp_path / "other", "--resume")
    assert anew.code == 2 and "holds no run, so this one starts anew" in anew.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("there is no budget", "--max-drop 1.0")),
        (("--budget", "tmie=0.5"), ("unknown measure 'tmie'", "did you mean 'time'")),
        (("--budget", "macs=0.5", "--controls", "best"), ("controls='best' must be uniform, random",)),
        (("--budget", "macs=0.5", "--methods", "tied_blok"), ("tied_blok",)),
        (("--budget", "macs=0.5", "--methods", "tied_block,tied_blok"), ("unknown", "'tied_blok'")),
        (("--budget", "macs=0.5", "--minimise", "params"), ("without --max-drop does not use --minimise",)),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_flags_are_one_line(call, saved, tmp_path, flags, words):
    answer = call("lean", saved, "-o", tmp_path / "lean", *flags)
    assert answer.code == 2 and one_line(answer, *words)
