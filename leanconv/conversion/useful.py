"""Plans that must convert at least one layer, and the name of the first convolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from leanconv.conversion.plan import Include, Plan, Where, plan
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize
from leanconv.core.method import Method


def stem(model: nn.Module) -> str:
    """The name of the first convolution; "" without a convolution.

    >>> stem(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 3)))
    '1'
    """
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")


def useful_plan(
    model: nn.Module,
    method: Method,
    where: Where = "*",
    exclude: Where = (),
    input_size: InputSize | None = None,
    include: Include | Sequence[Include] = (),
    align: int | None = None,
) -> Plan:
    """The plan of `leanconv.plan` for one method, after a check that it converts at least one layer.

    Raises:
        SettingError: `leanconv.plan` raises an error, or the plan converts nothing.
    """
    made = plan(model, method, where, exclude=exclude, input_size=input_size, include=include, align=align)
    if not made.groups:
        reasons = sorted({kept.reason for kept in made.kept})
        more = f", and {len(reasons) - 1} other reasons that `leanconv inspect` lists" if len(reasons) > 1 else ""
        what = "layers" if include else "convolutions"
        raise SettingError(f"{method.label()} converts none of the {len(made.kept)} {what}: {reasons[0]}{more}")
    return made
