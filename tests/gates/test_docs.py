"""What the documents show runs: their commands and flags exist, and so do the names in their Python lines."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leanconv import analyse, detect
from tests.gates import guides, tree

FLAGS = (tree.ROOT / "tests/gates/cli_flags.txt").read_text(encoding="utf-8").splitlines()
DOCUMENTS = sorted([tree.ROOT / "CONTRIBUTING.md", *(tree.ROOT / "docs").rglob("*.md")])
lc: Any = importlib.import_module("leanconv")
MODULES: dict[str, Any] = {"lc": lc, "analyse": analyse, "detect": detect, "torch": torch}


def code(path: Path, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[str, list[str]]]:
    """(document, words) of every leanconv command; a command may continue on the next line after a backslash."""
    for path in DOCUMENTS:
        for block in code(path, "console"):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"\$ (?:.* )?leanconv (.*)", line.partition(" #")[0])
                if found:
                    yield tree.name(path), shlex.split(found[1])


COMMANDS = list(commands())
RUN = {*guides.PAGES, tree.ROOT / "CONTRIBUTING.md"}  # whose Python lines run in other tests
PYTHON = [(path, block) for path in DOCUMENTS if path not in RUN for block in code(path, "python")]


@pytest.mark.parametrize(
    ("document", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_commands_and_flags_exist(document: str, words: list[str]) -> None:
    """The command is the longest known one at the start of the words: `detect train`, `export`, ..."""
    known = {line.partition(" --")[0].partition(" -")[0] for line in FLAGS if line}
    verb = next((name for size in (2, 1) if (name := " ".join(words[:size])) in known), None)
    assert verb is not None, f"{document}: no command {' '.join(words[:2])}"
    for flag in (word for word in words if word.startswith("-")):
        assert any(re.search(rf"^{verb} .*{flag}\b", line) for line in FLAGS), f"{document}: {verb} has no {flag}"


@pytest.mark.parametrize(
    ("path", "block"), PYTHON, ids=lambda value: tree.name(value) if isinstance(value, Path) else ""
)
def test_names_in_python_lines_exist(path: Path, block: str) -> None:
    parsed = ast.parse(block)
    own = {node.id for node in ast.walk(parsed) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(parsed) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    own |= {
        alias.asname or alias.name
        for node in ast.walk(parsed)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(parsed):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULES:
            assert hasattr(MODULES[node.value.id], node.attr), f"{path.name}: {node.value.id} has no {node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "leanconv":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) or alias.name in MODULES for alias in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id in own or node.func.id in vars(builtins) or node.func.id == "MyNet"


def run(path: str, number: int, names: dict[str, Any]) -> dict[str, Any]:
    """Run a Python block of a document, with the names that the text around it explains."""
    block = code(tree.ROOT / "docs" / path, "python")[number]
    exec(compile(block, path, "exec"), names)
    return names


@pytest.fixture
def lean() -> torch.nn.Module:
    return lc.convert(lc.create_model("resnet8"), lc.TiedBlock(2), where="layer*")


def test_the_methods_page_converts() -> None:
    names = run("methods.md", 0, {})
    assert lc.count(names["lean"]).params < lc.count(names["model"]).params


def test_the_files_page_saves_and_loads(lean: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = lean.eval()(torch.ones(1, 3, 32, 32))
    names = run("files.md", 0, {"lc": lc, "lean": lean})
    assert torch.equal(names["lean"](torch.ones(1, 3, 32, 32)), before)


def test_the_analysis_page_measures_similarity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("analysis.md", 0, {"net": lc.create_model("resnet20").eval(), "images": torch.rand(2, 3, 32, 32)})
    assert (tmp_path / "similarity.svg").stat().st_size > 1000


def test_the_documents_show_commands_and_python() -> None:
    assert len(COMMANDS) >= 20
    assert len(PYTHON) >= 6
