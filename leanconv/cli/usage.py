"""Errors in flags and values, in plain words."""

from __future__ import annotations

import difflib
import re
from typing import Any

from typer.core import TyperGroup

QUOTED = re.compile(r"'([^']*)'")


class Verbs(TyperGroup):
    """The group of all verbs; a wrong value of a flag gets a plain message with the nearest allowed value."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str):
                error.message = plain_message(message)  # type: ignore[attr-defined]
            raise


def plain_message(message: str) -> str:
    """The message of a parser without the words of its library, and with the allowed value that is nearest.

    >>> plain_message("Value error, 'filtrs' is not one of 'cam', 'filters'.")
    "'filtrs' is not one of 'cam', 'filters'; did you mean 'filters'?"
    """
    message = message.removeprefix("Value error, ")
    value, rule, allowed = message.partition(" is not one of ")
    if rule and (near := difflib.get_close_matches(value.strip("'"), QUOTED.findall(allowed), 1)):
        return f"{message.rstrip('.')}; did you mean '{near[0]}'?"
    return message
