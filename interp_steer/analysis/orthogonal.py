"""The leading direction orthogonal to v_hat: the second axis of the plane that figure 2 draws.

It is the first principal component of response means once v_hat is projected out: where responses
differ most in what steering leaves alone. It is an axis to look along, nothing was found along it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from interp_steer.probes import ProbeSet
from interp_steer.residuals import ResidualPair


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OrthogonalAxis:
    """A direction orthogonal to v_hat, and where its coordinate is 0."""

    direction: Float[np.ndarray, "d_model"]
    """Unit vector; zero where residuals do not differ but along v_hat."""
    origin: float
    """Dot product of the mean residual with it."""
    share: float
    """Share of the variance orthogonal to v_hat that lies along it, 0-1."""

    def coordinates(self, rows: Float[np.ndarray, "row d_model"]) -> Float[np.ndarray, "row"]:
        """<h, direction> - origin, activation units."""
        return rows.astype(np.float64) @ self.direction - self.origin


def orthogonal_axis(
    rows: Float[np.ndarray, "row d_model"], v_hat: Float[np.ndarray, "d_model"]
) -> OrthogonalAxis:
    """The leading principal component of `rows` orthogonal to `v_hat`.

    The rows are centred, v_hat is projected out, and the first right singular vector is taken; its
    sign is such that its largest entry is positive.
    """
    v = v_hat.astype(np.float64) / np.linalg.norm(v_hat.astype(np.float64))
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    rest = rows - mean
    rest = rest - np.outer(rest @ v, v)
    total = float((rest**2).sum())
    if total < 1e-12 * max(1.0, float((rows**2).sum())):
        return OrthogonalAxis(direction=np.zeros_like(v), origin=0.0, share=0.0)
    _, singular, directions = np.linalg.svd(rest, full_matrices=False)
    axis = directions[0] * np.sign(directions[0][np.abs(directions[0]).argmax()])
    share = float(singular[0] ** 2 / total)
    return OrthogonalAxis(direction=axis, origin=float(mean @ axis), share=share)


def layer_axes(probes: ProbeSet, residuals: ResidualPair) -> Iterator[tuple[int, OrthogonalAxis]]:
    """Each probed layer with its axis, from the response means of both sides.

    Responses without tokens (NaN) are left out.
    """
    for probe in probes.probes:
        place = residuals.aligned.layers.index(probe.layer)
        sides = (residuals.aligned.values, residuals.malicious.values)
        rows = np.concatenate([values[:, place].numpy() for values in sides])
        rows = rows[np.isfinite(rows).all(axis=1)]
        yield probe.layer, orthogonal_axis(rows, probe.v_hat.numpy())


def as_directions(probes: ProbeSet, axes: dict[int, OrthogonalAxis]) -> ProbeSet:
    """The axes where `projection_batches` takes its directions from; no probe of anything."""
    return ProbeSet(
        probes=tuple(
            replace(probe, v_hat=torch.as_tensor(axes[probe.layer].direction, dtype=torch.float32))
            for probe in probes.probes
        )
    )
