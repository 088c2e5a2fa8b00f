"""Projections as densities on one axis: bins, span and the positions that are marked.

Why apart: what a histogram shows (and leaves out) is arithmetic, and is checked without a figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.style import ALIGNED, INK, MALICIOUS, TARGET
from interp_steer.probes import LayerProbe

SHOWN_SHARE = 0.999
"""Central share of the projections that the axis spans; what lies beyond is counted in a title."""
MAX_BINS = 160
"""Bins of a histogram at most: more is noise at print size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionSample:
    """Projections on one layer's v_hat, of both sides, in activation units."""

    aligned: Float[np.ndarray, "aligned"]
    """Under the aligned prompt: one value a response or a token."""
    malicious: Float[np.ndarray, "malicious"]
    """Under the malicious prompt: one value a response or a token."""
    unit: str
    """What one value stands for, in the plural: "responses", "tokens"."""

    def __post_init__(self) -> None:
        for side in ("aligned", "malicious"):
            values = getattr(self, side)
            if not values.size:
                raise FigureError(f"no {side} projections of {self.unit}; both sides are needed")
            if not np.isfinite(values).all():
                bad = int((~np.isfinite(values)).sum())
                raise FigureError(
                    f"{bad} of {values.size} {side} projections of {self.unit} are not finite; "
                    "check the residuals they come from"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A vertical line of a histogram."""

    name: str
    x: float
    colour: str
    dash: str


def vertical_marks(probe: LayerProbe, target: float | None) -> list[Mark]:
    """Boundary, class means and, where there is one, StTP's target."""
    marks = [
        Mark(name="boundary", x=float(probe.boundary), colour=INK, dash="solid"),
        Mark(name="aligned mean", x=float(probe.mu_pos), colour=ALIGNED, dash="dot"),
        Mark(
            name="malicious mean",
            x=float(probe.mu_neg),
            colour=MALICIOUS,
            dash="dash",
        ),
    ]
    if target is not None:
        marks.append(Mark(name="StTP target s", x=target, colour=TARGET, dash="dashdot"))
    return marks


def shown_span(samples: Sequence[ProjectionSample], marks: Sequence[float]) -> tuple[float, float]:
    """Axis range: the central share of every sample and all marks, with a margin of 4 %."""
    tail = (1 - SHOWN_SHARE) / 2
    ends = [
        *(
            np.quantile(side, [tail, 1 - tail])
            for s in samples
            for side in (s.aligned, s.malicious)
        ),
        np.asarray(marks, dtype=np.float64),
    ]
    every = np.concatenate(ends)
    low, high = float(every.min()), float(every.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def densities(
    sample: ProjectionSample, span: tuple[float, float]
) -> tuple[Float[np.ndarray, "edge"], dict[str, Float[np.ndarray, "bin"]]]:
    """Edges of the bins that both sides share, and each side's density in them (1 / a.u.)."""
    edges = _edges(sample, span)
    width = edges[1] - edges[0]
    found = {}
    for side in ("aligned", "malicious"):
        values = getattr(sample, side)
        found[side] = np.histogram(values, bins=edges)[0] / (values.size * width)
    return edges, found


def distribution_table(probe: LayerProbe, *samples: ProjectionSample) -> pd.DataFrame:
    """The drawn bins as rows: layer, unit, side, n, low, high, density; the marks likewise."""
    span = shown_span(samples, [mark.x for mark in vertical_marks(probe, None)])
    rows: list[dict[str, object]] = []
    for sample in samples:
        edges, found = densities(sample, span)
        for side, density in found.items():
            n = getattr(sample, side).size
            bins = zip(edges[:-1], edges[1:], density, strict=True)
            head = {"layer": probe.layer, "unit": sample.unit, "side": side, "n": n}
            rows += [head | {"low": a, "high": b, "density": y} for a, b, y in bins]
    marks = {"m": probe.boundary, "mu_pos": probe.mu_pos, "mu_neg": probe.mu_neg}
    return pd.DataFrame(rows).assign(cohens_d=probe.crossfit.cohens_d, **marks)


def _edges(sample: ProjectionSample, span: tuple[float, float]) -> Float[np.ndarray, "edge"]:
    """Bins shared by both sides, of the width that Scott's rule gives the narrower of them."""
    both = np.concatenate([sample.aligned, sample.malicious])
    low, high = np.clip([both.min(), both.max()], *span)
    spread = [side.std() / side.size ** (1 / 3) for side in (sample.aligned, sample.malicious)]
    length = high - low or (span[1] - span[0]) / 50
    n_bins = length / (3.5 * min(spread)) if min(spread) else MAX_BINS
    return np.linspace(low, low + length, int(np.clip(n_bins, 10, MAX_BINS)) + 1)
