"""Networks with fewer channels, from which a search may start: the channels that the others replace best are removed.

Widths are no candidates beside the operators: a narrower layer changes the layers that read it, so costs would be products of
choices, and all layers that meet in a residual sum have one width. The solver needs choices whose costs and scores add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leanconv.budget.limits import Budget
from leanconv.budget.parts import affordable
from leanconv.budget.setup import Setup
from leanconv.conversion.calibrate import reestimate_norms_
from leanconv.core.atomic import replacing
from leanconv.core.errors import SettingError
from leanconv.core.layout import layout_of, to_layout
from leanconv.core.modes import in_eval
from leanconv.files.save import MODEL_FILE
from leanconv.search.pruning import Work, plan_of_widths, removable_graph, widths_by_scores
from leanconv.search.readers import measurable
from leanconv.search.reconstruction import reconstruction_scores, repaired

LEAST = 0.25  # the share of a budget that limits only the loss of accuracy


def shares(budget: Budget, network: Mapping[str, float], count: int) -> list[float]:
    """The sizes of networks with fewer channels, as parts of the dense network's: from a mild one to what the budget asks for.

    >>> [round(share, 2) for share in shares(Budget.of("macs=0.5"), {"macs": 1e6}, 2)]
    [0.71, 0.5]
    """
    most = budget.most(network) if budget.limits else {}
    asked = min([value / network[measure] for measure, value in most.items()], default=LEAST)
    asked = min(max(asked, 0.02), 0.98)
    return [asked ** (number / count) for number in range(1, count + 1)]


def narrowed(setup: Setup, share: float, folder: Path) -> nn.Module:
    """The dense network with the part `share` of its size, or more if that cannot be met; in eval mode.

    A finished one is read from its folder.

    The size is the number of MACs, or of weights if the budget limits parameters or bytes first.

    Channels are removed in whole vectors by ``criterion="reconstruction"``, with as many in each layer as the scores say
    (`leanconv.prune`). The layers behind them are fitted to their old outputs, one after the other if this takes a minute at
    most (`leanconv.budget.parts.SEQUENTIAL`), and else all at once, after which the norms are estimated again.

    Args:
        setup: the search.
        share: of the size.
        folder: of this network; the scores are stored in the folder above it.

    Raises:
        SettingError: no channel can be removed.
    """
    if (folder / MODEL_FILE).exists():
        return to_layout(in_eval(setup.part(setup.load(folder))), layout_of(setup.teacher))
    graph = measurable(setup.teacher, removable_graph(setup.teacher, setup.input_size))
    sets = [found for found in graph.sets if found.whole is None]
    if not sets:
        raise SettingError("no channel of this network can be removed")
    path = folder.parent / "channels.safetensors"
    if not path.exists():
        with replacing(path) as temporary:
            save_file(reconstruction_scores(setup.teacher, sets, setup.batches), temporary)
    scores: dict[str, Tensor] = load_file(path)
    work, limits = Work(setup.teacher, graph), setup.budget.limits
    size = work.weights if limits and limits[0].measure in ("params", "bytes") else work.macs
    widths = widths_by_scores(size, sets, scores, {}, share, setup.config.align)
    plan = plan_of_widths(sets, widths, scores)
    sequential = affordable(setup.teacher, len(setup.space.sites), setup.batches)
    network = repaired(setup.teacher, plan, setup.batches, sequential=sequential)
    if not sequential:  # a sequential fit meets the old outputs, and so the old statistics
        reestimate_norms_(network, setup.batches)
    network = to_layout(in_eval(network), layout_of(setup.teacher))
    setup.save(setup.whole(network), folder)
    return network
