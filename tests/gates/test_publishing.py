"""What a platform shows of the project: citation, security policy, issue templates. All agree with the package."""

from __future__ import annotations

import re
import tomllib
from datetime import date

import pytest
import yaml

from leanconv import __version__
from tests.gates import tree

CITATION = yaml.safe_load((tree.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((tree.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEMPLATES = sorted((tree.ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_names_this_version() -> None:
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(CITATION)
    assert CITATION["version"] == __version__ and CITATION["license"] == PROJECT["license"]
    cited = {reference["url"] for reference in CITATION["references"]}
    assert cited == set(PROJECT["urls"].values()), "the papers of pyproject.toml"
    assert all(reference["authors"] and reference["title"] for reference in CITATION["references"])


def test_the_changelog_has_this_version_with_its_date() -> None:
    text = (tree.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## \[{re.escape(__version__)}\] - (\S+)$", text, re.MULTILINE)
    assert found is not None, "the changelog has no section of this version"
    assert str(date.fromisoformat(found[1])) == CITATION["date-released"]
    assert text.index("## [Unreleased]") < found.start()


def test_classifiers_exist() -> None:
    from trove_classifiers import classifiers

    assert set(PROJECT["classifiers"]) <= classifiers


@pytest.mark.parametrize("path", TEMPLATES, ids=tree.name)
def test_issue_templates_are_forms(path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert set(form) == {"blank_issues_enabled"}
        return
    assert form["name"] and form["description"] and form["body"]
    for field in form["body"]:
        assert field["type"] in ("input", "textarea") and field["attributes"]["label"]


def test_the_policy_says_how_to_report() -> None:
    text = (tree.ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "## Reporting" in text and "Report a\nvulnerability" in text
    assert len(TEMPLATES) >= 3
