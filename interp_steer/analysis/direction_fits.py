"""How far a direction depends on the data it was fitted to, and on the way it was fitted.

Directions are fitted on subsets of scenarios (both sides of each) and compared by cosine: with the
direction of all scenarios, between disjoint subsets (which share nothing, so that no agreement is
by construction), and between methods on the same subset. In d dimensions two random directions have
a cosine of about 0 +- 1 / sqrt(d). A stable direction may be stably irrelevant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from interp_steer.planes import FitMethod, fit_plane, span_for

COMPARISONS = ("to_all", "disjoint", "between_methods")
"""to_all: subset against all scenarios. disjoint: two subsets without a common scenario, split
halves where each is half of all. between_methods: two methods on one subset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The cosine of two directions."""

    comparison: str
    """One of `COMPARISONS`."""
    method: str
    """How the first was fitted."""
    other_method: str
    """How the second was fitted."""
    n_scenarios: int
    """Scenarios behind each subset's direction."""
    seed: int
    """Which subset."""
    cosine: float
    """-1 to 1; NaN where a side's mean equals the other's and no direction exists."""


def subset_sizes(n_scenarios: int) -> list[int]:
    """10, 20, 50, 100, ... below half, then half and all; few scenarios start at 2."""
    steps = [k * 10**power for power in range(1, 6) for k in (1, 2, 5)]
    half = n_scenarios // 2
    sizes = {size for size in steps if size < n_scenarios} | {half, n_scenarios}
    return sorted(size for size in sizes if size >= 2)


def layer_agreements(
    rows: Float[np.ndarray, "response d_model"],
    is_aligned: Bool[np.ndarray, "response"],
    scenarios: Sequence[str],
    *,
    methods: Sequence[FitMethod],
    n_seeds: int,
    c: float = 1.0,
    seed: int = 42,
) -> Iterator[Agreement]:
    """Compare directions of one layer over subset sizes, seeds and methods."""
    names = np.array(sorted(set(scenarios)))
    of_row = np.searchsorted(names, np.array(scenarios))
    everything = np.ones(len(rows), dtype=bool)
    whole = {m: direction(rows, is_aligned, everything, method=m, c=c) for m in methods}
    for size in subset_sizes(len(names)):
        for draw in range(n_seeds if size < len(names) else 1):
            order = np.random.default_rng([seed, draw, size]).permutation(len(names))
            kept = np.isin(of_row, order[:size])
            # Disjoint from `kept` and of the same size; empty for more than half.
            apart = np.isin(of_row, order[size : 2 * size]) & (2 * size <= len(names))
            fits = {m: direction(rows, is_aligned, kept, method=m, c=c) for m in methods}
            for method in methods:
                pair = {"to_all": whole[method]} if size < len(names) else {}
                if apart.any():
                    pair["disjoint"] = direction(rows, is_aligned, apart, method=method, c=c)
                for comparison, other in pair.items():
                    yield _agreement(comparison, (method, method), size, draw, fits[method], other)
            for one, other in combinations(methods, 2):
                vectors = (fits[one], fits[other])
                yield _agreement("between_methods", (one, other), size, draw, *vectors)


def _agreement(
    comparison: str,
    methods: tuple[str, str],
    n_scenarios: int,
    seed: int,
    one: Float[np.ndarray, "d_model"],
    other: Float[np.ndarray, "d_model"],
) -> Agreement:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return Agreement(
        comparison=comparison,
        method=methods[0],
        other_method=methods[1],
        n_scenarios=n_scenarios,
        seed=seed,
        cosine=float(one @ other) / lengths if lengths else float("nan"),
    )


def direction(
    rows: Float[np.ndarray, "response d_model"],
    is_aligned: Bool[np.ndarray, "response"],
    kept: Bool[np.ndarray, "response"],
    *,
    method: FitMethod,
    c: float,
) -> Float[np.ndarray, "d_model"]:
    """Direction fitted on some rows; zero where one side is missing or both means agree."""
    if np.unique(is_aligned[kept]).size < 2:
        return np.zeros(rows.shape[1])
    span = span_for(rows[kept], method)
    return span.lift(fit_plane(span.coordinates, is_aligned[kept], method=method, c=c).normal)
