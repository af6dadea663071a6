"""Plans for those who must convert something: an empty plan is an error that says why."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from leanconv.conversion.plan import Plan, plan
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize
from leanconv.core.method import Method


def stem(model: nn.Module) -> str:
    """The name of the first convolution; "" where there is none."""
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")


def make_plan(
    model: nn.Module,
    method: Method,
    where: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    size: InputSize | None = None,
) -> Plan:
    """`leanconv.plan` by globs; no glob in `where` means every convolution."""
    return plan(model, method, tuple(where or ("*",)), exclude=tuple(exclude or ()), input_size=size)


def make_useful_plan(
    model: nn.Module,
    method: Method,
    where: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    size: InputSize | None = None,
) -> Plan:
    """As `make_plan`.

    Raises:
        SettingError: nothing converts.
    """
    made = make_plan(model, method, where, exclude, size)
    if not made.groups:
        reasons = sorted({kept.reason for kept in made.kept})
        more = f", and {len(reasons) - 1} other reasons that `leanconv inspect` lists" if len(reasons) > 1 else ""
        raise SettingError(f"{method.label()} converts none of the {len(made.kept)} convolutions: {reasons[0]}{more}")
    return made
