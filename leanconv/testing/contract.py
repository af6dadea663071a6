"""Check one method by every rule of the contract."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from leanconv.core.errors import CheckError, SettingError, first_line
from leanconv.core.method import Method
from leanconv.testing import as_conv2d, computing, derivatives, fitting, keeping  # noqa: F401  each adds its rules
from leanconv.testing.rules import RULES, Rule
from leanconv.testing.specs import SPECS

_SAYS_TORCH = (  # warnings of torch about itself, which the contract causes deliberately
    r"`torch.jit.\w+` is deprecated",
    "Converting a tensor",
    "There is a performance drop because",
    "Using padding='same' with even kernel lengths",
)


class ContractError(CheckError, AssertionError):
    """A method breaks the contract.

    Args:
        method: the method that was checked.
        failures: the failed checks by name, each with its finding.
        total: the number of checks.
    """

    def __init__(self, method: Method, failures: dict[str, str], total: int) -> None:
        super().__init__(f"{method.label()} fails {len(failures)} of {total} checks")
        self.failures = failures

    def __str__(self) -> str:
        rules: dict[str, list[str]] = {}
        for name in self.failures:
            rules.setdefault(name.partition(" on ")[0], []).append(name)
        lines = []
        for first, *others in rules.values():
            where = ", ".join(name.partition(" on ")[2] for name in others)
            more = f" (and {len(others)} more: on {where})" if others else ""
            lines.append(f"  {first}: {self.failures[first]}{more}")
        return "\n".join([super().__str__(), *lines])


@dataclass(frozen=True)
class Check:
    """One rule for one method on one convolution. A call raises an error if the method breaks the rule.

    Args:
        rule: the rule.
        method: the method, with its settings.
        name: the name of the convolution in `SPECS`.
    """

    rule: Rule
    method: Method
    name: str

    def __call__(self) -> None:
        with _undisturbed():
            self.rule.function(self.method, SPECS[self.name])

    def __str__(self) -> str:
        return f"{self.method.label()}-{self.rule.name}-{self.name}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the caller's random state, and silence the warnings of torch about itself."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        for text in _SAYS_TORCH:
            warnings.filterwarnings("ignore", text)
        yield


def checks(method: Method, only: str = "*", *, thorough: bool = True) -> list[Check]:
    """Every check of the contract for `method`: a list for ``pytest.mark.parametrize``.

    Args:
        method: the method, with its settings.
        only: a glob; the rules whose names match are checked.
        thorough: False leaves out the slow checks, for further settings of a method that was checked before.

    Raises:
        SettingError: `only` matches no rule.

    >>> from leanconv import TiedBlock
    >>> print(checks(TiedBlock(blocks=2), only="counts_agree")[0])
    tied_block(blocks=2)-counts_agree-3x3
    """
    accepted = [name for name, spec in SPECS.items() if method.reject(spec) is None]
    rejected = [name for name in SPECS if name not in accepted]
    found = []
    for rule in RULES:
        if fnmatch.fnmatchcase(rule.name, only):
            names = rejected if rule.level.rejected else rule.level.of(accepted, thorough)
            found += [Check(rule, method, name) for name in names]
    if not found and accepted:
        raise SettingError(f"only={only!r} matches no rule; there are {', '.join(rule.name for rule in RULES)}")
    return found


def check_method(
    method: Method, only: str = "*", *, accepts: Sequence[str] | None = None, thorough: bool = True
) -> None:
    """Check that `method` fulfils the contract, on each convolution of `SPECS` that it accepts. This takes about a minute.

    The rules concern the shapes of nn.Conv2d; parameters and MACs, by the formulas and by torch's counter; equality with
    `LinearOp.weight_dense` in float64; first and second derivatives; the fit, which must be the nearest (unless
    `Method.not_nearest` gives the reason why not) and must repeat; copying, pickling, moving and saving; tracing, compiling
    and exporting, also with dynamic sizes; and the equality of the inference forms.

    Args:
        method: the method, with its settings.
        only: a glob; the rules whose names match are checked.
        accepts: the names in `SPECS` that the method must accept. By default it must accept any half of them, so that no
            method passes by rejecting all.
        thorough: as in `checks`.

    Raises:
        ContractError: a check failed; the message has a line for each broken rule: the finding on the first convolution, and the
            names of the others. `failures` has every finding. The error is an AssertionError too.
        SettingError: `only` matches no rule.
    """
    refused = {name: reason for name, spec in SPECS.items() if (reason := method.reject(spec)) is not None}
    failures = {f"accepts {name!r}": f"it is rejected: {refused[name]}" for name in accepts or () if name in refused}
    if accepts is None and len(refused) > len(SPECS) / 2:
        failures["accepts"] = (
            f"{len(refused)} of {len(SPECS)} convolutions are rejected; if this is intended, name the accepted ones: "
            f"accepts={[name for name in SPECS if name not in refused]}"
        )
    every = checks(method, only, thorough=thorough)
    for check in every:
        try:
            check()
        except Exception as error:  # whatever an operator raises is the finding
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            failures[f"{check.rule.name} on {check.name!r}"] = kind + first_line(error)
    if failures:
        raise ContractError(method, failures, len(every))
