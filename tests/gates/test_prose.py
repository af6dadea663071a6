"""Documents, docstrings, comments and messages use plain words: none of the riddles in `tests/gates/prose.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gates import prose, tree

DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "results/README.md",
    "docs/*.md",
    "docs/*/*.md",
)
SOURCES = [
    path
    for path in tree.files("*.py")
    if path.is_relative_to(tree.PACKAGE) or path.is_relative_to(tree.ROOT / "benchmarks")
]
TEXTS = sorted({path for pattern in DOCUMENTS for path in tree.ROOT.glob(pattern)})


def explained(found: list[str]) -> str:
    return "\n".join(f"...{text}... -> {prose.advice(text)}" for text in found)


@pytest.mark.parametrize("path", TEXTS, ids=tree.name)
def test_documents_have_no_riddles(path: Path) -> None:
    text = prose.of_document(path)
    if path.name == "CONTRIBUTING.md":  # which shows bad examples, each on a line of its own
        text = "\n".join(line for line in text.splitlines() if not line.startswith("- Not:"))
    found = prose.riddles(text)
    assert not found, explained(found)


@pytest.mark.parametrize("path", SOURCES, ids=tree.name)
def test_sources_have_no_riddles(path: Path) -> None:
    found = [riddle for text in prose.of_source(path) for riddle in prose.riddles(text)]
    assert not found, explained(found)


def test_the_gate_reads_documents_and_sources(tmp_path: Path) -> None:
    """A riddle in a sentence, a docstring, a comment and a message is found; in code and tables it is not."""
    document = tmp_path / "a.md"
    document.write_text("Mend it.\n\n| mend | it |\n\n```console\n$ mend it\n```\n")
    assert prose.riddles(prose.of_document(document)) == ["Mend it."]
    source = tmp_path / "a.py"
    source.write_text('"""It stands in x."""\nmend = 1  # goes on\nraise ValueError(f"{mend}: mend it")\n')
    found = [riddle for text in prose.of_source(source) for riddle in prose.riddles(text)]
    assert len(found) == 3
    assert prose.advice(found[0]) == "is, occurs, follows"
