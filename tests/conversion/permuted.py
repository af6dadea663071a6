"""Networks in a random order of channels, for tests and for the benchmark over many networks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.conversion.channel_plan import Selection


def unsettled(model: nn.Module) -> nn.Module:
    """The model in float64 with random norms, scales and biases: an initial network hides what is mixed up."""
    generator = torch.Generator().manual_seed(0)
    for module in model.double().eval().modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter.data += torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1
    return model


def random_order(found: lc.ChannelSet, generator: torch.Generator) -> tuple[int, ...]:
    """An order that keeps the cells."""
    order = torch.arange(found.size)
    cells = torch.tensor(found.cells or (0,) * found.size)
    for cell in cells.unique():
        members = torch.nonzero(cells == cell).flatten()
        order[members] = members[torch.randperm(len(members), generator=generator)]
    return tuple(order.tolist())


@torch.no_grad()
def permuted_error(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[float, lc.ChannelGraph]:
    """The largest change of the output when all free channels move, relative to its spread, and the graph."""
    graph = lc.channel_graph(model, input_size)
    generator = torch.Generator().manual_seed(1)
    plan = lc.ChannelPlan(tuple(Selection(found, random_order(found, generator)) for found in graph.sets))
    x = torch.randn(2, *input_size, generator=generator, dtype=torch.float64)
    before, moved = model(x), lc.apply_channels_(copy.deepcopy(model), plan)
    weights = zip(model.state_dict().values(), moved.state_dict().values(), strict=True)
    assert not graph.sets or any(not torch.equal(a, b) for a, b in weights)
    return float((before - moved(x)).abs().max() / before.std()), graph
