"""Methods found by name: the classes that registered themselves, and those that installed packages announce.

A package announces a method by an entry point of the group ``leanconv.methods``; in its pyproject.toml::

    [project.entry-points."leanconv.methods"]
    block_circulant = "my_package.circulant:BlockCirculant"

leanconv imports such a package when an unknown name is looked up, or when all methods are listed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from leanconv.core.calls import close_to
from leanconv.core.errors import FileError, LeanconvWarning, SettingError, first_line
from leanconv.core.method import Method, class_path, registered

GROUP = "leanconv.methods"
OURS = "leanconv"
_loaded: list[str] = []  # the announced names, once their packages were imported


def find_method(name: str) -> type[Method]:
    """The class of the method with this name in files and on the command line.

    >>> import leanconv.ops  # registers leanconv's methods
    >>> find_method("tied_block")
    <class 'leanconv.ops.tied_block.TiedBlock'>

    Raises:
        SettingError: no method of leanconv, of an imported package or of a package that announces methods has this name.
    """
    if name not in registered:
        _load_announced()
    if name not in registered:
        names = list_methods()
        raise SettingError(f"unknown method {name!r}{close_to(name, names)}; there are {', '.join(names)}")
    return registered[name]


def list_methods() -> list[str]:
    """The names of all methods: first leanconv's methods, then the methods of other packages, each in alphabetical order.

    >>> import leanconv.ops  # registers leanconv's methods
    >>> list_methods()[:3]
    ['depth_shared', 'filter_summary', 'ghost']
    """
    return [kind.name for kind in all_methods()]


def all_methods() -> tuple[type[Method], ...]:
    """The classes of all methods, in the order of `list_methods`."""
    _load_announced()
    return tuple(sorted(registered.values(), key=lambda kind: (_top(kind.__module__) != OURS, kind.name)))


def _load_announced() -> None:
    """Import the announced methods of installed packages, once; warn if a package cannot be imported."""
    if _loaded:
        return
    points = metadata.entry_points(group=GROUP)
    _loaded.extend(["", *points.names])
    for point in points:
        package = f"the package {point.dist.name}" if point.dist else "a package"
        try:
            point.load()
        except Exception as error:  # an import may raise any exception
            _forget(point.module)
            warnings.warn(
                f"{package} announces the method {point.name!r}, and {point.value} cannot be imported "
                f"({type(error).__name__}: {first_line(error)}); fix or update that package, or uninstall it",
                LeanconvWarning,
                stacklevel=3,
            )
        else:
            if point.name not in registered:
                warnings.warn(
                    f"{package} announces the method {point.name!r}, and {point.value} {_why_not(point.load())}",
                    LeanconvWarning,
                    stacklevel=3,
                )


def _forget(module: str) -> None:
    """Remove the methods of a module whose import failed: their classes may be incomplete."""
    if module not in sys.modules:
        for name in [name for name, kind in registered.items() if kind.__module__ == module]:
            del registered[name]


def _why_not(found: Any) -> str:
    """Why the object of an entry point is not a method with the name of the entry point."""
    lacks = sorted(getattr(found, "__abstractmethods__", ()))
    if lacks:
        return f"is no method as long as it lacks {', '.join(lacks)}; define {'it' if len(lacks) == 1 else 'them'} in the class"
    return (
        "defines no method of that name; the entry point must have the name of the method, the snake case of its class"
    )


def source_of(kind: type[Method]) -> dict[str, Any]:
    """The module of a method's class, for a file; for other packages than leanconv also their name and version."""
    package = _package(_top(kind.__module__))
    return {"module": kind.__module__, **({} if package is None else {"package": dict(package)})}


def _top(module: str) -> str:
    return module.partition(".")[0]


@cache
def _package(top: str) -> tuple[tuple[str, str], ...] | None:
    """Name and version of the installed package with this top-level module; None without such a package."""
    if top in (OURS, "__main__"):
        return None
    announced = [p.dist for p in metadata.entry_points(group=GROUP) if _top(p.module) == top and p.dist]
    if announced:
        return (("name", announced[0].name), ("version", announced[0].version))
    names = metadata.packages_distributions().get(top)
    return None if not names else (("name", names[0]), ("version", metadata.version(names[0])))


def method_in_file(value: Mapping[str, Any]) -> type[Method]:
    """The class of the method that a file names by ``method``, ``module`` and ``package``.

    leanconv never imports a module because a file names it. The class must be registered, or an installed package must
    announce it.

    Raises:
        FileError: the class is not known; the error says what to import or to install.
    """
    name, module = str(value["method"]), str(value.get("module", OURS))  # older files have leanconv's own alone
    if name not in registered:
        _load_announced()
    kind = registered.get(name)
    if kind is None:
        raise FileError(f"the method {name!r} is not known here; {_way_out(module, value.get('package'))}")
    found = kind.__module__
    if _top(found) != _top(module) and "__main__" not in (found, module):
        warnings.warn(
            f"{name!r} was {module}'s when the file was saved, and here it is {found}'s: load the file where that package, and "
            "not this one, is installed, unless the class has only moved",
            LeanconvWarning,
            stacklevel=2,
        )
    return kind


def _way_out(module: str, package: Any) -> str:
    if module == "__main__":
        return "it was defined in a notebook or a script: define the same class again, then load"
    if isinstance(package, dict) and package.get("name"):
        named = f"{package['name']} {package.get('version', '')}".strip()
        return f"it comes from the package {named}: pip install {package['name']}, and import {module} before you load"
    if _top(module) == OURS:
        return f"install a newer leanconv, or import the module that defines it; there are {', '.join(list_methods())}"
    return f"it was defined in the module {module!r}: import that first, then load"


def check_loadable(kind: type[Method]) -> None:
    """Raise an error if a file with this method could not be loaded again; warn if only this program could load it.

    Raises:
        SettingError: another class has the name of the method.
    """
    known = registered.get(kind.name)
    if known is None or class_path(known) != class_path(kind):
        raise SettingError(
            f"{class_path(kind)} is not the method that is registered as {kind.name!r}, so that a file of it could not be "
            "loaded; define the class again, or convert the network anew"
        )
    module = sys.modules.get(kind.__module__)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__ or getattr(module, "__spec__", None) is None:
        where = (
            "in a function" if "<locals>" in kind.__qualname__ else "in a notebook, a script or text that was executed"
        )
        warnings.warn(
            f"{kind.__qualname__} is defined {where}: the file loads only where the class is defined, and no other program can "
            "import it; move it into a module",
            LeanconvWarning,
            stacklevel=3,
        )
