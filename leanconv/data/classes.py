"""Classes by their names: what names may be, and which output of a network each class of a data set is."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from typing import Any

from leanconv.core.errors import DataError, LeanconvError, SettingError
from leanconv.core.settings import check_names
from leanconv.core.shown import first_names

SHOWN = 20  # names of a list in an error


def class_names(names: Any, owner: str, error: type[LeanconvError] = DataError) -> tuple[str, ...]:
    """Check the class names of `owner`, a network or a data set, and return them as a tuple.

    >>> class_names(["cat", "dog"], "the data")
    ('cat', 'dog')

    Raises:
        error: they are no sequence of different, non-empty strings.
    """
    return check_names(f"{owner}: classes", names, error)


def class_indices(
    known: Sequence[str], found: Sequence[str], owner: str, source: str, *, whole: bool = False
) -> tuple[int, ...]:
    """Where each name of `found`, of a data set, stands among those that a network knows, in `known`.

    A data set may have the network's classes in another order, or some of them only. Names are equal letter by letter, however
    a letter's accent is encoded.

    Args:
        owner, source: what an error calls the network and the data set.
        whole: the data set must have all of the network's classes, as training on it must.

    Raises:
        SettingError: a name that the network does not know, with both lists.
    """
    known, found = ([unicodedata.normalize("NFC", name) for name in names] for names in (known, found))
    where = {name: place for place, name in enumerate(known)}
    if len(where) < len(known):
        raise SettingError(
            f"{owner} has two classes of one name ({first_names(known, SHOWN)}); give each its own with lc.set_task"
        )
    strangers = [name for name in found if name not in where]
    missing = [name for name in known if name not in set(found)] if whole else []
    if not strangers and not missing:
        return tuple(where[name] for name in found)
    first = strangers[0] if strangers else missing[0]
    says = f"{source} has {first!r}, which the network has not" if strangers else f"{source} has no {first!r}"
    close = closest_name(first, known if strangers else found)
    hint = f" (is it {close!r}?)" if close and (strangers or close in strangers) else ""
    raise SettingError(
        f"{owner} and {source} have different classes: {says}{hint}. The network's: {first_names(known, SHOWN)}; the data's: "
        f"{first_names(found, SHOWN)}. Name the classes alike, or take the data it was trained on"
    )


def check_labels(names: Sequence[str], known: Sequence[str], source: str) -> None:
    """Raise SettingError where names in a file contradict those that a network knows of its outputs.

    Other words for them, such as another language's, do not; a name that is one of the network's must be that output's.
    """
    if not known:
        return
    if len(names) != len(known):
        raise SettingError(
            f"{source}: {len(names)} class names for {len(known)} outputs; give one a line, in the order of training: "
            f"{first_names(known, SHOWN)}"
        )
    wrong = next((name for place, name in enumerate(names) if name in known and known[place] != name), None)
    if wrong is not None:
        raise SettingError(
            f"{source} has {wrong!r} in another place than the network. The network's: {first_names(known, SHOWN)}; the file's: "
            f"{first_names(names, SHOWN)}. Leave --labels out, or give them in the network's order"
        )


def closest_name(name: str, others: Sequence[str]) -> str | None:
    """The one of `others` that differs from `name` in case, in spaces, in how letters are encoded, or by a slip."""
    plain = {_plain(other): other for other in others}
    close = difflib.get_close_matches(_plain(name), list(plain), n=1, cutoff=0.85)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())
