"""The public names and the command line change only on purpose."""

from __future__ import annotations

import ast

import leanconv
from tests.gates import cli_reference, drawings, surface, tree

UPDATE = "if the change is meant, run `python -m tests.gates.update` and say it in CHANGELOG.md"


def test_public_names_are_those_written_down():
    assert surface.public_names() == surface.NAMES.read_text(encoding="utf-8"), UPDATE


def test_cli_flags_are_those_written_down():
    assert surface.cli_flags() == surface.FLAGS.read_text(encoding="utf-8"), UPDATE


def test_the_reference_of_the_command_line_is_that_of_the_commands():
    assert cli_reference.PATH.read_text(encoding="utf-8") == cli_reference.cli_reference(), UPDATE


def test_the_figures_of_the_concepts_are_those_of_the_plans():
    for name, text in drawings.figures().items():
        assert (tree.ROOT / "docs" / "figures" / f"{name}.svg").read_text(encoding="utf-8") == text, UPDATE


def test_every_public_name_exists():
    assert all(getattr(leanconv, name) is not None for name in leanconv.__all__)
    assert len({*leanconv.__all__}) == len(leanconv.__all__)


def test_type_checkers_see_the_same_names():
    top = ast.parse((tree.PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in top.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname or alias.name for node in imports for alias in node.names}
    assert seen <= {*leanconv.__all__}
    assert {*leanconv.__all__} - seen <= {*leanconv.ops.__all__}  # a further operator needs no line there


def test_no_public_name_is_a_package():
    packages = {*tree.ORDER} | {path.parent.name for path in tree.sources("__init__.py")}
    assert not packages & {*leanconv.__all__}
