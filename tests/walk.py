"""A stranger's walk: README and two guides, from a fresh clone, with the seconds of each step.

``python -m tests.walk`` runs each command in a process of its own, as a person types it. With ``--install`` the clone is first
installed into an environment of its own, whose `leanconv` runs the commands. With ``--together`` all run in one process, as in
the tests. ``-o FILE`` writes the steps as a results file. The sizes are small: the walk shows that the way is open, not how
good a network becomes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from tests.gates import small, tree
from tests.gates.reader import HAS
from tests.gates.shown import Block, blocks

GUIDES = ("docs/guides/checkpoint.md", "docs/guides/module.md")
PAGES = ("README.md", *GUIDES)
Step = dict[str, Any]


def walked(page: str, shown: list[Block]) -> list[Block]:
    """The blocks of a page that the walk runs: of README, the way from a trained network to a lean ONNX file."""
    return shown[1:3] if page == "README.md" else shown if page in GUIDES else []


def walk(clone: Path, run: Callable[[list[str]], None], python: Callable[[str], None]) -> list[Step]:
    """The steps in the working folder, by the texts of `clone`.

    Args:
        clone: a clone of the repository.
        run: runs a command, given its words without `leanconv`.
        python: runs the Python lines of a page.
    """
    steps: list[Step] = []

    def step(page: str, what: str, action: Callable[[], None]) -> None:
        start = time.perf_counter()
        action()
        steps.append({"page": page, "step": what, "seconds": round(time.perf_counter() - start, 2)})
        print(f"{steps[-1]['seconds']:8.1f} s  {page}: {what}", file=sys.stderr, flush=True)

    for name in ("photos", "my.pth", "names.txt"):
        HAS[name](Path(name))
    for page in PAGES:
        shown = blocks((clone / page).read_text(encoding="utf-8"))
        lines = ""
        for block in walked(page, shown):
            if block.language == "python":
                lines += block.small  # the blocks of a page are one program
                continue
            for words in block.commands():
                step(page, shlex.join(["leanconv", *words]), lambda words=words: run(words))
        if lines:
            step(page, "its Python lines", lambda lines=lines: python(lines))
    return steps


def in_processes(clone: Path, interpreter: str) -> tuple[Callable[[list[str]], None], Callable[[str], None]]:
    """Commands and lines run in processes of their own, with the leanconv of the clone."""
    environment = {**os.environ, "PYTHONPATH": str(clone)}

    def run(words: list[str]) -> None:
        subprocess.run([interpreter, "-m", "leanconv", *words], env=environment, check=True, stdout=subprocess.DEVNULL)

    def python(lines: str) -> None:
        Path("lines.py").write_text(f"from tests.gates import small\n\nsmall.replace()\n{lines}", encoding="utf-8")
        subprocess.run([interpreter, "lines.py"], env=environment, check=True, stdout=subprocess.DEVNULL)

    return run, python


def in_this_process() -> tuple[Callable[[list[str]], None], Callable[[str], None]]:
    """Commands and lines run here."""
    from leanconv.cli import main as leanconv

    small.replace()

    def run(words: list[str]) -> None:
        try:
            leanconv(words)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"leanconv {shlex.join(words)} ended with {end.code}") from None

    def python(lines: str) -> None:
        exec(compile(lines, "lines.py", "exec"), {"__name__": "lines"})

    return run, python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--together", action="store_true", help="run all in one process")
    how.add_argument("--install", action="store_true", help="install the clone first, with `make install`")
    parser.add_argument("-o", "--out", type=Path, help="write the steps to this file")
    asked = parser.parse_args()
    out, interpreter = asked.out.resolve() if asked.out else None, sys.executable
    with tempfile.TemporaryDirectory() as folder:
        clone, work = Path(folder, "leanconv"), Path(folder, "work")
        start = time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", tree.ROOT.as_uri(), clone], check=True)
        steps = [{"page": "", "step": "git clone", "seconds": round(time.perf_counter() - start, 2)}]
        if asked.install:
            start = time.perf_counter()
            subprocess.run(["make", "install"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
            steps.append({"page": "", "step": "make install", "seconds": round(time.perf_counter() - start, 2)})
            interpreter = str(clone / ".venv" / "bin" / "python")
        work.mkdir()
        os.chdir(work)
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        if asked.together:
            sys.path.insert(0, str(clone))
        steps += walk(clone, *(in_this_process() if asked.together else in_processes(clone, interpreter)))
        os.chdir(tree.ROOT)
    if out is not None:
        head = provenance("python -m tests.walk" + " --install" * asked.install)
        settings = {"pages": list(PAGES), "install": asked.install}
        write_json(out, {**head, "kind": "walk", "settings": settings, "n": 1, "seeds": [0], "rows": steps})


if __name__ == "__main__":
    main()
