"""Figures from typed results, one builder a question; the module that callers import.

A builder takes a result and returns a `go.Figure` in the registered template `interp_steer`; it
computes nothing that a paper would quote and shows nothing. `write_html` turns the figure into a
page with a sidecar. Loading this module loads plotly; `import interp_steer` does not.
"""

from interp_steer.figure_files import FigureError, data_sha256, write_html
from interp_steer.plot_layers import (
    Baseline,
    LayerSweep,
    readability_by_layer,
    trait_coherence_by_layer,
)
from interp_steer.plot_projections import ProjectionSample, projection_distributions
from interp_steer.plot_style import TEMPLATE

__all__ = [
    "TEMPLATE",
    "Baseline",
    "FigureError",
    "LayerSweep",
    "ProjectionSample",
    "data_sha256",
    "projection_distributions",
    "readability_by_layer",
    "trait_coherence_by_layer",
    "write_html",
]
