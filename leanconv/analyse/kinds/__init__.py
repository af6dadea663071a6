"""The analyses. Each file declares one with `leanconv.analyse.declare.analysis`; add a file to add an analysis.

Each file imports torch and matplotlib inside its function, so that listing the analyses is fast.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from leanconv.analyse.declare import KINDS

for found in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{found}")

__all__ = ["KINDS"]
