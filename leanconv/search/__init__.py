"""Choose which layers to convert, by their measured time on this device."""

from leanconv.search.faster import faster_only, layer_times, some_faster
from leanconv.search.network import network_times
from leanconv.timing.layers import LayerTime

__all__ = ["LayerTime", "faster_only", "layer_times", "network_times", "some_faster"]
