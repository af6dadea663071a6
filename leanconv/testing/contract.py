"""One method against every rule."""

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

_SAYS_TORCH = (  # of its own parts, about what the contract does on purpose
    r"`torch.jit.\w+` is deprecated",
    "Converting a tensor",
    "There is a performance drop because",
    "Using padding='same' with even kernel lengths",
)


class ContractError(CheckError, AssertionError):
    """A method breaks the contract.

    Args:
        failures: the checks that failed, by name, with what each found.
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
    """One rule for one method on one convolution; call it, and it raises where the rule is broken.

    Args:
        name: of the convolution in `SPECS`.
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
    """The caller's random numbers stay as they are, and torch does not warn of itself."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        for text in _SAYS_TORCH:
            warnings.filterwarnings("ignore", text)
        yield


def checks(method: Method, only: str = "*", *, thorough: bool = True) -> list[Check]:
    """Every check of the contract for `method`: a list for ``pytest.mark.parametrize``.

    Args:
        only: the rules whose names this glob matches.
        thorough: False leaves out what takes long, for further settings of a method that was checked.
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
    """Hold `method` to the contract, on each convolution of `SPECS` that it accepts: about a minute.

    The shape of nn.Conv2d; parameters and MACs equal to the formulas and to torch's counter; equality with
    `LinearOp.weight_dense` in float64; gradients of first and second order; a fit that is the nearest (unless
    `Method.not_nearest` says why not) and repeats; copying, pickling, moving, saving; tracing, compiling and exporting, with
    sizes left open; forms that are equal.

    Args:
        method: with the settings to be checked.
        only: the rules whose names this glob matches.
        accepts: the names in `SPECS` of what it must accept; by default any half of them, so that nothing passes by rejecting.
        thorough: as in `checks`.

    Raises:
        ContractError: with a line for every rule that is broken: what it found on the first convolution, and the names of the
            others; `failures` has every finding. It is an AssertionError too.
    """
    refused = {name: reason for name, spec in SPECS.items() if (reason := method.reject(spec)) is not None}
    failures = {f"accepts {name!r}": f"it is rejected: {refused[name]}" for name in accepts or () if name in refused}
    if accepts is None and len(refused) > len(SPECS) / 2:
        failures["accepts"] = (
            f"{len(refused)} of {len(SPECS)} convolutions are rejected; where that is right, name those that it accepts: "
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
