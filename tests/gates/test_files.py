"""Files stay short, and name no machine and no package registry."""

from __future__ import annotations

import ast
import re
from statistics import median

import pytest

from tests.gates import tree

LONGEST, LONGEST_VERB = 400, 100
LONGEST_FUNCTION, MEDIAN_FUNCTION = 60, 7  # lines, without the docstring
# Written so that no pattern matches its own text.
PLACES = {
    "an absolute path of a machine": re.compile(
        r"(?<![\w.~$}\]/-])/(?:work|home|root|Users|opt|mnt|srv|scratch|workspace)/[\w.]|\b[A-Z]:\\\\?Users\b"
    ),
    "a package registry": re.compile(
        r"\bpyp[i][.]org|pythonh[o]sted[.]org|download[.]pytorch[.]o[r]g|\bartifactory\b|(?<!\w)--(?:extra-)?index-url[= ]|"
        r"index-url\s*=\s*\S|:[/]{2}[^/\s\"']*\b(?:nexus|registry|mirrors?)\b",
        re.IGNORECASE,
    ),
}


def places(text: str) -> list[str]:
    """What `text` should not name, with its line."""
    return [
        f"line {number} names {what}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in PLACES.items()
        if pattern.search(line)
    ]


def test_no_file_is_long():
    lengths = {tree.name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in tree.files("*.py")}
    assert len(lengths) > 50, "the gate does not see the repository"
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST}
    assert not long, f"over {LONGEST} lines, split it by what it does: {long}"


def test_functions_are_short():
    found = {}
    for path in tree.sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                said = ast.get_docstring(node) is not None
                docstring = (first.end_lineno or 0) - first.lineno + 1 if said else 0
                lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
                found[f"{tree.name(path)}:{node.lineno} {node.name}"] = lines
    assert len(found) > 1000, "the gate does not see the package"
    long = {name: lines for name, lines in found.items() if lines > LONGEST_FUNCTION}
    assert not long, f"over {LONGEST_FUNCTION} lines, give its parts names: {long}"
    assert median(found.values()) <= MEDIAN_FUNCTION


def test_a_verb_parses_calls_and_prints():
    from leanconv.cli.app import VERBS
    from leanconv.cli.detect import DETECT_VERBS

    homes = {function.__module__ for function, _ in (*VERBS.values(), *DETECT_VERBS.values())}
    paths = [tree.ROOT / f"{home.replace('.', '/')}.py" for home in homes]
    long = {tree.name(path): lines for path in paths if (lines := len(path.read_text().splitlines())) > LONGEST_VERB}
    assert not long, f"over {LONGEST_VERB} lines, move what is library to its package: {long}"


def test_no_file_names_a_place():
    found = {}
    for path in tree.files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or an archive
        if text_places := places(text):
            found[tree.name(path)] = text_places
    assert not found


def parts(*texts: str) -> str:
    return "".join(texts)  # so that this file does not hold what it forbids


@pytest.mark.parametrize(
    "text",
    [
        parts("data: /", "home/me/cifar"),
        parts('open("/', 'work/x")'),
        parts("pip install --index", "-url x"),
        parts("https://pypi", ".org/simple"),
        parts("https://files.python", "hosted.org"),
        parts("url = https://nex", "us.example/repo"),
    ],
)
def test_the_gate_sees_places(text: str):
    assert places(text)


@pytest.mark.parametrize("text", ["runs/home/x", "/tmp/x", "#!/usr/bin/env bash", "https://arxiv.org/abs/1", "~/opt/a"])
def test_the_gate_passes_what_is_none(text: str):
    assert not places(text)


def test_every_package_folder_has_an_init():
    folders = {path.parent for path in tree.sources()}
    assert [tree.name(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
