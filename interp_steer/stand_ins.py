"""Probes for a steering that came without: a direction, numbers in force, nothing measured.

Other formats carry what is done, not why: a vector to add, or a threshold and a target. Everything
here that steers takes a `SteeringSpec` and a `LayerProbe`, so an import sets the statistics of a
probe such that the spec gives exactly those numbers, and leaves the others NaN. Such a probe
steers; it says nothing about how a trait is distributed, and `are_stand_ins` tells it from a fitted
one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.layer_probe import LayerProbe
from interp_steer.probes import ProbeSet
from interp_steer.readability import Readability
from interp_steer.specs import Direction, Method, SteeringSpec

_UNKNOWN = Readability(cohens_d=math.nan, accuracy=math.nan, auroc=math.nan)
_CONVENTIONS = {
    "statistics": "stand_in",
    "meaning": "boundary, mu_pos, mu_neg and delta_mu are set so that the spec gives the imported "
    "numbers; nothing was measured; null is unknown",
    "site": "resid_post",
    "v_hat_dtype": "float32",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerNumbers:
    """What is done at one layer, in the coordinates of v_hat."""

    layer: int
    """Zero-based; the edit is on what leaves that block."""
    v_hat: Float[Tensor, "d_model"]
    """Unit direction, float32."""
    shift: float | None = None
    """swfc: what is added to every projection."""
    threshold: float | None = None
    """sttp, stmp: tokens below it fire (above it when reversed)."""
    target: float | None = None
    """sttp: their new projection."""
    cap: float | None = None
    """stmp: limit of the new projection; None for none."""


def stand_in_steering(
    method: Method,
    layers: Sequence[LayerNumbers],
    *,
    direction: Direction = "aligned",
    alpha: float = 1.0,
) -> tuple[SteeringSpec, ProbeSet]:
    """Return a spec and probes that do exactly what `layers` says, to every token.

    swfc: alpha 1, delta_mu the shift. sttp: alpha 0, mu the target. stmp: `alpha`, cap_sigmas 0, mu
    the cap (cap_sigmas None where there is none). Other numbers of a probe are NaN.

    Args:
        method: one for all layers.
        layers: what is done where.
        direction: one for all layers; swfc is always aligned (turn the vector round).
        alpha: of stmp.

    Raises:
        SteeringError: a number that is missing or not finite, or some layers with a cap and some
            without.
    """
    capped = {numbers.cap is not None for numbers in layers}
    if method == "stmp" and len(capped) > 1:
        raise SteeringError(
            "expected a cap at every layer or at none, got both; import some layers at a time"
        )
    spec = SteeringSpec(
        method=method,
        layer=tuple(numbers.layer for numbers in layers),
        alpha={"swfc": 1.0, "sttp": 0.0, "stmp": alpha}[method],
        direction=direction,
        cap_sigmas=0.0 if method == "stmp" and capped == {True} else None,
    )
    probes = tuple(_probe(method, direction, numbers) for numbers in layers)
    return spec, ProbeSet(probes=probes, conventions=dict(_CONVENTIONS), provenance={})


def are_stand_ins(probes: ProbeSet) -> bool:
    """Whether the statistics of the probes are none."""
    return probes.conventions.get("statistics") == _CONVENTIONS["statistics"]


def _probe(method: Method, direction: Direction, numbers: LayerNumbers) -> LayerProbe:
    if method == "swfc":
        boundary, mean = 0.0, 0.0
        delta_mu = _finite("shift", numbers)
    else:
        boundary, delta_mu = _finite("threshold", numbers), 0.0
        capless = method == "stmp" and numbers.cap is None
        mean = boundary if capless else _finite("target" if method == "sttp" else "cap", numbers)
    side: dict[str, Any] = dict.fromkeys(("mu_pos", "sigma_pos", "mu_neg", "sigma_neg"), math.nan)
    sign = "pos" if direction == "aligned" else "neg"
    side |= {f"mu_{sign}": mean, f"sigma_{sign}": 0.0}
    return LayerProbe(
        layer=numbers.layer,
        v_hat=numbers.v_hat.to(torch.float32),
        boundary=boundary,
        delta_mu=delta_mu,
        **side,
        cosine_caa=math.nan,
        converged=False,
        crossfit=_UNKNOWN,
        in_sample=_UNKNOWN,
    )


def _finite(name: str, numbers: LayerNumbers) -> float:
    value = getattr(numbers, name)
    if value is None or not math.isfinite(value):
        raise SteeringError(
            f"expected a finite {name} at layer {numbers.layer}, got {value}; the file does not "
            "say what to do there"
        )
    return float(value)
