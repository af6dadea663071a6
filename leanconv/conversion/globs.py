"""Globs over the names of layers; a glob that matches nothing is an error."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

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
        """Whether `glob` matches any name of the layer `name`."""
        return any(fnmatch.fnmatchcase(one, glob) for one in self._all.get(name, (name,)))

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
        close = difflib.get_close_matches(glob.strip("*."), every, n=3, cutoff=0.4) or every[:3]
        names = ", ".join(map(repr, close)) + (", ..." if len(every) > len(close) else "")
        raise SettingError(f"{what}={glob!r} matches none of the {len(layers)} {kinds} ({names})")
