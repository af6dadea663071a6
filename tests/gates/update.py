"""``python -m tests.gates.update``: write anew what the gates compare with: names, flags, counts of networks,
and tables and figures in documents. ``--no-counts`` leaves out the counts of networks, which take two minutes."""

from __future__ import annotations

import argparse

from leanconv.core.atomic import write_text
from leanconv.models import known
from leanconv.papers import catalogue
from leanconv.papers import tables as paper_tables
from leanconv.report import markdown_of, results
from tests.gates import blocks, cli_reference, drawings, surface, tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-counts", action="store_true")
    asked = parser.parse_args()
    texts = {surface.NAMES: surface.public_names(), surface.FLAGS: surface.cli_flags()}
    texts |= {tree.ROOT / "docs" / "figures" / f"{name}.svg": text for name, text in drawings.figures().items()}
    if not asked.no_counts:
        texts[tree.PACKAGE / "models" / known.FILE] = known.all_counts()
    for path in tree.files("*.md"):
        texts[path] = blocks.rendered(path.read_text(encoding="utf-8"), tree.RESULTS, markdown_of)
    texts[cli_reference.PATH] = cli_reference.cli_reference()
    for path in tree.results():
        for name, svg in results.figures_of(path).items():
            texts[tree.figure(path, name)] = svg
    for paper in catalogue.PAPERS:
        texts[tree.ROOT / "docs" / "papers" / f"{paper}.md"] = paper_tables.page(paper)
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            print(f"wrote {tree.name(path)}")


if __name__ == "__main__":
    main()
