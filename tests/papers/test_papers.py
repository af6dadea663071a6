"""Every printed figure: counted on the network built here, with a reason wherever it differs."""

from __future__ import annotations

import re
import shlex

import pytest

from leanconv.core.errors import SettingError
from leanconv.detect import DETECTORS
from leanconv.detect.recipes import RECIPES as DETECT_RECIPES
from leanconv.models import list_models
from leanconv.papers import catalogue
from leanconv.papers import tables as paper_tables
from leanconv.papers.contents import CONTENTS, STATES
from leanconv.papers.conventions import counted, macs, params
from leanconv.papers.rows import Cell, CountRule, Network, PrintedCount
from leanconv.train.recipes import RECIPES
from tests.gates import tree

ROWS = catalogue.rows()
ACCURACIES = catalogue.accuracies()
NAMES = {entry.name for entry in list_models()}


def called(row: PrintedCount) -> str:
    return f"{row.paper} {row.table} {row.row} {row.metric}"


@pytest.mark.parametrize("paper", catalogue.PAPERS)
def test_every_figure_is_equal_or_has_its_reason_and_the_document_prints_it(paper):
    """One test a paper, since its networks are counted once in a process."""
    found = [row for row in ROWS if row.paper == paper]
    without = [called(row) for row in found if row.verdict() not in ("equal", "truncated") and not row.reason]
    assert not without
    page = tree.ROOT / "docs" / "papers" / f"{paper}.md"
    assert page.read_text(encoding="utf-8") == paper_tables.page(paper), "run `python -m tests.gates.update`"


def test_as_many_are_equal_as_can_be():
    page = {
        paper: (tree.ROOT / "docs" / "papers" / f"{paper}.md").read_text(encoding="utf-8") for paper in catalogue.PAPERS
    }
    assert sum(text.count("| equal |") for text in page.values()) >= 220


def test_each_printed_cell_counts_once():
    """A second construction is marked, and another row counts the cell that it belongs to."""
    for row in ROWS:
        name = re.split(r",| \(| against| in ", row.row)[0]
        counted_once = [r for r in ROWS if not r.again and r.paper == row.paper and r.row.startswith(name)]
        assert not row.again or counted_once, called(row)
    assert sum(row.again for row in ROWS) >= 20


def test_the_first_line_counts_fitted_rows_apart():
    figure = CountRule(params, Network("resnet20"))
    rows = [
        PrintedCount("spconv", "1", "a", "params", printed, "M", figure, "", evidence, again=again)
        for printed, evidence, again in (
            ("0.27", "derived", False),
            ("0.2", "derived", False),
            ("0.27", "fitted", False),
            ("0.27", "fitted", True),
        )
    ]
    cells = CountRule(params, Cell("2M"), Cell("4M"), "factor")
    rows.append(PrintedCount("spconv", "1", "b", "C", "2.0", "x", cells, "", "arithmetic"))
    rows.append(PrintedCount("spconv", "1", "c", "params", "2.0", "M", None, "", "quoted"))
    assert paper_tables.summary(rows) == (
        "5 printed figures. Counted on our networks: 1 equal, 1 truncated. Counted on networks that were fitted to printed "
        "figures: 1 equal. Divided from printed cells alone: 1 equal. Quoted: 1. Second constructions, not counted: 1."
    )
    for paper in catalogue.PAPERS:
        page = paper_tables.page(paper).split("\n\n")
        assert page[1] == paper_tables.summary([row for row in ROWS if row.paper == paper])


def row_of(paper: str, name: str, metric: str) -> PrintedCount:
    (found,) = [row for row in ROWS if (row.paper, row.row, row.metric) == (paper, name, metric)]
    return found


def test_pruning_60_pct_of_all_linear_layers_gives_the_factor_of_fig_5():
    """ShardNet, Fig. 5: 26.8 M / (|Wconv| + FC - 0.6 * 52 n^2), n = 512; without `widen`, 48 n^2, it would be 2.4."""
    n, stem, head = 512, 27 * 512 + 512, 200 * (4 * 512 + 1)
    kept = 69 * n * n + 6 * n + stem + head
    figure = row_of("shardnet", "SL-ResNet-50 n=512, 60 % of the linear layers pruned", "C")
    assert (
        figure.ours() == pytest.approx(26.8e6 / (kept - 0.6 * 52 * n * n), rel=1e-5) == pytest.approx(2.593, abs=1e-3)
    )
    assert figure.verdict() == "equal"
    assert round(26.8e6 / (kept - 0.6 * 48 * n * n), 1) == 2.4


@pytest.mark.parametrize(("part", "printed"), [(4, 105.98e6), (8, 71.35e6)])
def test_hetconv_counts_output_elements_with_its_factor(part, printed):
    """HetConv: (1 / P + (1 - 1 / P) / 9) of the dense layer's MACs and output elements; VGG-16's first layer stays dense."""
    layers = ((64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), *[(256, 256, 8)] * 2, (256, 512, 4))
    layers += (*[(512, 512, 4)] * 2, *[(512, 512, 2)] * 3)
    dense = sum(side**2 * (9 * i * o + o) for i, o, side in layers)
    wanted = dense * (1 / part + (1 - 1 / part) / 9) + 32**2 * (27 * 64 + 64) + 512 * 512 + 512 * 10
    name = "HetConv-VGG-16-P4" if part == 4 else "HetConv-VGG-16-P8 in HetConv's release"
    assert row_of("spconv", name, "flops").ours() * 1e6 == pytest.approx(wanted, rel=1e-6)
    assert wanted == pytest.approx(printed, rel=1e-4)


def test_tied_resnext_is_heavier_than_its_baseline_without_s():
    tied, dense, small = (counted(name, {}) for name in ("tied_resnext50", "timm/resnext50_32x4d", "tied_resnext50_s"))
    figures = [f"{params(c) / 1e6:.2f} M" for c in (tied, dense, small)]
    figures += [f"{macs(c) / 1e9:.2f} G" for c in (tied, dense, small)]
    assert params(tied) > params(dense) and macs(tied) > macs(dense)
    about = " ".join(catalogue.about("tbc").split())
    assert all(text in about for text in figures)


FLAGS = (tree.ROOT / "tests/gates/cli_flags.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("paper", catalogue.PAPERS)
def test_the_contents_of_a_page(paper):
    """Every table with rows is listed; each entry has a state, a command that exists, and a reason if it is not reproduced."""
    items = CONTENTS[paper]
    listed = " ".join(item.where for item in items)
    numbers = {n for item in items for n in re.findall(r"\d+", item.where)}
    numbers |= {str(n) for a, b in re.findall(r"(\d+)-(\d+)", listed) for n in range(int(a), int(b) + 1)}
    for row in ROWS:
        assert row.paper != paper or set(re.findall(r"^\d+", row.table)) <= numbers, row.table
    for item in items:
        assert item.state in STATES and (item.reason or item.state == "reproduced"), item
        words = shlex.split(item.command)
        verb = " ".join(words[:2]) if words[0] == "detect" else words[0]
        for flag in (word for word in words if word.startswith("--") and word != "--help"):
            assert any(re.search(rf"^{verb} .*{flag}\b", line) for line in FLAGS), f"{verb} has no {flag}"
        if "--table" in words:
            table = words[words.index("--table") + 1]
            assert catalogue.rows(paper, table), item
        for document in re.findall(r"docs/\w+\.md", item.reason):
            assert (tree.ROOT / document).exists(), item


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
