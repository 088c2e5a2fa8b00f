"""Figures from typed results, one builder a question; the module that callers import.

A builder takes a result and the `Column` that it is laid out for, and returns a `go.Figure` in the
registered template `interp_steer`; it computes nothing that a paper would quote and shows nothing.
`write_html` turns a figure into a page with a sidecar, `render` into svg, pdf and png. Loading this
module loads plotly; `import interp_steer` does not.
"""

from interp_steer.plots.agreement import DirectionAgreement, direction_agreement
from interp_steer.plots.densities import ProjectionSample
from interp_steer.plots.duration import SteeringDuration, steering_duration
from interp_steer.plots.figure_files import (
    Drawing,
    FigureError,
    MissingStageError,
    data_sha256,
    write_drawing,
    write_html,
)
from interp_steer.plots.firing import FiringRates, firing_rates
from interp_steer.plots.frontier import frontiers
from interp_steer.plots.layers import Baseline, LayerSweep, trait_coherence_by_layer
from interp_steer.plots.maps import layer_alpha_maps
from interp_steer.plots.measures import LayerMeasures, measures_by_layer
from interp_steer.plots.plane import SteeringPlane, plane_figure, steering_plane
from interp_steer.plots.projections import (
    LayerSample,
    distributions_by_layer,
    projection_distributions,
)
from interp_steer.plots.readability import readability_by_layer
from interp_steer.plots.rendering import Picture, missing_renderer, render
from interp_steer.plots.scan import CausalScan, causal_scan
from interp_steer.plots.style import DOUBLE, SCREEN, SINGLE, TEMPLATE, Column
from interp_steer.plots.suite_points import SuitePoints, suite_points
from interp_steer.plots.suites import SuiteCurves, suite_curves
from interp_steer.plots.text import as_text
from interp_steer.plots.token_map import TokenMap, token_maps
from interp_steer.plots.token_page import StripToken, TokenStrip, TokenStrips
from interp_steer.plots.tokens import token_strips
from interp_steer.plots.transfer import (
    TransferCurve,
    TransferCurves,
    transfer_curves,
    transfer_figure,
)

__all__ = [
    "DOUBLE",
    "SCREEN",
    "SINGLE",
    "TEMPLATE",
    "Baseline",
    "CausalScan",
    "Column",
    "DirectionAgreement",
    "Drawing",
    "FigureError",
    "FiringRates",
    "LayerMeasures",
    "LayerSample",
    "LayerSweep",
    "MissingStageError",
    "Picture",
    "ProjectionSample",
    "SteeringDuration",
    "SteeringPlane",
    "StripToken",
    "SuiteCurves",
    "SuitePoints",
    "TokenMap",
    "TokenStrip",
    "TokenStrips",
    "TransferCurve",
    "TransferCurves",
    "as_text",
    "causal_scan",
    "data_sha256",
    "direction_agreement",
    "distributions_by_layer",
    "firing_rates",
    "frontiers",
    "layer_alpha_maps",
    "measures_by_layer",
    "missing_renderer",
    "plane_figure",
    "projection_distributions",
    "readability_by_layer",
    "render",
    "steering_duration",
    "steering_plane",
    "suite_curves",
    "suite_points",
    "token_maps",
    "token_strips",
    "trait_coherence_by_layer",
    "transfer_curves",
    "transfer_figure",
    "write_drawing",
    "write_html",
]
