"""The prose of the repository: what a reader reads in documents, docstrings, comments and messages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

# Words and phrases that a non-native reader must read twice, with the plain words for them. None has another use here.
RIDDLES: dict[str, str] = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bthe losers\b": "the slower ones",
    r"\bwhat is said\b": "what the text says",
    r"\b(is|are) said\b": "the text says, is stated",
    r"\bas it was\b": "unchanged",
    r"\bof before\b": "before",
    r"\bstands? (in|once|beside|behind|again|on)\b": "is, occurs, follows",
    r"\bstands? in for\b": "replaces",
    r"\bheld against\b": "compared with",
    r"\bholds? .{1,60} against\b": "compares with",
    r"\breckon(s|ed|ing)?\b": "count, calculate",
    r"\b(a|by a) slip\b": "a mistake, a misprint",
    r"\bput in on purpose\b": "deliberate",
    r"\bwithout a word\b": "silently",
    r"\bgo(es)? on\b": "continues",
    r"\bwhoever\b": "the code that, the author who",
    r"\bnobody can tell\b": "it is not known",
    r"\bbecomes? of\b": "happens to",
    r"\bturns? out to\b": "is",
    r"\bits like\b": "and similar",
    r"\btheir kind\b": "and similar",
    r"\bbut for\b": "except",
    r"\b(has|have) not\b(?! )": "does not have",
    r"\bthe (former|latter)\b": "name the thing again",
    r"\bthose that there are\b": "the existing ones",
    r"\b(could|can)(not| not)? be had\b": "could not be loaded",
    r"\bto be had\b": "available",
    r"\b(of|in) whatever\b": "any",
    r"\bso many\b(?! that)": "name the number",
    r"\bspoil(s|t|ed)?\b": "broken",
    r"\bis called so\b": "has this name",
    r"\bmade so\b": "built with",
    r"\btaken for\b": "confused with",
    r"\bnone of its own\b": "no ... of its own",
    r"\bthe one before\b": "name the thing again",
    r"\bpassed over\b": "skipped",
}
PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in RIDDLES), re.IGNORECASE)


def riddles(text: str) -> list[str]:
    """The riddles in a text, each with some words around it."""
    flat = " ".join(text.split())
    return [flat[max(0, match.start() - 30) : match.end() + 30] for match in PATTERN.finditer(flat)]


def advice(found: str) -> str:
    """The plain words for the riddle in `found`."""
    return next((words for pattern, words in RIDDLES.items() if re.search(pattern, found, re.IGNORECASE)), "")


def of_document(path: Path) -> str:
    """The prose of a Markdown file: without code and without tables."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def of_source(path: Path) -> list[str]:
    """The prose of a Python file: docstrings, comments, and the texts of messages."""
    source = path.read_text(encoding="utf-8")
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    return [*texts, "\n".join(comments)]
