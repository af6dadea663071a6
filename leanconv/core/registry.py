"""Which methods there are, by name: a class of `Method` registers itself, and installed packages announce theirs.

A package announces a method by an entry point of the group ``leanconv.methods``; in its pyproject.toml::

    [project.entry-points."leanconv.methods"]
    block_circulant = "my_package.circulant:BlockCirculant"

Such a package is imported when a name is asked for that is not known yet, or all names are.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from leanconv.core.errors import FileError, LeanconvWarning, SettingError, first_line

if TYPE_CHECKING:
    from leanconv.core.method import Method

GROUP = "leanconv.methods"
DENSE = "dense"  # what is no method: the convolution as it is
OURS = "leanconv"

_methods: dict[str, type[Method]] = {}
_loaded: list[str] = []  # the announced names, once their packages were imported


def register(kind: type[Method]) -> None:
    """Make a class known by its name; `Method` calls it for each subclass that is not abstract.

    A class that is defined again, in the same module under the same name, replaces the earlier one, as in a notebook.

    Raises:
        SettingError: another class has this name already, or it is no name.
    """
    name = kind.name
    if name == DENSE or not name.isidentifier():
        raise SettingError(f"{_path(kind)} cannot be called {name!r}; {_other_name('my_method')}")
    other = _methods.get(name)
    if other is not None and not _replaces(kind, other):
        raise SettingError(
            f"two methods are called {name!r}: {_path(other)} and {_path(kind)}; {_other_name('my_' + name)}"
        )
    _methods[name] = kind


def _replaces(kind: type[Method], other: type[Method]) -> bool:
    """Whether `kind` is `other`, defined again; a dataclass with slots is so too, and gets its full name only afterwards."""
    return kind.__module__ == other.__module__ and kind.__qualname__ in (other.__qualname__, other.__name__)


def _other_name(example: str) -> str:
    return f"rename the class, or give it another name in its body: name = {example!r}"


def _path(kind: type[Method]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def find_method(name: str) -> type[Method]:
    """The class of a method by its name in files and on the command line.

    >>> find_method("tied_block")
    <class 'leanconv.ops.tied_block.TiedBlock'>

    Raises:
        SettingError: no method has this name, in leanconv, in a package that was imported or in one that announces it.
    """
    if name not in _methods:
        _load_announced()
    if name not in _methods:
        names = list_methods()
        close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise SettingError(f"unknown method {name!r}{hint}; there are {', '.join(names)}")
    return _methods[name]


def list_methods() -> list[str]:
    """The names of all methods: leanconv's own, then those of other packages, each in alphabetical order."""
    return [kind.name for kind in all_methods()]


def all_methods() -> tuple[type[Method], ...]:
    """The classes of all methods, in the order of `list_methods`."""
    _load_announced()
    return tuple(sorted(_methods.values(), key=lambda kind: (_top(kind.__module__) != OURS, kind.name)))


def _load_announced() -> None:
    """Import what installed packages announce, once; a package that cannot be imported is a warning."""
    if _loaded:
        return
    points = metadata.entry_points(group=GROUP)
    _loaded.extend(["", *points.names])
    for point in points:
        package = f"the package {point.dist.name}" if point.dist else "a package"
        try:
            point.load()
        except Exception as error:  # whatever the package raises when it is imported
            _forget(point.module)
            warnings.warn(
                f"{package} announces the method {point.name!r}, and {point.value} cannot be imported "
                f"({type(error).__name__}: {first_line(error)}); mend or update that package, or uninstall it",
                LeanconvWarning,
                stacklevel=3,
            )
        else:
            if point.name not in _methods:
                warnings.warn(
                    f"{package} announces the method {point.name!r}, and {point.value} {_why_not(point.load())}",
                    LeanconvWarning,
                    stacklevel=3,
                )


def _forget(module: str) -> None:
    """Drop the methods of a module that Python could not import to its end: their classes may be half made."""
    if module not in sys.modules:
        for name in [name for name, kind in _methods.items() if kind.__module__ == module]:
            del _methods[name]


def _why_not(found: Any) -> str:
    """Why what an entry point names is no method of the name that it is announced by."""
    lacks = sorted(getattr(found, "__abstractmethods__", ()))
    if lacks:
        return f"is no method as long as it lacks {', '.join(lacks)}; define {'it' if len(lacks) == 1 else 'them'} in the class"
    return (
        "defines no method of that name; the entry point must have the name of the method, the snake case of its class"
    )


def source_of(kind: type[Method]) -> dict[str, Any]:
    """The module of a method's class, and name and version of its package where that is not leanconv, for a file."""
    package = _package(_top(kind.__module__))
    return {"module": kind.__module__, **({} if package is None else {"package": dict(package)})}


def _top(module: str) -> str:
    return module.partition(".")[0]


@cache
def _package(top: str) -> tuple[tuple[str, str], ...] | None:
    """Name and version of the installed package that holds this top-level module; None where none does."""
    if top in (OURS, "__main__"):
        return None
    announced = [p.dist for p in metadata.entry_points(group=GROUP) if _top(p.module) == top and p.dist]
    if announced:
        return (("name", announced[0].name), ("version", announced[0].version))
    names = metadata.packages_distributions().get(top)
    return None if not names else (("name", names[0]), ("version", metadata.version(names[0])))


def method_in_file(value: Mapping[str, Any]) -> type[Method]:
    """The class of the method that a file names by ``method``, ``module`` and ``package``.

    Nothing is imported because a file names it: the class must be registered, or announced by an installed package.

    Raises:
        FileError: it is neither; the error says what to import or to install.
    """
    name, module = str(value["method"]), str(value.get("module", OURS))  # older files have leanconv's own alone
    if name not in _methods:
        _load_announced()
    kind = _methods.get(name)
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
    """Raise where a file with this method could not be loaded again; warn where only this process can load it.

    Raises:
        SettingError: its name is another class's.
    """
    known = _methods.get(kind.name)
    if known is None or _path(known) != _path(kind):
        raise SettingError(
            f"{_path(kind)} is not the method that is registered as {kind.name!r}, so that a file of it could not be loaded; "
            "define the class again, or convert the network anew"
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
