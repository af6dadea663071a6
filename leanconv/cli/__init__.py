"""The command line: one small file for each verb."""

from __future__ import annotations

from leanconv.cli.app import app, main

__all__ = ["app", "main"]
