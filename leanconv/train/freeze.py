"""Parameters that do not train during a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from leanconv.conversion.globs import ParameterNames
from leanconv.core.errors import SettingError


@contextlib.contextmanager
def frozen(model: nn.Module, globs: Sequence[str]) -> Iterator[None]:
    """Inside the block, parameters that one of `globs` matches do not train: ``requires_grad`` is False.

    A normalisation layer whose parameters are all frozen also keeps its running statistics, and normalises with them: it
    is in eval mode inside the block. A norm without parameters, or with a parameter that trains, is not changed.

    Args:
        model: the network, in train mode.
        globs: globs over the names of parameters, such as ``"layer1.*"``; a shared parameter has several names.

    Raises:
        SettingError: a glob matches no parameter, or no parameter is left to train.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    >>> with frozen(model, ["1.*"]):
    ...     model[1].weight.requires_grad, model[1].training, model[0].weight.requires_grad
    (False, False, True)
    >>> model[1].weight.requires_grad, model[1].training
    (True, True)
    """
    names = ParameterNames(model)
    matched = {parameter for glob in globs for parameter in names.matching("freeze", glob)}
    chosen = [parameter for parameter in matched if parameter.requires_grad]
    if chosen and len(chosen) == sum(parameter.requires_grad for parameter in names):
        raise SettingError(f"freeze={list(globs)} matches all parameters; leave some to train")
    norms = [
        norm for norm in model.modules() if isinstance(norm, _NormBase) and norm.training and _all_in(norm, matched)
    ]
    try:
        for parameter in chosen:
            parameter.requires_grad_(False)
        for norm in norms:
            norm.training = False  # eval() would also reach the activation or the dropout inside a norm of timm
        yield
    finally:
        for parameter in chosen:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.training = True


def _all_in(norm: nn.Module, frozen: set[nn.Parameter]) -> bool:
    own = list(norm.parameters(recurse=False))
    return bool(own) and all(parameter in frozen for parameter in own)
