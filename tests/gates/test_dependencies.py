"""Each dependency is used, each import is declared, and whoever is told to install an extra gets the package."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from leanconv.models.doctor import ADDS, FOR_DEVELOPERS, NEEDED, missing_extras
from leanconv.timing.runtimes import PACKAGES
from leanconv.train.loggers import NEEDS
from tests.gates import tree

PROJECT = tomllib.loads((tree.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Used through another package, which imports it when asked to.
INDIRECT = {
    "onnxscript": "torch.onnx.export writes with it",
    "tensorboard": "Lightning's TensorBoardLogger writes with it",
}
WITH_TORCH = {"triton"}  # comes with torch where it is built for CUDA, and is looked for before it is imported


def names(requirements: list[str]) -> set[str]:
    """The packages; an extra of leanconv's own is its packages."""
    found: set[str] = set()
    for requirement in map(Requirement, requirements):
        if normal(requirement.name) == "leanconv":
            found |= names([text for extra in requirement.extras for text in PROJECT["optional-dependencies"][extra]])
        else:
            found.add(normal(requirement.name))
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


CORE = names(PROJECT["dependencies"])
EXTRAS = {name: names(found) for name, found in PROJECT["optional-dependencies"].items() if name not in FOR_DEVELOPERS}
DECLARED = CORE.union(*EXTRAS.values())


def imported() -> dict[str, set[Path]]:
    """The top-level modules that leanconv imports, wherever it does, with the files that do."""
    found: dict[str, set[Path]] = {}
    for path in tree.sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            for module in modules:
                found.setdefault(module.partition(".")[0], set()).add(path)
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names and name != "leanconv"}


def packages() -> dict[str, set[Path]]:
    """The packages that are imported, by the name under which they are installed."""
    known = importlib.metadata.packages_distributions()
    return {normal(known.get(module, [module])[0]): files for module, files in imported().items()}


def test_each_import_is_declared() -> None:
    undeclared = {
        package: sorted(map(tree.name, files)) for package, files in packages().items() if package not in DECLARED
    }
    assert set(undeclared) <= WITH_TORCH, undeclared


def test_each_dependency_is_used() -> None:
    assert DECLARED - set(packages()) == set(INDIRECT)
    text = "".join(path.read_text(encoding="utf-8") for path in tree.sources())
    assert all(f'"{package}"' in text for package in INDIRECT)


def test_what_an_extra_holds_is_imported_where_it_is_needed_only() -> None:
    """A module that needs an extra must not be imported at the top of a file, or `import leanconv.x` fails without it."""
    optional = set().union(*EXTRAS.values()) - CORE
    top = {
        alias
        for path in tree.sources()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names])
        if alias and alias.partition(".")[0] in optional
    }
    assert top == set()


def test_advice_names_an_extra_that_exists() -> None:
    advised = {
        (tree.name(path), name)
        for path in tree.files("*")
        if path.suffix in (".py", ".md", ".toml", ".html", ".j2") and "CHANGELOG" not in path.name
        for found in re.findall(r"leanconv\[([a-z0-9, ]+)\]", path.read_text(encoding="utf-8"))
        for name in re.split(r"[, ]+", found)
    }
    assert {name for _, name in advised} >= {"onnx", "openvino", "coco", "tensorboard"}
    assert [place for place in advised if place[1] not in {*EXTRAS, *FOR_DEVELOPERS}] == []


def test_an_extra_holds_the_packages_it_is_advised_for() -> None:
    from leanconv.deploy.formats import FORMATS

    advised = {(package, name) for name, package in NEEDS.items() if package}
    advised |= {(package, extra) for needed, extra in PACKAGES.values() for package in needed.split(" and ")}
    advised |= {(package, name) for name, kind in FORMATS.items() for package in kind.packages}
    assert len(advised) > 5
    assert [(package, extra) for package, extra in advised if package not in EXTRAS[extra]] == []


def test_doctor_asks_for_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanconv.models.doctor._version", lambda package: None)
    requires = [
        f'{text}; extra == "{extra}"' for extra, found in PROJECT["optional-dependencies"].items() for text in found
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: PROJECT["dependencies"] + requires)
    assert {extra: set(found) for extra, found in missing_extras().items()} == EXTRAS
    assert set(ADDS) == set(EXTRAS)
    known = importlib.metadata.packages_distributions()
    assert {normal(known[module][0]) for module in NEEDED} <= CORE


def test_doctor_names_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanconv.models.doctor._version", lambda package: "1.2")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ['onnx>=1.18; extra == "onnx"'])
    assert missing_extras() == {"onnx": ["onnx>=1.18 instead of 1.2"]}
