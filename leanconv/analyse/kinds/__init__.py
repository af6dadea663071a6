"""The analyses: one file each, which declares itself by `leanconv.analyse.declare.analysis`; a new file is a new analysis.

Each file imports what it needs inside its function, so that a list of all of them costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from leanconv.analyse.declare import KINDS

for found in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{found}")

__all__ = ["KINDS"]
