"""The three interventions as pure functions of projections; no model, no hook, no token.

Why apart: each method is one line of arithmetic on rho = <h, v_hat>, and its laws can be proved on
numbers alone. All three are the same law with other constants,

    fired  = rho < gate
    rho'   = min(rho + offset + gain * (pivot - rho), cap)      where fired, rho elsewhere
    h'     = h + (rho' - rho) * v_hat                           where rho' differs, h elsewhere

which is how a hook can apply another method to every row of a batch at once. Directions here are
always "aligned is up"; `specs` maps the reversed direction onto it by v_hat -> -v_hat. What this
does not establish: that moving a projection changes behaviour.

Source: arXiv 2604.08169v2, equations 3-5; cap from the authors' published payloads.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import linear

from interp_steer.errors import SteeringError

Number = float | int | Float[Tensor, "..."]
"""A constant of a law: one value for all tokens, or a tensor that broadcasts over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """What one intervention does to a projection, in projection units (activation units)."""

    gate: Number
    """Tokens with rho below it fire; +inf fires on every token."""
    gain: Number
    """Share of the way to `pivot` that is added; 0 none, 1 onto it, 2 the mirror image."""
    pivot: Number
    """Projection that `gain` pulls towards; finite."""
    offset: Number
    """Constant added to the projection."""
    cap: Number
    """Upper limit of the new projection; +inf for none."""


NEUTRAL = {"gate": (math.inf,), "gain": (0.0, 1.0), "offset": (0.0,), "cap": (math.inf,)}
"""Numbers that cost no operation, by constant of a law (`move`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a law does to each token; what is not asked for is not computed."""

    fired: Bool[Tensor, "*batch"]
    """The gate let the law act."""
    wanted: Float[Tensor, "*batch"]
    """What rho' - rho would be of a token that fires, were there no cap."""
    room: Float[Tensor, "*batch"] | None = None
    """How far the cap is from rho; None without a cap."""

    @property
    def allowed(self) -> Float[Tensor, "*batch"]:
        """What rho' - rho is of a token that fires."""
        return self.wanted if self.room is None else torch.minimum(self.wanted, self.room)

    @property
    def shift(self) -> Float[Tensor, "*batch"]:
        """The move rho' - rho; exactly 0 where not fired."""
        return torch.where(self.fired, self.allowed, 0.0)

    @property
    def capped(self) -> Bool[Tensor, "*batch"]:
        """Fired, and the cap shortened the move."""
        if self.room is None:
            return torch.zeros_like(self.fired)
        return self.fired & (self.wanted > self.room)


def swfc_law(*, alpha: Number, delta_mu: Number) -> Law:
    """Return steering with a fixed coefficient: rho' = rho + alpha * delta_mu, every token."""
    return Law(gate=math.inf, gain=0.0, pivot=0.0, offset=alpha * delta_mu, cap=math.inf)


def sttp_law(*, threshold: Number, target: Number) -> Law:
    """Return steering to a target projection: rho' = target where rho < threshold."""
    return Law(gate=threshold, gain=1.0, pivot=target, offset=0.0, cap=math.inf)


def stmp_law(*, threshold: Number, alpha: Number, cap: Number | None = None) -> Law:
    """Return steering to a mirrored projection: rho' = min(rho + 2 alpha (threshold - rho), cap).

    Raises:
        SteeringError: if `cap` and `threshold` are numbers and cap < threshold (the cap would pull
            tokens down that the method lifts).
    """
    limit = math.inf if cap is None else cap
    if not isinstance(limit, Tensor) and not isinstance(threshold, Tensor) and limit < threshold:
        raise SteeringError(
            f"expected a cap at or above the threshold {threshold:.4g}, got cap {limit:.4g}; raise "
            "cap_sigmas, or turn the cap off with cap_sigmas=None"
        )
    return Law(gate=threshold, gain=2.0 * alpha, pivot=threshold, offset=0.0, cap=limit)


def move(
    rho: Float[Tensor, "*batch"], law: Law, *, among: Bool[Tensor, "*batch"] | None = None
) -> Move:
    """Apply `law` to projections; the shift is computed directly, not as a difference of rho's.

    Constants that are numbers and change nothing (`NEUTRAL`) cost nothing: of few tokens, an
    operation costs what it costs to launch.

    Args:
        rho: projections.
        law: what to do.
        among: tokens that may fire; None for all.
    """
    if _is(law.gate, math.inf):
        fired = torch.ones_like(rho, dtype=torch.bool) if among is None else among
    else:
        fired = rho < law.gate
        fired = fired if among is None else fired & among
    return Move(
        fired=fired,
        wanted=_wanted(rho, law),
        room=None if _is(law.cap, math.inf) else law.cap - rho,
    )


