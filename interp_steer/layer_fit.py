"""Fit one layer: a plane in float64, lifted to a float32 direction with its statistics.

Kept apart from the set of layers so that memory holds the float64 rows of one layer at a time. What
is fitted describes these responses; `readability` says how much of it carries over to others.
"""

import logging

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_steer.errors import ProbeError
from interp_steer.layer_probe import LayerProbe
from interp_steer.logistic import Span
from interp_steer.planes import FitMethod, fit_plane, fit_planes, mean_difference, span_for
from interp_steer.readability import Folds, crossfit_margins, crossfit_samples, readability

logger = logging.getLogger(__name__)


def fit_layer(
    rows: Float[np.ndarray, "response d_model"],
    is_aligned: Bool[np.ndarray, "response"],
    layer: int,
    *,
    folds: Folds,
    method: FitMethod,
    c: float,
) -> LayerProbe:
    """Fit the probe of `layer` on its rows, and its cross-fitted figures on `folds`.

    Raises:
        ProbeError: both sides have the same mean, or a fold leaves only one side to fit on.
    """
    span = span_for(rows, method)
    plane = fit_plane(span.coordinates, is_aligned, method=method, c=c)
    v_hat = _unit_float32(span.lift(plane.normal), layer)
    if not plane.converged:
        logger.warning("layer %d: %s stopped before its optimum", layer, method)
    v = v_hat.double().numpy()
    # Relative to the mean of the rows, where rounding v_hat to float32 moves nothing.
    centre = rows.mean(axis=0)
    boundary = float(centre @ v - plane.margins(span.coordinates).mean())
    rho = rows @ v
    above, below = rho[is_aligned], rho[~is_aligned]
    difference = mean_difference(rows, is_aligned)
    samples = crossfit_samples(folds, is_aligned)
    others = fit_planes(span.coordinates, samples, method=method, c=c)
    margins = np.stack([one.margins(span.coordinates) for one in others])
    return LayerProbe(
        layer=layer,
        v_hat=v_hat,
        boundary=boundary,
        mu_pos=float(above.mean()),
        sigma_pos=float(above.std()),
        mu_neg=float(below.mean()),
        sigma_neg=float(below.std()),
        delta_mu=float(above.mean() - below.mean()),
        cosine_caa=float(difference @ v / (np.linalg.norm(difference) * np.linalg.norm(v))),
        converged=plane.converged,
        crossfit=readability(crossfit_margins(folds, margins), is_aligned),
        in_sample=readability(rho - boundary, is_aligned),
    )


def fit_direction(
    span: Span,
    is_aligned: Bool[np.ndarray, "response"],
    layer: int,
    *,
    method: FitMethod,
    c: float,
) -> Float[Tensor, "d_model"]:
    """Fit the unit direction alone, in the `span_for` of the rows; refuses like `fit_layer`."""
    plane = fit_plane(span.coordinates, is_aligned, method=method, c=c)
    return _unit_float32(span.lift(plane.normal), layer)


def _unit_float32(normal: Float[np.ndarray, "d_model"], layer: int) -> Float[Tensor, "d_model"]:
    length = float(np.linalg.norm(normal))
    if length == 0:
        raise ProbeError(
            f"layer {layer}: both sides have the same mean, so no direction tells them apart; "
            "check that the two prompts differ and that the sides were not given the same responses"
        )
    return torch.from_numpy(normal / length).float()
