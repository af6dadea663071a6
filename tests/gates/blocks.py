"""Tables in the documents that are rendered from files in results/.

    <!-- results: FILE.json#table -->
    ...
    <!-- /results -->

`#table` may be left out and is `main` then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

OPENING = re.compile(r"<!-- results: (?P<file>[^\s#]+\.json)(?:#(?P<table>\w+))? -->")
CLOSING = "<!-- /results -->"
BLOCK = re.compile(f"({OPENING.pattern})\n(.*?)({CLOSING})", re.DOTALL)
MARK = re.compile(r"<!--\s*/?results\b")

Render = Callable[[Path, str], str]


def rendered(text: str, folder: Path, render: Render) -> str:
    """`text` with every block rendered anew from the files in `folder`.

    Raises:
        ValueError: a mark that opens or closes no block.
        FileNotFoundError: a block names a file that is not there.
    """

    def block(match: re.Match[str]) -> str:
        path = folder / match["file"]
        if not path.is_file():
            raise FileNotFoundError(f"a block names results/{match['file']}, which is not there")
        if MARK.search(match[4]):
            raise ValueError(f"the block of {match['file']} is not closed by {CLOSING}")
        return f"{match[1]}\n{render(path, match['table'] or 'main').strip()}\n{match[5]}"

    result, blocks = BLOCK.subn(block, text)
    marks = len(MARK.findall(text))
    if marks != 2 * blocks:
        raise ValueError(f"{marks} marks make {blocks} blocks; a block is <!-- results: FILE.json --> to {CLOSING}")
    return result
