"""What a moved boundary would do, from cached projections alone: firing rates, edits, curves.

The explorer asks again at every drag, so nothing here runs a model or loops over tokens: one
layer's projections are read once, and the law that the hooks apply (`specs.resolve`,
`interventions.move`) is applied to all of them. What comes out is a first-order answer: the
projections are of unsteered tokens, while a steered model writes other tokens, and its later
projections are moved by the earlier edits. Only a generation says what steering does.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from interp_steer.analysis.frames import numbers
from interp_steer.interventions import move
from interp_steer.plots.densities import ProjectionSample
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.token_scopes import scope_mask
from interp_steer.probes import LayerProbe
from interp_steer.specs import LayerSteering, SteeringSpec, resolve

SIDES = ("aligned", "malicious")
_PIECE = 32_000
"""Tokens that a law is applied to at once. torch spreads larger arrays over threads, which takes
five times as long for such simple arithmetic, and more where the cores have other work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryChoice:
    """A method with the numbers that can be moved by hand, at one layer."""

    method: str
    """swfc, sttp or stmp."""
    layer: int
    """Zero-based."""
    alpha: float
    """Coefficient of the method."""
    scope: str
    """Which tokens are asked about."""
    threshold: float | None = None
    """Gate in activation units; None for the probe's boundary m. Without meaning for swfc."""

    def spec(self) -> SteeringSpec:
        """The choice as the hooks take it.

        Raises:
            SteeringError: a value that cannot be applied.
        """
        gated = self.method != "swfc" and self.threshold is not None
        return SteeringSpec(
            method=self.method,
            layer=self.layer,
            alpha=self.alpha,
            scope=self.scope,
            threshold=("value", float(self.threshold)) if gated else "boundary",  # pyright: ignore[reportArgumentType]
        )

    def at(self, probe: LayerProbe) -> LayerSteering:
        """The choice in numbers.

        Raises:
            SteeringError: as `spec`, or a cap below the threshold.
        """
        return resolve(self.spec(), probe)

    def with_target(self, target: float, probe: LayerProbe) -> "BoundaryChoice":
        """The same with StTP's alpha such that mu+ + alpha sigma+ is `target`.

        Raises:
            FigureError: a probe without spread, where no alpha moves the target.
        """
        if not probe.sigma_pos:
            raise FigureError(
                f"sigma+ of layer {probe.layer} is 0: every alpha has the target {probe.mu_pos:g}"
            )
        return replace(self, alpha=(target - probe.mu_pos) / probe.sigma_pos)


class TokenProjections:
    """Projections of every token of the training responses at one layer, read once."""

    def __init__(self, frame: pd.DataFrame, *, layer: int) -> None:
        """Take the columns scenario, side, response_index, pos, segment and projection.

        Args:
            frame: rows of projections.parquet, of one layer, in the order of the file.
            layer: whose rows they are.
        """
        self.layer = layer
        self.projection: Float[np.ndarray, token] = numbers(frame, "projection")
        self.is_aligned: Bool[np.ndarray, token] = (frame["side"] == "aligned").to_numpy()
        self._frame = frame
        self._masks: dict[str, Bool[np.ndarray, token]] = {}

    def __len__(self) -> int:
        return len(self.projection)

    def in_scope(self, scope: str) -> Bool[np.ndarray, "token"]:
        """Which tokens `scope` names; see `token_scopes.scope_mask`."""
        if scope not in self._masks:
            self._masks[scope] = scope_mask(self._frame, scope)
        return self._masks[scope]

    def of(self, side: str, scope: str) -> Float[np.ndarray, "chosen"]:
        """Projections of one side's tokens in a scope."""
        is_side = self.is_aligned if side == "aligned" else ~self.is_aligned
        return self.projection[is_side & self.in_scope(scope)]

    @cached_property
    def responses(self) -> ProjectionSample:
        """Response tokens of both sides, for histograms."""
        return ProjectionSample(
            aligned=self.of("aligned", "response"),
            malicious=self.of("malicious", "response"),
            unit="response tokens",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EditNumbers:
    """What a choice would do to a set of tokens."""

    n: int
    """Tokens in scope."""
    fired: float
    """Share of them that the gate lets through; NaN without tokens, and so are the others."""
    capped: float
    """Share of them that the cap holds back."""
    mean_edit: float
    """Mean |rho' - rho| over the tokens in scope, activation units."""
    mean_edit_fired: float
    """Mean |rho' - rho| over the tokens that fire; NaN where none does."""


def edit_numbers(rho: Float[np.ndarray, "token"], steering: LayerSteering) -> EditNumbers:
    """Firing rate and size of the edits that `steering` makes on projections."""
    moved = moves(rho, steering)
    n, n_fired = len(rho), int(moved.fired.sum())
    total = float(np.abs(moved.shift).sum())
    return EditNumbers(
        n=n,
        fired=n_fired / n if n else np.nan,
        capped=int(moved.capped.sum()) / n if n else np.nan,
        mean_edit=total / n if n else np.nan,
        mean_edit_fired=total / n_fired if n_fired else np.nan,
    )


def moved_projections(
    rho: Float[np.ndarray, "token"], steering: LayerSteering
) -> Float[np.ndarray, "token"]:
    """Rho' of every projection."""
    return rho + moves(rho, steering).shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What a law does to each token; see `interventions.Move`."""

    shift: Float[np.ndarray, "token"]
    """rho' - rho."""
    fired: Bool[np.ndarray, "token"]
    """The gate let the law act."""
    capped: Bool[np.ndarray, "token"]
    """The cap shortened the move."""


def moves(rho: Float[np.ndarray, "token"], steering: LayerSteering) -> Moves:
    """Apply the law of `steering` to projections, piece by piece."""
    parts = [move(piece, steering.law) for piece in torch.from_numpy(rho).split(_PIECE)]
    return Moves(
        shift=np.concatenate([part.shift.numpy() for part in parts]),
        fired=np.concatenate([part.fired.numpy() for part in parts]),
        capped=np.concatenate([part.capped.numpy() for part in parts]),
    )
