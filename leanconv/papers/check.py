"""Print every row of a paper with our figure: ``python -m leanconv.papers.check tbc``."""

from __future__ import annotations

import sys
from importlib import import_module


def main(paper: str) -> None:
    rows = import_module(f"leanconv.papers.{paper}").ROWS
    verdicts: dict[str, int] = {}
    for row in rows:
        ours, verdict = row.ours(), row.verdict()
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        value = "-" if ours is None else f"{ours:.4f}"
        print(
            f"{verdict:8} {row.table:12} {row.row:40} {row.metric:14} {row.printed:>8}{row.unit} {value:>12}  {row.reason}"
        )
    print(verdicts)


if __name__ == "__main__":
    main(sys.argv[1])
