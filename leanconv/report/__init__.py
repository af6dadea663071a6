"""Reports of measured results: tables, figures, sentences, and one HTML page with all of them."""

from __future__ import annotations

from leanconv.report.results import markdown_of

__all__ = ["markdown_of"]
