"""What to do to one sequence, and what that means at one layer, in numbers.

Why apart: a `SteeringSpec` is what a person or a sweep asks for (StMP at layer 4, alpha 2); only
together with a probe does it have a threshold, a target and a cap. `resolve` makes that step once,
before any forward pass, and refuses contradictions there. The reversed direction is, by
definition, the same method after v_hat -> -v_hat with the classes swapped: laws are built in the
signed coordinates sign * rho, where a gate always reads rho < t, while everything that a person
sees is in the coordinates of v_hat.

Source: arXiv 2604.08169v2, sections 3.3-3.4; reversal and edit_direction are this project's.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.interventions import Law, stmp_law, sttp_law, swfc_law
from interp_steer.probes import LayerProbe
from interp_steer.scopes import Scope

Method = Literal["swfc", "sttp", "stmp"]
Direction = Literal["aligned", "reversed"]
Threshold = Literal["boundary"] | tuple[Literal["sigma", "value"], float | int]
"""boundary: m. ("sigma", k): mu+ + k sigma+. ("value", x): x in the layer's projection units."""

_UNIT_TOLERANCE = (
    1e-3  # float32 and bfloat16 vectors normalised by the caller pass, scaled ones do not
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteeringSpec:
    """One intervention, as asked for. Compared by identity (it may hold a tensor).

    Raises:
        SteeringError: for a value outside what the fields name, or a combination without meaning.
    """

    method: Method | str
    """swfc: fixed coefficient. sttp: to a target projection. stmp: mirrored projection."""
    layer: int | tuple[int, ...]
    """Layer, or layers, after whose block the residual stream is edited; zero-based."""
    alpha: float | int
    """Strength: multiples of delta_mu (swfc), of sigma+ above mu+ (sttp), of half mirror images
    (stmp: 0.5 onto the threshold, 1 mirrored). Negative only for sttp."""
    scope: str | Scope = "all"
    """Which tokens may be touched: 'all', 'response', 'prompt', 'first:K' or a `Scope`."""
    direction: Direction | str = "aligned"
    """aligned: towards the trait. reversed: towards its opposite."""
    threshold: Threshold | str | tuple[str, float | int] = "boundary"
    """Gate of sttp and stmp, see `Threshold`; reversed, 'sigma' reads mu- - k sigma-."""
    cap_sigmas: float | int | None = 40.0
    """stmp alone: the new projection stays at or below mu+ + cap_sigmas * sigma+; None for off."""
    edit_direction: Float[Tensor, "d_model"] | Float[Tensor, "layer d_model"] | None = None
    """Control: gate and signed shift still come from v_hat, but the edit is along this unit vector
    (one row per entry of `layer` for several layers)."""

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        _check_choice("direction", self.direction, get_args(Direction))
        self._check_layers()
        self._check_strength()
        self._check_threshold()
        self._check_edit_direction()
        _ = self.token_scope

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers as a tuple."""
        return self.layer if isinstance(self.layer, tuple) else (self.layer,)

    @property
    def token_scope(self) -> Scope:
        """The scope, parsed."""
        return self.scope if isinstance(self.scope, Scope) else Scope.parse(self.scope)

    def _check_layers(self) -> None:
        layers = self.layers
        if not layers or len(set(layers)) < len(layers) or min(layers) < 0:
            raise SteeringError(
                f"expected one layer or several different ones, zero-based, got {self.layer!r}"
            )

    def _check_strength(self) -> None:
        if not math.isfinite(self.alpha):
            raise SteeringError(f"expected a finite alpha, got {self.alpha}")
        if self.alpha < 0 and self.method != "sttp":
            raise SteeringError(
                f"expected alpha >= 0 for {self.method}, got {self.alpha}; to steer away from the "
                "trait use direction='reversed'"
            )
        if self.cap_sigmas is not None and not math.isfinite(self.cap_sigmas):
            raise SteeringError(
                f"expected a finite cap_sigmas, got {self.cap_sigmas}; None turns the cap off"
            )

    def _check_threshold(self) -> None:
        if self.threshold == "boundary":
            return
        if self.method == "swfc":
            raise SteeringError(
                f"swfc acts on every token in scope and has no gate, got threshold "
                f"{self.threshold!r}; leave it out, or use sttp or stmp"
            )
        if isinstance(self.threshold, str) or self.threshold[0] not in ("sigma", "value"):
            raise SteeringError(
                "expected threshold 'boundary', ('sigma', k) or ('value', x), got "
                f"{self.threshold!r}"
            )
        if not math.isfinite(self.threshold[1]):
            raise SteeringError(f"expected a finite threshold, got {self.threshold!r}")
        if self.threshold[0] == "value" and len(self.layers) > 1:
            raise SteeringError(
                f"a threshold ('value', x) is in the projection units of one layer, got layers "
                f"{self.layers}; give one spec per layer, or use ('sigma', k)"
            )

    def _check_edit_direction(self) -> None:
        u = self.edit_direction
        if u is None:
            return
        shape = tuple(u.shape)
        if len(shape) == 2 and shape[0] != len(self.layers):
            raise SteeringError(
                f"expected an edit_direction of shape [d_model] or [{len(self.layers)}, d_model] "
                f"(one row per layer), got {list(shape)}"
            )
        norms = u.to(torch.float32).norm(dim=-1)
        if not bool(((norms - 1).abs() <= _UNIT_TOLERANCE).all()):
            raise SteeringError(
                f"expected an edit_direction of norm 1, got {norms.tolist()}; divide it by its norm"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSteering:
    """One spec at one layer: every number of it, in the coordinates of v_hat."""

    spec: SteeringSpec
    """What was asked for."""
    layer: int
    """Where."""
    sign: int
    """+1 aligned, -1 reversed: `law` reads sign * rho and its shift is multiplied by sign."""
    boundary: float
    """m of the probe."""
    threshold: float | None
    """The gate in force; None for swfc, which has none."""
    target: float | None
    """s of sttp; None for the others."""
    cap: float | None
    """Limit of the new projection (a floor when reversed); None where there is none."""
    law: Law
    """The arithmetic, in the coordinates sign * rho."""
    direction: Float[Tensor, "d_model"] | None
    """Unit vector to edit along where it is not v_hat (control)."""


def quantile_threshold(projections: Float[Tensor, "token"], q: float) -> Threshold:
    """Return the threshold at the `q`-quantile of per-token projections of one layer.

    Args:
        projections: of the aligned training responses' tokens, in activation units.
        q: in [0, 1].

    Raises:
        SteeringError: without projections, with a non-finite one, or with q outside [0, 1].
    """
    if not 0 <= q <= 1:
        raise SteeringError(f"expected a quantile in [0, 1], got {q}")
    if not projections.numel() or not bool(projections.isfinite().all()):
        raise SteeringError(
            f"expected finite projections of at least one token, got {projections.numel()} tokens, "
            f"{int((~projections.isfinite()).sum())} of them not finite"
        )
    # torch.quantile refuses more than 2**24 values; sorting does not.
    ordered = projections.to(torch.float64).sort().values
    place = q * (ordered.numel() - 1)
    low = ordered[math.floor(place)].item()
    high = ordered[math.ceil(place)].item()
    return ("value", low + (high - low) * (place - math.floor(place)))


def resolve(spec: SteeringSpec, probe: LayerProbe) -> LayerSteering:
    """Return what `spec` means at the layer of `probe`.

    With + and - swapped and signs turned for the reversed direction: t = m, mu+ + k sigma+ or the
    given value; s = mu+ + alpha sigma+; cap = mu+ + cap_sigmas sigma+.

    Raises:
        SteeringError: if the cap is below the threshold, the probe's numbers are not finite, or
            edit_direction has another width than v_hat.
    """
    aligned = spec.direction == "aligned"
    sign = 1 if aligned else -1
    centre = probe.mu_pos if aligned else -probe.mu_neg
    spread = probe.sigma_pos if aligned else probe.sigma_neg
    if not all(map(math.isfinite, (probe.boundary, centre, spread, probe.delta_mu))):
        raise SteeringError(f"the probe of layer {probe.layer} has a statistic that is not finite")
    threshold = target = cap = None
    if spec.method == "swfc":
        law = swfc_law(alpha=float(spec.alpha), delta_mu=probe.delta_mu)
    else:
        threshold = _signed_threshold(spec, sign * probe.boundary, centre, spread)
        if spec.method == "sttp":
            target = centre + spec.alpha * spread
            law = sttp_law(threshold=threshold, target=target)
        else:
            cap = None if spec.cap_sigmas is None else centre + spec.cap_sigmas * spread
            law = stmp_law(threshold=threshold, alpha=float(spec.alpha), cap=cap)
    return LayerSteering(
        spec=spec,
        layer=probe.layer,
        sign=sign,
        boundary=probe.boundary,
        threshold=None if threshold is None else sign * threshold,
        target=None if target is None else sign * target,
        cap=None if cap is None else sign * cap,
        law=law,
        direction=_direction_at(spec, probe),
    )


def _signed_threshold(spec: SteeringSpec, boundary: float, centre: float, spread: float) -> float:
    """Return the gate in the coordinates sign * rho."""
    if isinstance(spec.threshold, str):
        return boundary
    kind, value = spec.threshold
    if kind == "sigma":
        return centre + value * spread
    return float(value) if spec.direction == "aligned" else -float(value)


def _direction_at(spec: SteeringSpec, probe: LayerProbe) -> Float[Tensor, "d_model"] | None:
    """Return the control's unit vector for one layer, in float32, renormalised."""
    u = spec.edit_direction
    if u is None:
        return None
    if u.shape[-1] != probe.v_hat.shape[-1]:
        raise SteeringError(
            f"expected an edit_direction of width {probe.v_hat.shape[-1]} (d_model of the probes), "
            f"got {u.shape[-1]}"
        )
    chosen = u if u.ndim == 1 else u[spec.layers.index(probe.layer)]
    wide = chosen.detach().to(torch.float32).cpu()
    return wide / wide.norm()


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value outside a `Literal`."""
    if value not in choices:
        raise SteeringError(f"expected {name} one of {', '.join(choices)}, got {value!r}")
