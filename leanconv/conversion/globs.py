"""Globs over the names of layers and of parameters; a glob that matches nothing is an error."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Sequence

from torch import nn

from leanconv.core.errors import SettingError


class Names:
    """The modules of a model with all of their names; a glob may match any name of a layer.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._first = {id(module): name for name, module in model.named_modules()}
        self._linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._all: dict[str, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._all.setdefault(self._first[id(module)], []).append(name)

    def matches(self, name: str, glob: str) -> bool:
        """Whether `glob` matches any name of the layer `name`, or equals it: a name may hold brackets."""
        return any(one == glob or fnmatch.fnmatchcase(one, glob) for one in self._all.get(name, (name,)))

    def named(self, name: str, globs: Sequence[str]) -> bool:
        """Whether one of `globs` equals a full name of the layer `name`."""
        return any(one in globs for one in self._all.get(name, (name,)))

    def require(
        self, what: str, glob: str, layers: Sequence[str], *, others: bool = False, kinds: str = "convolutions"
    ) -> None:
        """Raise an error unless `glob` matches one of `layers`.

        Args:
            what: the name of the argument, for the message.
            layers: the first name of each layer that `glob` may match.
            others: whether `glob` may match other modules instead, such as a norm, if they contain none of `layers`.
            kinds: the word for `layers` in the message.

        Raises:
            SettingError: `glob` matches none of `layers`; the message lists similar names.
        """
        if any(self.matches(name, glob) for name in layers):
            return
        matched = [name for name in self._all if self.matches(name, glob)]
        around = next((m for m in matched if any(name.startswith(f"{m}." if m else "") for name in layers)), None)
        if around is not None:
            inner = f"{glob}.*" if glob else "*"
            raise SettingError(f"{what}={glob!r} matches no {kinds[:-1]} but a module that holds some; write {inner!r}")
        if matched and others:
            return
        linear = next((name for name in matched if name in self._linears), None)
        if linear is not None:
            raise SettingError(
                f"{what}={glob!r} matches none of the {len(layers)} {kinds} but the linear layer {linear!r}; "
                'include="linear" converts those too'
            )
        every = [one for name in layers for one in self._all.get(name, (name,))]
        raise SettingError(f"{what}={glob!r} matches none of the {len(layers)} {kinds} ({_close(glob, every)})")


class ParameterNames:
    """The parameters of a model with all of their names; a glob may match any name of a shared parameter.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._all: dict[nn.Parameter, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._all.setdefault(parameter, []).append(name)

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self._all)

    def matching(self, what: str, glob: str) -> list[nn.Parameter]:
        """The parameters of which `glob` matches a name.

        Args:
            what: the name of the argument, for the message.
            glob: the glob.

        Raises:
            SettingError: there is none; the message lists similar names.
        """
        found = [own for own, names in self._all.items() if any(fnmatch.fnmatchcase(name, glob) for name in names)]
        if found:
            return found
        every = [name for names in self._all.values() for name in names]
        if glob and any(name.startswith(f"{glob}.") for name in every):
            raise SettingError(f"{what}={glob!r} matches a module and no parameter; write {f'{glob}.*'!r}")
        raise SettingError(f"{what}={glob!r} matches none of the {len(self._all)} parameters ({_close(glob, every)})")


def _close(glob: str, names: Sequence[str]) -> str:
    """The names nearest to `glob`, for a message."""
    close = difflib.get_close_matches(glob.strip("*."), names, n=3, cutoff=0.4) or names[:3]
    return ", ".join(map(repr, close)) + (", ..." if len(names) > len(close) else "")
