"""The blocks that the documents show, and how the tests run them.

Comments may precede a block; a reader does not see them:

- `<!-- test: FLAGS | VERB -->` adds flags to a command, beside those of `tests/gates/small.py`.
- `<!-- run by: FILE -->` names the test that runs the same commands or lines.
- `<!-- not run: REASON -->` says why no test runs the block.
- `<!-- slow: REASON -->` lets the page run with `-m slow` only.
"""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass

from tests.gates import small, tree

LAUNCHER = "torchrun"
PAGES = sorted([tree.ROOT / "README.md", tree.ROOT / "CONTRIBUTING.md", *(tree.ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"((?:^<!-- [^\n]+ -->\n)*)^```(console|python|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDED = re.compile(r"<!-- test: (.+?) \| (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A block of a document.

    Args:
        language: console, python or yaml.
        code: its text as a reader sees it.
        comments: the comments before it.
    """

    language: str
    code: str
    comments: str

    def said(self, what: str) -> str | None:
        """What a comment says: of `not run`, `run by` or `slow`."""
        found = re.search(f"<!-- {what}: (.+?) -->", self.comments)
        return None if found is None else found[1]

    @property
    def runs(self) -> bool:
        """Whether the tests of the documents run it."""
        return self.said("not run") is None and self.said("run by") is None

    @property
    def small(self) -> str:
        """Its text in the small sizes."""
        return small.text(self.code)

    def commands(self) -> list[list[str]]:
        """The words of each command that the tests run, as `commands` gives them, with the flags for small sizes."""
        if self.language == "yaml":
            return [["train", "--config", "config.yaml", "--out", "runs/config", *small.flags(["train"])]]
        flags = {verb: shlex.split(text) for text, verb in ADDED.findall(self.comments)}
        found = []
        for words in commands(self.small):
            asked = words[words.index("leanconv") + 1 :] if words[0] == LAUNCHER else words
            own = next((more for verb, more in flags.items() if asked[: len(verb.split())] == verb.split()), [])
            found.append([*words, *small.flags(asked), *own])
        return found


def blocks(text: str) -> list[Block]:
    """The blocks of a document."""
    return [Block(language, code, comments) for comments, language, code in BLOCK.findall(text)]


def commands(code: str) -> list[list[str]]:
    """The words of each command of a console block, without `leanconv`; a command of torchrun has all of its words."""
    lines = code.replace("\\\n", " ").splitlines()
    found = [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]
    own = [words[0] == "leanconv" or (words[0] == LAUNCHER and "leanconv" in words) for words in found]
    assert all(own), "the tests run leanconv's own commands only"
    return [words[words[0] == "leanconv" :] for words in found]


def read_paths(words: list[str]) -> list[str]:
    """The words of a command that may be paths which it reads: all except the value of --out.

    >>> read_paths(["eval", "runs/a", "--out", "runs/b"])
    ['eval', 'runs/a']
    """
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in ("--out", "-o")
    ]


def texts_of(code: str) -> list[str]:
    """The texts in Python lines, which may be paths."""
    return [
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def names_of(code: str) -> set[str]:
    """The names that Python lines use."""
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
