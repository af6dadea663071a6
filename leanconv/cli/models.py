"""``leanconv models``: networks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli.options import Json
from leanconv.cli.output import say, show, show_json

if TYPE_CHECKING:
    from leanconv.report.text_table import TextTable


def models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="A name, a part of one, or a glob: 'timm/resnet*'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List networks: leanconv's own, or with a PATTERN timm's and torchvision's too."""
    from leanconv.files.find import COUNTED, find_models

    rows = find_models(pattern)
    if as_json:
        show_json(rows)
    elif rows:
        show(_table(rows))
    if not rows:  # an error, as in every verb that takes a name
        say(f"no network matches {pattern!r}; `leanconv models` lists leanconv's own, 'timm/*' all of timm's")
        raise typer.Exit(2)
    if pattern is not None and len(rows) > COUNTED:
        say(f"{len(rows)} networks; with more than {COUNTED}, only leanconv's are counted: narrow the pattern")
    elif pattern is None:
        say("every command also takes timm/NAME and torchvision/NAME: leanconv models 'timm/resnet*'")


def _table(rows: list[dict[str, Any]]) -> TextTable:
    from leanconv.report.tables import NONE, integer, macs
    from leanconv.report.text_table import TextTable

    cells = []
    for row in rows:
        more = "over " if row.get("uncounted") else ""  # operations whose MACs are not known
        size = "x".join(map(str, row["input_size"])) if row["input_size"] else NONE
        cells.append([row["name"], row["source"], size, integer(row["params"]), more + macs(row["macs"])])
    heads = ("Network", "From", "Input", "Parameters", "MACs")
    return TextTable(heads, cells, 3, "MACs for one image; 1 MAC = one multiply-add.")
