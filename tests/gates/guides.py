"""The blocks of "Getting started" and of the guides, and what a user of them has: photos and a checkpoint.

Two comments may precede a block, and a reader does not see them. `<!-- test: FLAGS | VERB -->` adds flags to a command, so that
it takes seconds. `<!-- slow: REASON -->` lets the page run with `-m slow` only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.gates import tree

LAUNCHER = "torchrun"
PAGES = [tree.ROOT / "docs" / "start.md", *sorted((tree.ROOT / "docs" / "guides").glob("*.md"))]
BLOCK = re.compile(r"((?:^<!-- [^\n]+ -->\n)*)^```(console|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SLOW = re.compile(r"<!-- slow: (.+?) -->")
ADDED = re.compile(r"<!-- test: (.+?) \| (.+?) -->")


def blocks(text: str) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """(language, code, flags by verb) of each block that runs."""
    for comments, language, code in BLOCK.findall(text):
        yield language, code, {verb: shlex.split(flags) for flags, verb in ADDED.findall(comments)}


def commands(code: str) -> list[list[str]]:
    """The words of each command of a console block, without `leanconv`; a command of torchrun has all of its words."""
    lines = code.replace("\\\n", " ").splitlines()
    found = [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]
    own = [words[0] == "leanconv" or (words[0] == LAUNCHER and "leanconv" in words) for words in found]
    assert all(own), "a guide shows leanconv's own commands only"
    return [words[words[0] == "leanconv" :] for words in found]


def flags_for(words: list[str], flags: dict[str, list[str]]) -> list[str]:
    """The flags that are added to a command."""
    if words[0] == LAUNCHER:
        words = words[words.index("leanconv") + 1 :]
    return next((found for verb, found in flags.items() if words[: len(verb.split())] == verb.split()), [])


def files_of_a_user() -> None:
    """What the guides speak of: photos of three classes, a checkpoint of timm, the names of its classes."""
    import numpy as np
    import timm
    import torch
    from PIL import Image

    names, generator = ("ant", "bee", "cat"), np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for level, name in enumerate(names):
            folder = Path("photos", part, name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(60 * level, 60 * level + 100, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    Path("names.txt").write_text("\n".join(names) + "\n")
    torch.manual_seed(0)
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=3).state_dict()}, "my.pth")
