"""Globs over the names of layers: one that matches nothing is a slip of the pen, and is refused."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from torch import nn

from leanconv.core.errors import SettingError


class Names:
    """The modules of a model under all of their names; a layer that stands under several is matched by any.

    Args:
        model: whose modules.
    """

    def __init__(self, model: nn.Module) -> None:
        self._first = {id(module): name for name, module in model.named_modules()}
        self._linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._all: dict[str, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._all.setdefault(self._first[id(module)], []).append(name)

    def matches(self, name: str, glob: str) -> bool:
        """Whether `glob` matches the layer called `name`, by any of its names."""
        return any(fnmatch.fnmatchcase(one, glob) for one in self._all.get(name, (name,)))

    def named(self, name: str, globs: Sequence[str]) -> bool:
        """Whether one of `globs` is a name of the layer called `name`, written out."""
        return any(one in globs for one in self._all.get(name, (name,)))

    def require(
        self, what: str, glob: str, layers: Sequence[str], *, others: bool = False, kinds: str = "convolutions"
    ) -> None:
        """Raise unless `glob` matches one of `layers`.

        Args:
            what: the argument, for the message.
            layers: the first names of those that may be meant.
            others: whether it may name other modules in their place, such as a norm; not one that holds layers.
            kinds: what the message calls `layers`.

        Raises:
            SettingError: it does not; the message names the nearest.
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
        close = difflib.get_close_matches(glob.strip("*."), every, n=3, cutoff=0.4) or every[:3]
        names = ", ".join(map(repr, close)) + (", ..." if len(every) > len(close) else "")
        raise SettingError(f"{what}={glob!r} matches none of the {len(layers)} {kinds} ({names})")
