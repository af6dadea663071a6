"""The repository as the gates see it."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "leanconv"
RESULTS = ROOT / "results"
# Each package may import those before it, and itself.
ORDER = (
    "core",
    "ops",
    "conversion",
    "models",
    "files",
    "data",
    "train",
    "timing",
    "report",
    "inference",
    "deploy",
    "testing",
    "search",
    "analyse",
    "experiment",
    "budget",
    "detect",
    "papers",
    "cli",
)


@functools.cache
def _listed() -> tuple[Path, ...]:
    """What `files` chooses from, listed once in a process."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        made = ("runs", "data", "build", "dist")
        tops = [p for p in ROOT.iterdir() if p.name == ".ci" or (not p.name.startswith(".") and p.name not in made)]
        found = [p for top in tops for p in (top.rglob("*") if top.is_dir() else [top]) if "__pycache__" not in p.parts]
    return tuple(sorted(path for path in found if path.is_file()))


def files(pattern: str = "*") -> list[Path]:
    """The files that are tracked, or would be after `git add`; without git, all outside hidden and made folders."""
    return [path for path in _listed() if path.match(pattern)]


def sources(pattern: str = "*.py") -> list[Path]:
    """The files of the package."""
    return [path for path in files(pattern) if path.is_relative_to(PACKAGE)]


def results() -> list[Path]:
    """The committed measurements."""
    return [path for path in files("*.json") if path.parent == RESULTS and path.name != "schema.json"]


def figure(path: Path, name: str) -> Path:
    """Where a figure of a results file stands: without the date, so that a document need not follow."""
    return ROOT / "docs" / "figures" / f"{re.sub(r'-20[0-9-]+$', '', path.stem)}-{name}.svg"


def name(path: Path) -> str:
    """The path as a message shows it."""
    return path.relative_to(ROOT).as_posix()
