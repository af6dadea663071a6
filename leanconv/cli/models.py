"""``leanconv models``: networks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli.options import Json
from leanconv.cli.output import say, show, show_json

if TYPE_CHECKING:
    from rich.table import Table

COUNTED = 25  # building a network to count it takes up to a second


def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="A name, a part of one, or a glob: 'timm/resnet*'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List networks: leanconv's own, or with a PATTERN timm's and torchvision's too."""
    found = _find(pattern)
    rows = [_row(name, source, len(found) <= COUNTED) for name, source in found]
    if as_json:
        show_json(rows)
    elif rows:
        show(_table(rows))
    if not rows:
        say(f"no network matches {pattern!r}; `leanconv models` lists leanconv's own, 'timm/*' all of timm's")
    elif pattern is not None and len(found) > COUNTED:
        say(f"{len(found)} networks; those of others are counted when there are {COUNTED} or fewer: narrow the pattern")
    elif pattern is None:
        say("timm/NAME and torchvision/NAME work everywhere too: leanconv models 'timm/resnet*'")


def _find(pattern: str | None) -> list[tuple[str, str]]:
    """(name, source) of what matches."""
    from fnmatch import fnmatchcase

    from leanconv.models import list_models

    own = [(entry.name, entry.source) for entry in list_models()]
    if pattern is None:
        return own
    import timm
    from torchvision import models as torchvision_models

    others = [(f"timm/{name}", "timm") for name in timm.list_models()]
    vision = torchvision_models.list_models(module=torchvision_models)
    others += [(f"torchvision/{name}", "torchvision") for name in vision]
    glob = pattern if any(character in pattern for character in "*?[") else f"*{pattern}*"
    return [(name, source) for name, source in own + others if fnmatchcase(name, glob)]


def _row(name: str, source: str, counted: bool) -> dict[str, Any]:
    from leanconv.models.known import known_counts

    row: dict[str, Any] = {"name": name, "source": source, "params": None, "macs": None, "input_size": None}
    if name in known_counts():
        return row | known_counts()[name]
    if not counted:
        return row
    from leanconv.core.base import input_size_of
    from leanconv.core.count import count
    from leanconv.core.errors import LeanconvError
    from leanconv.files.target import open_without_weights

    try:
        model = open_without_weights(name)
        counts = count(model)
    except LeanconvError:  # a network that does not build or run alone is still a name
        return row
    size = input_size_of(model)
    found = {"params": counts.params, "macs": counts.macs, "input_size": list(size) if size else None}
    return row | found | ({"uncounted": list(counts.uncounted)} if counts.uncounted else {})


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    from leanconv.report.tables import NONE, integer, macs

    table = Table(caption="MACs for one image; 1 MAC = one multiply-add.", caption_justify="left")
    for head in ("Network", "From", "Input", "Parameters", "MACs"):
        table.add_column(head, justify="right" if head in ("Parameters", "MACs") else "left", overflow="fold")
    for row in rows:
        more = "over " if row.get("uncounted") else ""  # operations whose MACs are not known
        size = "x".join(map(str, row["input_size"])) if row["input_size"] else NONE
        table.add_row(row["name"], row["source"], size, integer(row["params"]), more + macs(row["macs"]))
    return table
