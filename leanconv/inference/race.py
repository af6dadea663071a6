"""Time networks unchanged and optimized for this device, in each runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, fx, nn

from leanconv.core import settings
from leanconv.inference.optimize import forms_chosen, not_rewritten, optimize
from leanconv.timing import race as timing
from leanconv.timing.race import AS_IS, Entry, Form, Made, as_it_is

OPTIMIZED, IN_PARTS = "optimized", "optimized in parts"
# the runtime that measures forms; otherwise eager, as compiling every form takes long
CHOOSES = {"openvino": "openvino"}


def race(
    networks: Mapping[str, nn.Module],
    example: Tensor,
    *,
    names: Sequence[str] = ("eager",),
    forms: Sequence[str] = (AS_IS, OPTIMIZED),
    threads: int | None = None,
    seconds: float = 10.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Entry]:
    """Time every network in every runtime, all interleaved; see `leanconv.timing.race.race`.

    Args:
        forms: "as it is", "optimized", or both.

    Raises:
        SettingError: an unknown form, or as there.
    """
    settings.check_names("forms", forms)
    for form in forms:
        settings.check_choice("form", form, (AS_IS, OPTIMIZED))
    known: dict[str, Form] = {AS_IS: as_it_is, OPTIMIZED: Optimized()}
    chosen = {form: known[form] for form in forms}
    return timing.race(networks, example, names=names, forms=chosen, threads=threads, seconds=seconds, say=say)


class Optimized:
    """Brings a network into the form that `leanconv.optimize` gives, for `leanconv.timing.race.race`.

    If `optimize` cannot trace the whole network, the entry has the name "optimized in parts", and the entry "optimized"
    gives the reason. Runtimes that choose forms in the same way share one optimized network.
    """

    def __init__(self) -> None:
        self.network: nn.Module | None = None
        self.ready: dict[str, nn.Module] = {}

    def __call__(self, network: nn.Module, example: Tensor, runtime: str, threads: int) -> Made:
        if network is not self.network:
            self.network, self.ready = network, {}
        chooser = CHOOSES.get(runtime, "eager")
        if chooser not in self.ready:
            self.ready[chooser] = optimize(network, example, runtime=chooser, threads=threads)
        made = self.ready[chooser]
        forms = dict(Counter(choice.form for choice in forms_chosen(made)))
        whole = next((left.reason for left in not_rewritten(made) if not left.name), None)
        if whole is None:
            return Made(made, forms)
        in_parts = any(isinstance(part, fx.GraphModule) for part in made.modules())
        return Made(made if in_parts else None, forms, IN_PARTS, whole)
