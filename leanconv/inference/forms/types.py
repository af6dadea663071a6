"""What the files of forms agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from leanconv.inference.affine import Affine

Forms = dict[str, Callable[[], nn.Module]]
OwnForms = Callable[[Any, Affine | None], Forms]
