"""The printed figures of all four papers."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import TypeVar

from leanconv.core.errors import SettingError
from leanconv.papers.rows import Accuracy, PrintedCount

PAPERS = {
    "tbc": "Tied Block Convolution: Leaner and Better CNNs with Shared Thinner Filters",
    "filter_bases": "Learning Deeply Shared Filter Bases for Efficient ConvNets",
    "shardnet": "ShardNet: One Filter Set to Rule Them All",
    "spconv": "Split to Be Slim: An Overlooked Redundancy in Vanilla Convolution",
}
Printed = TypeVar("Printed", PrintedCount, Accuracy)


def rows(paper: str | None = None, table: str | None = None) -> list[PrintedCount]:
    """The printed figures of a paper, or of one of its tables.

    >>> rows("spconv", "2")[0].printed
    '25.56'

    Args:
        paper: a key of `PAPERS`; None means all four papers.
        table: as in `PrintedCount.table`; None means all tables.

    Raises:
        SettingError: the paper or the table is unknown.
    """
    found: list[PrintedCount] = [
        row for name in _papers(paper) for row in import_module(f"leanconv.papers.{name}").ROWS
    ]
    return _of_table(found, table)


def accuracies(paper: str | None = None, table: str | None = None) -> list[Accuracy]:
    """The printed accuracies of a paper, or of one of its tables; arguments and errors as for `rows`.

    >>> accuracies("spconv", "1")[0].printed
    '92'
    """
    found: list[Accuracy] = [
        row for name in _papers(paper) for row in import_module(f"leanconv.papers.{name}").ACCURACIES
    ]
    return _of_table(found, table)


def about(paper: str) -> str:
    """Remarks on the figures of a paper: the docstring of its module."""
    return inspect.getdoc(import_module(f"leanconv.papers.{_papers(paper)[0]}")) or ""


def to_train(pattern: str, paper: str | None = None, table: str | None = None) -> list[Accuracy]:
    """The printed accuracies of a row that can be trained here.

    Args:
        pattern: the name of the row, or a glob.
        paper, table: see `rows`.

    Raises:
        SettingError: no row has this name, or none of these rows has a network and a recipe.
    """
    every = accuracies(paper, table)
    found = [row for row in every if row.row == pattern] or [
        row for row in every if fnmatch.fnmatchcase(row.row.lower(), pattern.lower())
    ]
    if not found:
        names = sorted({row.row for row in every if row.network is not None and row.recipe is not None})
        raise SettingError(f"no printed accuracy is called {pattern!r}; there are {'; '.join(names)}")
    ready = [row for row in found if row.network is not None and row.recipe is not None]
    if not ready:
        raise SettingError(
            f"{found[0].row} ({found[0].paper}, table {found[0].table}) cannot be trained here: "
            f"{found[0].reason or 'the paper quotes the figure from others'}"
        )
    return ready


def _papers(paper: str | None) -> Sequence[str]:
    if paper is None:
        return list(PAPERS)
    if paper not in PAPERS:
        raise SettingError(f"unknown paper {paper!r}; there are {', '.join(PAPERS)}")
    return [paper]


def _of_table(found: list[Printed], table: str | None) -> list[Printed]:
    if table is None:
        return found
    chosen = [row for row in found if row.table == table]
    if not chosen:
        names = list(dict.fromkeys(row.table for row in found))
        raise SettingError(f"unknown table {table!r}; there are {', '.join(map(repr, names))}")
    return chosen
