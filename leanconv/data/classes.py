"""Class names: which names are valid, and which output of a network belongs to each class of a data set."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from typing import Any

from leanconv.core.errors import DataError, LeanconvError, SettingError
from leanconv.core.settings import check_names
from leanconv.core.shown import first_names

SHOWN = 20  # how many names of a list an error shows


def class_names(names: Any, owner: str, error: type[LeanconvError] = DataError) -> tuple[str, ...]:
    """Check class names, and return them as a tuple of distinct, non-empty strings.

    >>> class_names(["cat", "dog"], "the data")
    ('cat', 'dog')

    Args:
        owner: what an error calls the network or the data set.
        error: the class of the error to raise.

    Raises:
        error: `names` is not such a list. A single string is refused too, because each letter would count as a name.
    """
    return check_names(f"{owner}: classes", names, error)


def class_indices(
    known: Sequence[str], found: Sequence[str], owner: str, source: str, *, whole: bool = False
) -> tuple[int, ...]:
    """The index in `known` (a network's classes) of each name in `found` (a data set's classes).

    A data set may have the network's classes in another order, or only some of them. Names must be equal letter by letter; the
    encoding of accents does not matter.

    >>> class_indices(["cat", "dog", "ant"], ["dog", "cat"], "the network", "the data")
    (1, 0)

    Args:
        owner, source: what an error calls the network and the data set.
        whole: the data set must have all classes of the network. Training needs this.

    Raises:
        SettingError: the network does not know a name; the error shows both lists.
    """
    known, found = composed(known), composed(found)
    where = {name: place for place, name in enumerate(known)}
    if len(where) < len(known):
        raise SettingError(
            f"{owner} has two classes with the same name ({first_names(known, SHOWN)}); give each its own with lc.set_task"
        )
    strangers = [name for name in found if name not in where]
    missing = [name for name in known if name not in set(found)] if whole else []
    if not strangers and not missing:
        return tuple(where[name] for name in found)
    first = strangers[0] if strangers else missing[0]
    says = f"{source} has {first!r}, which the network does not have" if strangers else f"{source} has no {first!r}"
    close = closest_name(first, known if strangers else found)
    hint = f" (is it {close!r}?)" if close and (strangers or close in strangers) else ""
    raise SettingError(
        f"{owner} and {source} have different classes: {says}{hint}. The network's: {first_names(known, SHOWN)}; the data's: "
        f"{first_names(found, SHOWN)}. Name the classes alike, or take the data it was trained on"
    )


def composed(names: Sequence[str]) -> list[str]:
    """`names` in the encoding of accents in which they are compared."""
    return [unicodedata.normalize("NFC", name) for name in names]


def check_labels(names: Sequence[str], known: Sequence[str], source: str) -> None:
    """Raise SettingError if the names in a file contradict the class names of a network.

    The file may use other words, for example of another language. A name that the network also uses must belong to the same
    output.

    Args:
        names: the names in the file, one for each output.
        known: the class names of the network; () if the network has none.
        source: what an error calls the file.
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
    """The most similar of `others`: equal to `name` except for case, spaces, encoding or a typing error; None if there is none.

    >>> closest_name("Golden Retriever", ["golden_retriever", "poodle"])
    'golden_retriever'
    """
    plain = {_plain(other): other for other in others}
    close = difflib.get_close_matches(_plain(name), list(plain), n=1, cutoff=0.85)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())
