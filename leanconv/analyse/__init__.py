"""Analyses of a network as arrays and figures: filters, bases, gradients, blending layers, feature maps, spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leanconv.core.lazy import lazy

if TYPE_CHECKING:
    from leanconv.analyse.analysis import Analysis
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
    from leanconv.analyse.converted import Layers, inspect
    from leanconv.analyse.duplicates import Redundancy, redundancies, redundancy
    from leanconv.analyse.figure import save_figure
    from leanconv.analyse.gradients import GradientFlow, plot_gradients, read_gradients
    from leanconv.analyse.images import Images, images_for
    from leanconv.analyse.kinds import KINDS
    from leanconv.analyse.layers import conv_layers
    from leanconv.analyse.looking import look
    from leanconv.analyse.similarity import FilterSimilarity, filter_similarity, plot_histograms, weight_similarity
    from leanconv.analyse.singular import Spectrum, spectrum

# Imported on first use, so that a list of the analyses does not load torch.
_HOME = {
    "Analysis": "analysis",
    "BasisSimilarity": "bases",
    "BlendingExtremes": "blending",
    "FilterSimilarity": "similarity",
    "GradCam": "cam",
    "GradientFlow": "gradients",
    "Images": "images",
    "KINDS": "kinds",
    "Layers": "converted",
    "PruningCurve": "blending",
    "Redundancy": "duplicates",
    "Spectrum": "singular",
    "basis_similarity": "bases",
    "blending_extremes": "blending",
    "blending_weights": "blending",
    "conv_layers": "layers",
    "filter_similarity": "similarity",
    "grad_cam": "cam",
    "images_for": "images",
    "inspect": "converted",
    "look": "looking",
    "plot_bases": "bases",
    "plot_cams": "cam",
    "plot_extremes": "blending",
    "plot_gradients": "gradients",
    "plot_histograms": "similarity",
    "prune_blending": "blending",
    "pruning_curve": "blending",
    "read_gradients": "gradients",
    "redundancies": "duplicates",
    "redundancy": "duplicates",
    "save_figure": "figure",
    "spectrum": "singular",
    "weight_similarity": "similarity",
}
__all__ = [*_HOME]


__getattr__, __dir__ = lazy(__name__, _HOME)
