"""Conversion back to plain convolutions and linear layers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from leanconv.conversion.apply import plan_of, set_plan, swap
from leanconv.conversion.faults import hooks_of
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.linear import LeanLinear
from leanconv.core.method import Skipped
from leanconv.core.modes import in_eval
from leanconv.core.operator import LinearOp
from leanconv.core.record import get_record
from leanconv.core.wrappers import unwrapped


@torch.no_grad()
def to_dense(lean: nn.Module) -> nn.Module:
    """A copy of `lean` in which each operator is replaced by the ``nn.Conv2d`` or ``nn.Linear`` that equals it in eval mode.

    Operators that equal no dense layer, because they have a gate or an activation inside, stay, and the plan of the copy
    still names them. The dense layers keep the memory layout, what is trainable, and the attributes that the network's author
    has set. A norm inside an operator is folded with its running statistics, so training of the copy differs from training of
    the lean network.

    Raises:
        SettingError: a dense weight holds NaN or infinity, a lean layer has hooks, or the model cannot be copied.

    >>> import leanconv as lc
    >>> to_dense(lc.convert(nn.Conv2d(16, 32, 3), lc.TiedBlock(blocks=4)))
    Conv2d(16, 32, kernel_size=(3, 3), stride=(1, 1))
    """
    lean = unwrapped(lean)
    training = {name: module.training for name, module in lean.named_modules()}
    dense = in_eval(copied(lean))
    names = {id(module): name for name, module in dense.named_modules()}
    inside = {id(part) for m in dense.modules() if isinstance(m, LeanLinear) for part in m.modules() if part is not m}
    new: dict[int, nn.Module] = {}
    for module in dense.modules():
        if isinstance(module, LeanLinear | LinearOp) and (what := hooks_of(module)) is not None:
            raise SettingError(f"{names[id(module)]!r} has {what}, which a plain layer would lose; remove them first")
        if isinstance(module, LeanLinear) and module.equals_dense:
            new[id(module)] = module.to_linear()
        elif isinstance(module, LinearOp) and id(module) not in inside:
            new[id(module)] = module.to_conv()
        if id(module) in new:
            own = vars(module)
            vars(new[id(module)]).update({name: own[name] for name in get_record(module).carried if name in own})
    replaced = {names[key] for key in new}
    dense = swap(dense, new)
    for name, module in dense.named_modules():
        module.training = training.get(name, lean.training)
    for module in dense.modules():  # a lean network inside another network has its own plan
        if get_record(module).plan is not None:
            set_plan(module, None)
    plan = plan_of(lean)
    if plan is not None:
        left = tuple(group for group in plan.groups if not replaced.issuperset(site.name for site in group.sites))
        back = [Skipped(site, "made dense again") for group in plan.groups if group not in left for site in group.sites]
        if left:
            set_plan(dense, replace(plan, groups=left, kept=(*plan.kept, *back)))
    return dense
