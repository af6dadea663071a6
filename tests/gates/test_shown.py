"""The commands and the Python lines that the documents show run, in their order, on small data."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leanconv.cli import main
from tests import walk
from tests.gates import small, tree
from tests.gates.reader import Reader, explained
from tests.gates.shown import LAUNCHER, PAGES, Block, blocks, names_of, read_paths, texts_of

BLOCKS = {tree.name(path): blocks(path.read_text(encoding="utf-8")) for path in PAGES}
# Blocks that no test runs, by page. Each says why; a new one is counted here.
NOT_RUN = {"CONTRIBUTING.md": 2, "docs/detection.md": 1, "docs/scale.md": 1, "docs/speed.md": 1}


def own(page: str) -> list[Block]:
    """The blocks that run here: those that tests/test_walk.py runs, from a clone, do not run twice."""
    walked = walk.walked(page, BLOCKS[page]) if (tree.ROOT / ".git").exists() else []
    return [block for block in BLOCKS[page] if block.runs and block not in walked]


def pages() -> list[Any]:
    """Each page with a block that runs here; a slow one with its mark."""
    return [
        pytest.param(page, id=page, marks=[pytest.mark.slow] if any(block.said("slow") for block in own(page)) else [])
        for page in BLOCKS
        if own(page)
    ]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What several pages need, made once."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small searches and short measurements."""
    for module, name, value in small.replacements():
        monkeypatch.setattr(module, name, value)


def run(block: Block, reader: Reader, names: dict[str, Any]) -> None:
    """Run a block in the working folder.

    Args:
        names: of the page's Python lines, which are one program.
    """
    if block.language == "python":
        reader.bring(texts_of(block.small))
        names |= explained(names_of(block.small) - names.keys())
        exec(compile(block.small, "the page", "exec"), names)
        return
    if block.language == "yaml":
        Path("config.yaml").write_text(block.small, encoding="utf-8")
    for words in block.commands():
        reader.bring(read_paths(words))
        if words[0] == LAUNCHER or "--devices" in words:  # Lightning starts the program anew, which must not be pytest
            launched(words)
            continue
        with pytest.raises(SystemExit) as end:
            main(words)
        assert not end.value.code, f"leanconv {shlex.join(words)} ended with {end.value.code}"


def launched(words: list[str]) -> None:
    """Run a command of torchrun, or of leanconv, in a process of its own, with the `leanconv` of this tree."""
    paths = {
        "PYTHONPATH": str(tree.ROOT),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    torchrun = words[0] == LAUNCHER
    module, given = ("torch.distributed.run", words[1:]) if torchrun else ("leanconv", words)
    done = subprocess.run(
        [sys.executable, "-m", module, *given], env=os.environ | paths, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # of the libraries too: a reader sees them, and the page still works
@pytest.mark.usefixtures("small_calls")
@pytest.mark.parametrize("page", pages())
def test_what_a_page_shows_runs(page: str, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept / "cache"))
    reader, names = Reader(kept, detection="detection" in page), {"__name__": "a_page"}
    for block in own(page):
        run(block, reader, names)


def test_what_is_not_run_says_why() -> None:
    found = {page: sum(block.said("not run") is not None for block in shown) for page, shown in BLOCKS.items()}
    assert {page: count for page, count in found.items() if count} == NOT_RUN
    assert sum(block.runs for shown in BLOCKS.values() for block in shown) >= 50
    assert sum(bool(page.marks) for page in pages()) <= 3


@pytest.mark.parametrize("page", [page for page in BLOCKS if any(block.said("run by") for block in BLOCKS[page])])
def test_the_tests_that_run_other_blocks_exist(page: str) -> None:
    """A test that runs a block from its page names the page; one that runs the same commands names their verb."""
    for block in BLOCKS[page]:
        if (by := block.said("run by")) is not None:
            text = (tree.ROOT / by).read_text(encoding="utf-8")
            assert "def test_" in text or by == "Makefile", by


def test_a_block_is_read() -> None:
    text = "<!-- test: --batch 4 | train -->\n```console\n$ leanconv train timm/resnet50 \\\n    --out a  # why\n```\n"
    (block,) = blocks(text)
    assert block.commands() == [["train", "timm/test_resnet", "--out", "a", *small.flags(["train"]), "--batch", "4"]]
    shown = "torchrun --nproc-per-node 2 --no-python leanconv eval x"
    (block,) = blocks(f"```console\n$ {shown}\n```\n")
    assert block.commands() == [shown.split()]
    (block,) = blocks("```console\n$ torchrun --no-python rm x\n```\n")
    with pytest.raises(AssertionError, match="own commands only"):
        block.commands()
    (block,) = blocks("<!-- not run: it erases x -->\n```console\n$ rm -r x\n```\n")
    assert not block.runs and block.said("not run") == "it erases x"
    with pytest.raises(AssertionError, match="own commands only"):
        block.commands()


def test_a_block_that_fails_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, detection=False)
    with pytest.raises(AssertionError, match="ended with 2"):
        run(Block("console", "$ leanconv eval nothing --data digits\n", ""), reader, {})
    with pytest.raises(ZeroDivisionError):
        run(Block("python", "1 / 0\n", ""), reader, {})
