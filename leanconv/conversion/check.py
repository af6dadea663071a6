"""A check that a lean network still shares all weights of its plan."""

from __future__ import annotations

from torch import nn

from leanconv.conversion.apply import members_of, plan_of
from leanconv.core.errors import TieError
from leanconv.core.linear import LeanLinear
from leanconv.core.operator import ConvOp
from leanconv.core.sharing import check_owners, parameters_in_use
from leanconv.core.wrappers import unwrapped


def check(lean: nn.Module) -> None:
    """Raise an error unless all layers of the plan are in place and all shared weights are still shared.

    There are four checks. Each planned layer is the operator of its plan. Each converted layer belongs to a plan. The owner of
    each borrowed weight is part of the model. Each group has exactly the number of parameters of its method's formula (a
    group that lost a tie has more).

    Raises:
        TieError: layers no longer share a weight, the model does not hold the owner of a weight, or a planned layer is missing.

    >>> import leanconv as lc
    >>> check(lc.convert(nn.Conv2d(16, 32, 3), lc.TiedBlock(blocks=4)))
    """
    lean = unwrapped(lean)
    users = [(name, module) for name, module in lean.named_modules() if isinstance(module, ConvOp)]
    check_owners(lean, users)
    plan = plan_of(lean)
    in_plan = {site.name for group in plan.groups for site in group.sites} if plan else set()
    lost = [(name, member) for name, member in members_of(lean).items() if name not in in_plan]
    if lost:
        name, member = lost[0]
        raise TieError(
            f"{name!r} is one of the {len(member.group.sites)} layers that {member.group.method.label()} made together, and "
            "others of these layers are not in this model; keep the whole network together, or convert again"
        )
    for group in plan.groups if plan else ():
        modules: list[nn.Module] = []
        for site in group.sites:
            try:
                modules.append(lean.get_submodule(site.name))
            except AttributeError:
                raise TieError(f"{site.name!r} of the plan is not in the model any more; convert again") from None
            kind = ConvOp if site.kind == "conv" else LeanLinear
            if not isinstance(modules[-1], kind) or modules[-1].spec != site.spec:
                raise TieError(
                    f"{site.name!r} should be the {group.method.name} of its plan and is {modules[-1]}; convert again"
                )
        found, planned = sum(p.numel() for p in parameters_in_use(modules)), group.params()
        if found != planned:
            names = ", ".join(repr(site.name) for site in group.sites[:3]) + (", ..." if len(group.sites) > 3 else "")
            raise TieError(
                f"{group.method.label()} over {names} holds {found:,} parameters and not the {planned:,} of its plan: "
                "a tie was cut or a layer was replaced; convert again"
            )