def _wanted(rho: Float[Tensor, "*batch"], law: Law) -> Float[Tensor, "*batch"]:
    """Return offset + gain * (pivot - rho)."""
    if _is(law.gain, 0.0):
        if isinstance(law.offset, Tensor):
            return law.offset.expand_as(rho)
        return torch.full_like(rho, law.offset)
    pulled = law.pivot - rho
    pulled = pulled if _is(law.gain, 1.0) else law.gain * pulled
    return pulled if _is(law.offset, 0.0) else law.offset + pulled


def _is(constant: Number, value: float) -> bool:
    """Whether a constant of a law is a number, and this one."""
    return not isinstance(constant, Tensor) and constant == value


def swfc(
    rho: Float[Tensor, "*batch"], *, alpha: Number, delta_mu: Number
) -> Float[Tensor, "*batch"]:
    """Return rho + alpha * delta_mu (equation 3).

    Examples:
        >>> swfc(torch.tensor([-1.0, 0.5]), alpha=2.0, delta_mu=1.5).tolist()
        [2.0, 3.5]
    """
    return rho + move(rho, swfc_law(alpha=alpha, delta_mu=delta_mu)).shift


def sttp(
    rho: Float[Tensor, "*batch"], *, threshold: Number, target: Number
) -> Float[Tensor, "*batch"]:
    """Return `target` where rho < threshold, rho elsewhere (equation 4).

    Examples:
        >>> sttp(torch.tensor([-1.0, 0.5]), threshold=0.0, target=3.0).tolist()
        [3.0, 0.5]
    """
    return rho + move(rho, sttp_law(threshold=threshold, target=target)).shift


def stmp(
    rho: Float[Tensor, "*batch"], *, threshold: Number, alpha: Number, cap: Number | None = None
) -> Float[Tensor, "*batch"]:
    """Return min(rho + 2 alpha (threshold - rho), cap) where rho < threshold (equation 5).

    Raises:
        SteeringError: if `cap` is below `threshold`.

    Examples:
        >>> stmp(torch.tensor([-2.0, -1.0, 0.5]), threshold=0.0, alpha=1.0, cap=1.5).tolist()
        [1.5, 1.0, 0.5]
    """
    return rho + move(rho, stmp_law(threshold=threshold, alpha=alpha, cap=cap)).shift


def project(
    h: Float[Tensor, "*batch d_model"], v_hat: Float[Tensor, "d_model"]
) -> Float[Tensor, "*batch"]:
    """Return rho = <h, v_hat> in float32, whatever the dtype of `h`."""
    return (h if h.dtype == torch.float32 else h.float()) @ v_hat


def project_column(
    h: Float[Tensor, "*batch d_model"], v_hat: Float[Tensor, "1 d_model"]
) -> Float[Tensor, "*batch 1"]:
    """Return `project` with an axis of one behind it, for what is broadcast over d_model."""
    wide = h if h.dtype == torch.float32 else h.float()
    if not h.is_cpu:  # where products of matrices may be set to round more coarsely
        return (wide @ v_hat[0]).unsqueeze(-1)
    return linear(wide, v_hat)  # the same to the bit, and what the model does all the time


def token_norms(h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """Return |h| in float32, summed without a copy of `h` (in float64 if `h` is float64)."""
    wide = torch.promote_types(h.dtype, torch.float32)
    return torch.linalg.vector_norm(h, dim=-1, dtype=wide).float()


def edit(
    h: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, "... d_model"],
    shift: Float[Tensor, "*batch"],
    *,
    among: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Return h + shift * direction in the dtype of `h`; tokens that are not moved keep their bits.

    The sum is formed in float32 (float64 if `h` is float64) and rounded once. Bits are kept by
    selection: adding a zero would turn -0.0 into 0.0.

    Args:
        h: residual stream; never written to.
        direction: unit vector, one for all tokens or one that broadcasts over them.
        shift: signed distance along `direction`, in activation units.
        among: tokens that are moved, whatever the shift of the others; None for those whose shift
            is not 0.
    """
    among = shift != 0 if among is None else among
    return pushed(h, shift[..., None] * direction, among=among[..., None])


def pushed(
    h: Float[Tensor, "*batch d_model"],
    push: Float[Tensor, "... d_model"],
    *,
    among: Bool[Tensor, "*batch 1"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """Return h + push, formed and rounded as in `edit`.

    Args:
        h: residual stream; never written to.
        push: what tokens are moved by, of one or of all of them.
        among: tokens that are moved; None for all.
    """
    moved = _at_least_single(h) + push
    moved = moved if moved.dtype == h.dtype else moved.to(h.dtype)
    return moved if among is None else torch.where(among, moved, h)


def _at_least_single(h: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return `h` in float32, or as it is if it is that or wider."""
    # Compared first: to convert what needs no conversion still costs as much as a small product.
    return h if h.dtype in (torch.float32, torch.float64) else h.float()
