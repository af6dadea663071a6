"""Committed measurements are whole, and the documents print what they hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from leanconv.report import markdown_of, results
from tests.gates import blocks, tree

SCHEMA = json.loads((tree.RESULTS / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
COMMITTED = tree.results()
DOCUMENTS = tree.files("*.md")
ROW = {
    "method": "dense",
    "n": 2,
    "seeds": [0, 1],
    "params": 272474,
    "params_ratio": 1.0,
    "macs": 41214592,
    "macs_ratio": 1.0,
    "weight_bytes": 1100000,
    "test_top1_pct": 91.2,
    "test_top1_pct_std": 0.1,
    "train_seconds": 100.0,
    "latency_ms": 2.0,
    "latency_ms_q25": 1.9,
    "latency_ms_q75": 2.1,
    "latency_ratio": 1.0,
    "latency_ratio_q25": 1.0,
    "latency_ratio_q75": 1.0,
    "failed": None,
}
WHOLE = {
    "schema_version": 1,
    "kind": "compare",
    "created": "2026-01-31T12:00:00+00:00",
    "commit": "0" * 40,
    "dirty": False,
    "versions": {"python": "3.11.7", "leanconv": "0.1.0", "torch": "2.9.0"},
    "machine": {
        "cpu": "a CPU",
        "usable_cpus": 2,
        "torch_threads": 2,
        "memory_gib": 8.0,
        "gpu": None,
        "os": "Linux 6.1",
    },
    "command": "leanconv compare resnet20",
    "settings": {"target": "resnet20"},
    "n": 2,
    "seeds": [0, 1],
    "rows": [ROW],
}


def faults(result: dict[str, Any]) -> list[str]:
    """What keeps `result` from being committed."""
    found = [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(result)]
    if found:
        return found
    rows = result["rows"]
    if result["commit"] is None or result["dirty"] is None:
        found.append("measured with an installed copy: no commit says what ran")
    if result["kind"] == "compare":
        wrong = [row for row in rows if row["n"] != len(row["seeds"])]
        found += [f"{row['method']}: n is {row['n']}, seeds {row['seeds']}" for row in wrong]
        if result["n"] != max(row["n"] for row in rows):
            found.append(f"n is {result['n']}, but no row has as many or one has more")
        if result["seeds"] != sorted({seed for row in rows for seed in row["seeds"]}):
            found.append(f"seeds are {result['seeds']}, but not those of the rows")
    return found


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert not faults(WHOLE)


def test_every_committed_file_is_whole():
    broken = {path.name: found for path in COMMITTED if (found := faults(json.loads(path.read_text(encoding="utf-8"))))}
    assert not broken


@pytest.mark.parametrize("missing", SCHEMA["required"])
def test_the_gate_sees_what_is_missing(missing: str):
    assert faults({key: value for key, value in WHOLE.items() if key != missing})


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"kind": "guess"},
        {"created": "yesterday"},
        {"commit": "abc"},
        {"commit": None},
        {"n": 3},
        {"seeds": [0]},
        {"rows": []},
        {"machine": {**WHOLE["machine"], "hostname": "box"}},  # type: ignore[dict-item]
        {"rows": [{**ROW, "n": 3}]},
        {"rows": [{**ROW, "test_top1_pct": 912.0}]},
        {"rows": [{**ROW, "test_top1_pct": None}]},
        {"rows": [{**ROW, "latency_ms": 0}]},
        {"rows": [{**ROW, "flops": 3}]},
        {"rows": [{key: value for key, value in ROW.items() if key != "macs"}]},
    ],
    ids=str,
)
def test_the_gate_sees_what_is_wrong(change: dict[str, Any]):
    assert faults({**copy.deepcopy(WHOLE), **change})


def test_a_method_that_failed_is_a_row_too():
    gone = {"n": 0, "seeds": [], "test_top1_pct": None, "test_top1_pct_std": None, "train_seconds": None}
    failed = {**ROW, **gone, "method": "split(ratio=0.5)", "failed": "seed 0: the loss is NaN"}
    assert not faults({**WHOLE, "rows": [ROW, failed]})


@pytest.mark.parametrize("path", DOCUMENTS, ids=tree.name)
def test_documents_print_what_results_hold(path: Path):
    text = path.read_text(encoding="utf-8")
    assert blocks.rendered(text, tree.RESULTS, markdown_of) == text, "run `python -m tests.gates.update`"


@pytest.mark.parametrize("path", COMMITTED, ids=tree.name)
def test_figures_are_drawn_from_what_results_hold(path: Path):
    for name in results.figures_of(path):
        drawn = tree.figure(path, name)
        assert drawn.is_file(), "run `python -m tests.gates.update`"
        assert results.source_mark(path) in drawn.read_text(encoding="utf-8"), "run `python -m tests.gates.update`"


def document(inner: str, file: str = "a.json#main") -> str:
    return f"Before\n\n<!-- results: {file} -->\n{inner}\n<!-- /results -->\n\nAfter\n"


def test_a_block_is_rendered_from_its_file(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(WHOLE))
    table = markdown_of(tmp_path / "a.json", "main").strip()
    assert "272,474" in table and "91.20" in table
    for file in ("a.json", "a.json#main"):
        assert blocks.rendered(document("| old |", file), tmp_path, markdown_of) == document(table, file)
        assert blocks.rendered(document(table, file), tmp_path, markdown_of) == document(table, file)
    two = document("x") + document("y")
    assert blocks.rendered(two, tmp_path, markdown_of) == document(table) * 2


def test_a_changed_figure_is_seen(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(WHOLE))
    shown = document(markdown_of(tmp_path / "a.json").strip())
    (tmp_path / "a.json").write_text(json.dumps({**WHOLE, "rows": [{**ROW, "test_top1_pct": 91.3}]}))
    assert blocks.rendered(shown, tmp_path, markdown_of) != shown


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (document("x", "gone.json"), FileNotFoundError),
        (document("x").replace("<!-- /results -->", ""), ValueError),
        (document("x").replace("<!-- /results -->", "<!-- results: a.json -->"), ValueError),
        (document("x").replace("results: a", "results a"), ValueError),
        (document("x").replace("<!-- /results -->", document("y"), 1), ValueError),
    ],
    ids=["no file", "not closed", "opened twice", "no colon", "nested"],
)
def test_a_broken_block_is_seen(tmp_path: Path, text: str, error: type[Exception]):
    (tmp_path / "a.json").write_text(json.dumps(WHOLE))
    with pytest.raises(error, match="block"):
        blocks.rendered(text, tmp_path, markdown_of)
