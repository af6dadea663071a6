"""``python -m leanconv``: the command line."""

from __future__ import annotations

from leanconv.cli import main

if __name__ == "__main__":
    main()
