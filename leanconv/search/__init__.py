"""Which layers to convert: by the time they take here."""

from leanconv.search.faster import LayerTime, faster_only, layer_times

__all__ = ["LayerTime", "faster_only", "layer_times"]
