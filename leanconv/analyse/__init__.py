"""What a network does, as arrays and figures: filters, bases, gradients, blending layers, maps, spectra."""

from __future__ import annotations

from leanconv.analyse.bases import BasisSimilarity, basis_similarity, plot_bases
from leanconv.analyse.blending import (
    BlendingExtremes,
    PruningCurve,
    blending_extremes,
    blending_weights,
    plot_extremes,
    prune_blending,
    pruning_curve,
)
from leanconv.analyse.cam import GradCam, grad_cam, plot_cams
from leanconv.analyse.figure import save_figure
from leanconv.analyse.gradients import GradientFlow, plot_gradients, read_gradients
from leanconv.analyse.layers import conv_layers
from leanconv.analyse.redundancy import Redundancy, redundancies, redundancy
from leanconv.analyse.similarity import FilterSimilarity, filter_similarity, plot_histograms, weight_similarity
from leanconv.analyse.spectrum import Spectrum, spectrum

__all__ = [
    "BasisSimilarity",
    "BlendingExtremes",
    "FilterSimilarity",
    "GradCam",
    "GradientFlow",
    "PruningCurve",
    "Redundancy",
    "Spectrum",
    "basis_similarity",
    "blending_extremes",
    "blending_weights",
    "conv_layers",
    "filter_similarity",
    "grad_cam",
    "plot_bases",
    "plot_cams",
    "plot_extremes",
    "plot_gradients",
    "plot_histograms",
    "prune_blending",
    "pruning_curve",
    "read_gradients",
    "redundancies",
    "redundancy",
    "save_figure",
    "spectrum",
    "weight_similarity",
]
