"""One layer's direction, boundary and statistics, and their form in `probes.json`.

What it holds describes where responses lie along v_hat at one layer; it does not say that the model
uses that direction.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.readability import Readability

_NUMBERS = (
    "boundary",
    "mu_pos",
    "sigma_pos",
    "mu_neg",
    "sigma_neg",
    "delta_mu",
    "cosine_caa",
)
"""Fields of `LayerProbe` that are plain numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerProbe:
    """Direction, boundary and projection statistics of one layer's resid_post.

    rho(h) = <h, v_hat>, in activation units; aligned is where rho is larger.
    """

    layer: int
    """Zero-based."""
    v_hat: Float[Tensor, "d_model"]
    """Unit direction, float32 on the CPU."""
    boundary: float
    """m: the rho at which the method sees both sides as equally likely."""
    mu_pos: float
    """Mean rho of the aligned responses' pooled residuals."""
    sigma_pos: float
    """Their std (ddof 0)."""
    mu_neg: float
    """Mean rho of the malicious responses' pooled residuals."""
    sigma_neg: float
    """Their std (ddof 0)."""
    delta_mu: float
    """mu_pos - mu_neg."""
    cosine_caa: float
    """Cosine of v_hat and the difference of the class means, -1 to 1."""
    converged: bool
    """Whether the solver reached its optimum."""
    crossfit: Readability
    """Separation of responses by directions fitted without their scenario: the one to show."""
    in_sample: Readability
    """Separation of the responses that v_hat was fitted to: flattering, for comparison only."""

    def project(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """Return rho = <h, v_hat>, computed in float32 on the device of `h`."""
        return h.to(torch.float32) @ self.v_hat.to(device=h.device, dtype=torch.float32)


def probe_as_record(probe: LayerProbe) -> dict[str, Any]:
    """All but v_hat, in values of JSON; an undefined (NaN) figure is None."""

    def of(separation: Readability) -> dict[str, float | None]:
        values = asdict(separation)
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    return {
        "layer": probe.layer,
        **{name: getattr(probe, name) for name in _NUMBERS},
        "converged": probe.converged,
        "crossfit": of(probe.crossfit),
        "in_sample": of(probe.in_sample),
    }


def probe_from_record(entry: Mapping[str, Any], v_hat: Float[Tensor, "d_model"]) -> LayerProbe:
    """Return the probe of `probe_as_record`.

    Raises:
        KeyError, TypeError, ValueError: `entry` is no such record.
    """

    def separation(values: Mapping[str, float | None]) -> Readability:
        known = {name: math.nan if value is None else value for name, value in values.items()}
        return Readability(**known)

    return LayerProbe(
        layer=int(entry["layer"]),
        v_hat=v_hat.clone(),
        **{name: float(entry[name]) for name in _NUMBERS},
        converged=bool(entry["converged"]),
        crossfit=separation(entry["crossfit"]),
        in_sample=separation(entry["in_sample"]),
    )
