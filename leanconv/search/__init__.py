"""Choose which layers to convert by their measured time, which channels to remove, and in which order channels lie."""

from leanconv.search.controls import narrower, residual_blocks, shallower
from leanconv.search.faster import dense_layer, faster_only, layer_times, lean_forms, some_faster
from leanconv.search.importance import channel_scores
from leanconv.search.network import network_times
from leanconv.search.order import choose_orders, order_loss, permute_channels_
from leanconv.search.pruning import plan_channels, prune, removable_graph
from leanconv.timing.layers import LayerTime

__all__ = [
    "LayerTime", "channel_scores", "choose_orders", "dense_layer", "faster_only", "layer_times", "lean_forms", "narrower",
    "network_times", "order_loss", "permute_channels_", "plan_channels", "prune", "removable_graph", "residual_blocks",
    "shallower", "some_faster",
]  # fmt: skip
