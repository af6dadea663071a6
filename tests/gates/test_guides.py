"""The commands and the Python lines of "Getting started" and of the guides run, in their order, on small data."""

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
from tests.gates import tree
from tests.gates.guides import LAUNCHER, PAGES, SLOW, blocks, commands, files_of_a_user, flags_for


def pages() -> list[Any]:
    """Each page that shows commands or Python; a slow one with its mark."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        marks = [pytest.mark.slow] if SLOW.search(text) else []
        if list(blocks(text)):
            found.append(pytest.param(path, id=tree.name(path), marks=marks))
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", pages())
def test_what_a_page_shows_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if tree.name(path) == walk.GUIDES[0] and (tree.ROOT / ".git").exists():
        pytest.skip("tests/test_walk.py runs this page, from a clone")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("leanconv.experiment.compare.LATENCY_SECONDS", 0.1)
    if path.stem == "checkpoint":
        files_of_a_user()
    names: dict[str, Any] = {"__name__": "a_page"}
    for language, code, flags in blocks(path.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(code, path.name, "exec"), names)
            continue
        for words in commands(code):
            more = flags_for(words, flags)
            if words[0] == LAUNCHER:
                launched([*words[1:], *more])
                continue
            with pytest.raises(SystemExit) as end:
                main([*words, *more])
            assert not end.value.code, f"leanconv {shlex.join([*words, *more])} ended with {end.value.code}"


def launched(words: list[str]) -> None:
    """Run a command of torchrun with the `leanconv` of this tree."""
    paths = {"PYTHONPATH": str(tree.ROOT), "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    start = [sys.executable, "-m", "torch.distributed.run"]
    done = subprocess.run([*start, *words], env=os.environ | paths, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_pages_are_found() -> None:
    """All guides but one, whose example is tested with CONTRIBUTING.md, and few of them slow."""
    found = [page.id for page in pages()]
    assert {tree.name(path) for path in PAGES} - {*found} == {"docs/guides/operator.md"}
    assert sum(bool(page.marks) for page in pages()) <= 2


def test_a_block_that_fails_fails_the_test() -> None:
    text = "<!-- test: --epochs 1 | train -->\n```console\n$ leanconv train x \\\n    --out a  # why\n```\n"
    ((language, code, flags),) = blocks(text)
    assert (language, commands(code), flags) == (
        "console",
        [["train", "x", "--out", "a"]],
        {"train": ["--epochs", "1"]},
    )
    torchrun = ["torchrun", "--nproc-per-node", "2", "--no-python", "leanconv", "train", "x"]
    assert commands(f"$ {' '.join(torchrun)}\n") == [torchrun] and flags_for(torchrun, flags) == ["--epochs", "1"]
    for other in ("rm -r x", "torchrun --no-python rm x"):
        with pytest.raises(AssertionError, match="own commands only"):
            commands(f"$ {other}\n")
