"""Measured rows made readable: tables, figures, plain sentences and one page that holds them all."""

from __future__ import annotations

from leanconv.report.results import markdown_of

__all__ = ["markdown_of"]
