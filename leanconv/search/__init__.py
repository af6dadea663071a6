"""Choose which layers to convert, by their measured time on this device."""

from leanconv.search.faster import dense_layer, faster_only, layer_times, lean_forms, some_faster
from leanconv.search.network import network_times
from leanconv.timing.layers import LayerTime

__all__ = [
    "LayerTime",
    "dense_layer",
    "faster_only",
    "layer_times",
    "lean_forms",
    "network_times",
    "some_faster",
]
