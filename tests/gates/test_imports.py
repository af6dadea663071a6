"""Packages import only those before them, no modules import each other, and importing leanconv is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.gates import tree

FREE = ("__file__", "__path__")  # what a module may take from `leanconv` itself
HEAVY = ("lightning", "matplotlib", "pyarrow", "sklearn", "timm", "torchvision", "pandas")


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that `source` imports, anywhere in it; `module` is the package it lies in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level + 1 or None] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("leanconv", "lc"):
            yield node.lineno, f"leanconv.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from ((node.lineno, str(name)) for name in names)


def violations(source: str, module: str) -> list[str]:
    """Imports that go forward in tree.ORDER; `module` is the dotted package that holds the source."""
    own = module.split(".")[1]
    found = []
    for line, target in imported(source, module):
        parts = target.split(".")
        if parts[0] != "leanconv" or len(parts) == 1 or parts[1] in FREE:
            continue
        if parts[1] not in tree.ORDER:
            found.append(f"line {line}: {target}: import it from its own module, not through leanconv")
        elif tree.ORDER.index(parts[1]) > tree.ORDER.index(own):
            found.append(f"line {line}: {own} may not import {parts[1]} ({target})")
    return found


def test_every_package_has_its_place():
    packages = {path.relative_to(tree.PACKAGE).parts[0] for path in tree.sources("*.py") if path.parent != tree.PACKAGE}
    assert packages <= {*tree.ORDER}, f"{packages - {*tree.ORDER}}: add it to ORDER in tests/gates/tree.py"
    modules = {path.name for path in tree.sources() if path.parent == tree.PACKAGE}
    assert modules <= {"__init__.py", "__main__.py"}, "a module belongs in a package"


@pytest.mark.parametrize("path", [p for p in tree.sources() if p.parent != tree.PACKAGE], ids=tree.name)
def test_imports_go_backwards(path: Path):
    module = ".".join(path.parent.relative_to(tree.ROOT).parts)
    found = violations(path.read_text(encoding="utf-8"), module)
    assert not found, f"{tree.name(path)}: {'; '.join(found)}"


PROGRAMS = [path for path in tree.files("*.py") if path.relative_to(tree.ROOT).parts[0] in ("benchmarks", "examples")]


@pytest.mark.parametrize("path", PROGRAMS, ids=tree.name)
def test_programs_use_the_library_and_not_the_command_line(path: Path):
    found = [target for _, target in imported(path.read_text(encoding="utf-8"), "benchmarks")]
    assert not [target for target in found if target.startswith("leanconv.cli")], "take it from the library"


@pytest.mark.parametrize(
    "source",
    [
        "from leanconv.data import open_data",
        "import leanconv.data.loader",
        "from leanconv import data",
        "from leanconv import plan",
        "def f():\n    from ..data import open_data",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from leanconv.cli.app import app",
        "from .. import train",
        "import leanconv\nleanconv.plan",
        "import leanconv as lc\nlc.convert(1)",
        "import importlib\nimportlib.import_module('leanconv.report')",
    ],
)
def test_the_gate_sees_imports_that_go_forward(source: str):
    assert violations(source, "leanconv.models")


@pytest.mark.parametrize(
    "source",
    [
        "from leanconv.core.spec import ConvSpec",
        "from .layers import x",
        "from ..core import spec",
        "from leanconv.core.version import __version__",
        "import leanconv\nleanconv.__file__",
        "import torch.data",
    ],
)
def test_the_gate_passes_imports_that_go_backwards(source: str):
    assert not violations(source, "leanconv.models")


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> the modules it imports, anywhere in it and for types only too.

    A name that a package only hands on counts as an import of the module where it lives. A package that imports every file
    of its folder (`iter_modules`) has an edge to each of them.

    Args:
        sources: text by dotted name; a package has that of its ``__init__``.
    """
    packages = {_parent(name) for name in sources} & sources.keys()
    targets = {
        name: {target for _, target in imported(text, name if name in packages else _parent(name))}
        for name, text in sources.items()
    }

    def home(target: str) -> str:
        module = target
        while module and module not in sources:
            module = _parent(module)
        name = target.removeprefix(module)
        handed_on = [other for other in targets[module] if other.endswith(name)] if name and module in packages else []
        return home(handed_on[0]) if handed_on and handed_on[0] != target else module

    edges = {name: {home(target) for target in found} for name, found in targets.items()}
    for name in packages:
        if "iter_modules" in sources[name]:
            edges[name] |= {other for other in sources if _parent(other) == name}
    return {name: found & sources.keys() - {name} for name, found in edges.items()}


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def reached(edges: Mapping[str, set[str]], start: str) -> set[str]:
    """What `start` imports, directly and through others; itself too where it stands in a circle."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def circles(edges: Mapping[str, set[str]]) -> set[tuple[str, ...]]:
    """The sets of modules of which each imports each other, directly or through others."""
    below = {name: reached(edges, name) for name in edges}
    return {
        tuple(sorted(other for other in below[name] if name in below[other])) for name in edges if name in below[name]
    }


def modules() -> dict[str, str]:
    """The modules of the package by dotted name; not `leanconv` itself, of which they take only `FREE`."""
    found = {}
    for path in tree.sources():
        name = ".".join(path.relative_to(tree.ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path.read_text(encoding="utf-8")
    del found["leanconv"]
    return found


def test_no_modules_import_each_other():
    found = circles(graph(modules()))
    assert not found, "move what both need into a module of its own, or pass it as an argument"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from p.b import x", "from p.a import y"),
        ("import p.b", "def f():\n    from .a import y"),
        ("from p import b", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import y"),
        ("from p import x", "import importlib\nimportlib.import_module('p.a')"),
        ("from p.c import z", "from p import a"),
    ],
)
def test_the_gate_sees_circles(first: str, second: str):
    sources = {"p": "from p.b import x", "p.a": first, "p.b": second, "p.c": "from p.b import x"}
    found = {"p.a", "p.b"} | ({"p.c"} if "p.c" in first else set())
    assert circles(graph(sources)) == {tuple(sorted(found))}


def test_the_gate_sees_a_file_that_imports_the_package_that_imports_every_file():
    sources = {"p": "from pkgutil import iter_modules", "p.a": "from p import x", "p.b": ""}
    assert circles(graph(sources)) == {("p", "p.a")}


def test_the_gate_passes_what_a_package_only_hands_on():
    sources = {"p": "from p.a import x\nfrom p.b import y", "p.a": "from p import y", "p.b": "import q"}
    assert graph(sources) == {"p": {"p.a", "p.b"}, "p.a": {"p.b"}, "p.b": set()}
    assert circles(graph(sources)) == set()


NAMES_NO_OPERATOR = (
    "conversion",
    "files",
    "train",
    "timing",
    "inference",
    "deploy",
    "testing",
    "search",
    "analyse",
    "papers",
)
OPS = ("leanconv.ops", "leanconv.ops.METHODS", "leanconv.ops.find_method", "leanconv.ops.list_methods")


def operators_named(source: str, module: str) -> list[str]:
    """What `source` imports of `leanconv.ops` beside the lookup of methods, and the methods that it looks up by a fixed name."""
    found = {target for _, target in imported(source, module) if f"{target}.".startswith("leanconv.ops.")}
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name == "find_method" and isinstance(call.args[0], ast.Constant):
            found.add(str(call.args[0].value))
    return sorted(found - {*OPS})


WORKS_ON_OPERATORS = [p for p in tree.sources() if p.relative_to(tree.PACKAGE).parts[0] in NAMES_NO_OPERATOR]


@pytest.mark.parametrize("path", WORKS_ON_OPERATORS, ids=tree.name)
def test_no_operator_is_named(path: Path):
    """An operator answers for itself: a package that works on operators knows none of them."""
    named = operators_named(path.read_text(encoding="utf-8"), ".".join(path.parent.relative_to(tree.ROOT).parts))
    assert not named, f"{tree.name(path)} names {named}: let the operator answer, by a hook on Method or ConvOp"


def test_the_gate_sees_operators():
    assert operators_named("from leanconv.ops.split import SplitConv2d", "leanconv.files") == [
        "leanconv.ops.split.SplitConv2d"
    ]
    assert operators_named("from leanconv.ops import TiedBlock", "leanconv.files") == ["leanconv.ops.TiedBlock"]
    assert operators_named('registry.find_method("split")()', "leanconv.files") == ["split"]
    assert operators_named("find_method(name)()", "leanconv.files") == []
    assert operators_named("from leanconv import ops\nimport leanconv.ops", "leanconv.files") == []


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import leanconv", HEAVY),
        ("import leanconv as lc; [getattr(lc, name) for name in lc.__all__]", ("lightning", "matplotlib", "sklearn")),
        ("from leanconv.cli import main; main(['--help'])", ("torch", *HEAVY)),
        ("from leanconv.cli import main; main(['compare', '--help'])", ("torch", *HEAVY)),
    ],
    ids=["import", "all names", "help", "compare help"],
)
def test_starting_is_quick(code: str, heavy: tuple[str, ...]):
    script = f"import atexit, sys\natexit.register(lambda: print('loaded:', *sys.modules, file=sys.stderr))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tree.ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    loaded = {module for line in done.stderr.splitlines() if line.startswith("loaded:") for module in line.split()}
    assert "leanconv" in loaded and not loaded & {*heavy}, f"loads {sorted(loaded & {*heavy})}"
