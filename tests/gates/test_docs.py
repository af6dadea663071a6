"""Blocks of documents that `test_shown.py` does not run: their commands, flags and names exist."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gates import tree
from tests.gates.shown import PAGES, Block, blocks

FLAGS = (tree.ROOT / "tests/gates/cli_flags.txt").read_text(encoding="utf-8").splitlines()
MODULES = {name: importlib.import_module(module) for name, module in (("lc", "leanconv"), ("torch", "torch"))}
OWN_CLASSES = ("MyConv2d", "Bank", "Separable")  # of the person who reads CONTRIBUTING.md


def others(language: str) -> Iterator[tuple[str, Block]]:
    """(page, block) of each block in a language that another test runs, or none."""
    for path in PAGES:
        for block in blocks(path.read_text(encoding="utf-8")):
            if block.language == language and not block.runs:
                yield tree.name(path), block


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every leanconv command; a command may continue on the next line after a backslash."""
    for page, block in others("console"):
        for line in block.code.replace("\\\n", " ").splitlines():
            found = re.match(r"\$ (?:.* )?leanconv (.*)", line.partition(" #")[0])
            if found:
                yield page, shlex.split(found[1])


COMMANDS = list(commands())
PYTHON = list(others("python"))


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_commands_and_flags_exist(page: str, words: list[str]) -> None:
    """The command is the longest known one at the start of the words: `detect train`, `export`, ..."""
    known = {line.partition(" --")[0].partition(" -")[0] for line in FLAGS if line}
    verb = next((name for size in (2, 1) if (name := " ".join(words[:size])) in known), None)
    assert verb is not None, f"{page}: no command {' '.join(words[:2])}"
    for flag in (word for word in words if word.startswith("-")):
        assert any(re.search(rf"^{verb} .*{flag}\b", line) for line in FLAGS), f"{page}: {verb} has no {flag}"


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=lambda value: value if isinstance(value, str) else "")
def test_names_in_python_lines_exist(page: str, block: Block) -> None:
    parsed = ast.parse(block.code)
    imported = [node for node in ast.walk(parsed) if isinstance(node, ast.ImportFrom)]
    own = {node.id for node in ast.walk(parsed) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(parsed) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    own |= {node.arg for node in ast.walk(parsed) if isinstance(node, ast.arg)}
    own |= {alias.asname or alias.name for node in imported for alias in node.names}
    core: Any = importlib.import_module("leanconv.core.method"), importlib.import_module("leanconv.core.sharing")
    for node in ast.walk(parsed):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULES:
            assert hasattr(MODULES[node.value.id], node.attr), f"{page}: {node.value.id} has no {node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "leanconv":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            known = name in own or name in vars(builtins) or name in OWN_CLASSES
            assert known or any(hasattr(module, name) for module in core), f"{page}: {name}"


def test_the_blocks_are_found() -> None:
    assert len(COMMANDS) >= 8
    assert len(PYTHON) >= 4
