"""Every printed figure: counted on the network built here, with a reason wherever it differs."""

from __future__ import annotations

import pytest

from leanconv.core.errors import SettingError
from leanconv.detect import DETECTORS
from leanconv.detect.recipes import RECIPES as DETECT_RECIPES
from leanconv.models import list_models
from leanconv.papers import catalogue
from leanconv.papers import tables as paper_tables
from leanconv.papers.rows import Network, PrintedCount
from leanconv.train.recipes import RECIPES
from tests.gates import tree

ROWS = catalogue.rows()
ACCURACIES = catalogue.accuracies()
NAMES = {entry.name for entry in list_models()}


def called(row: PrintedCount) -> str:
    return f"{row.paper} {row.table} {row.row} {row.metric}"


@pytest.mark.parametrize("paper", catalogue.PAPERS)
def test_every_figure_is_exact_or_has_its_reason_and_the_document_prints_it(paper):
    """One test a paper, since its networks are counted once in a process."""
    found = [row for row in ROWS if row.paper == paper]
    without = [called(row) for row in found if row.verdict() != "exact" and not row.reason]
    assert not without
    page = tree.ROOT / "docs" / "papers" / f"{paper}.md"
    assert page.read_text(encoding="utf-8") == paper_tables.page(paper), "run `python -m tests.gates.update`"


def test_as_many_are_exact_as_can_be():
    assert len(ROWS) >= 253 + 2
    page = {
        paper: (tree.ROOT / "docs" / "papers" / f"{paper}.md").read_text(encoding="utf-8") for paper in catalogue.PAPERS
    }
    assert sum(text.count("| exact |") for text in page.values()) >= 182


def test_no_cell_stands_twice():
    keys = [(row.paper, row.table, row.row, row.metric, row.config) for row in ROWS]
    assert not {key for key in keys if keys.count(key) > 1}


def test_rows_name_networks_and_recipes_that_exist():
    for row in ROWS:
        for side in (row.figure.of, row.figure.against) if row.figure else ():
            assert not isinstance(side, Network) or side.name in NAMES or "/" in side.name, called(row)
    for accuracy in ACCURACIES:
        assert accuracy.network is None or accuracy.network.name in NAMES or "/" in accuracy.network.name, accuracy
        recipes = RECIPES if accuracy.detector is None else DETECT_RECIPES
        assert accuracy.recipe is None or accuracy.recipe in recipes, accuracy
        assert accuracy.detector is None or accuracy.detector in DETECTORS, accuracy
        float(accuracy.printed)


def test_a_row_to_train_is_found_by_its_name():
    with pytest.raises(SettingError, match="no printed accuracy is called 'ResNet-9000'"):
        catalogue.to_train("ResNet-9000")
    with pytest.raises(SettingError, match=r"unknown paper 'tbd'; there are tbc, filter_bases, shardnet, spconv"):
        catalogue.rows("tbd")
    with pytest.raises(SettingError, match="unknown table '99'"):
        catalogue.rows("spconv", "99")
