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
from jaxtyping import Bool, Float, Int

from interp_steer.planes import FitMethod, fit_planes, span_for
from interp_steer.resamples import Resamples

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
    subsets = list(_subsets(of_row, len(names), n_seeds=n_seeds, seed=seed))
    everything, n = np.ones(len(rows), dtype=bool), len(subsets)
    kept = np.stack([everything, *(s.kept for s in subsets), *(s.apart for s in subsets)])
    found = {m: directions(rows, is_aligned, kept, method=m, c=c) for m in methods}
    for place, subset in enumerate(subsets, start=1):
        about = (subset.n_scenarios, subset.seed)
        for method in methods:
            whole, one, apart = (found[method][at] for at in (0, place, n + place))
            pair = {"to_all": whole} if subset.n_scenarios < len(names) else {}
            if subset.apart.any():
                pair["disjoint"] = apart
            for comparison, other in pair.items():
                yield _agreement(comparison, (method, method), *about, one, other)
        for one, other in combinations(methods, 2):
            vectors = (found[one][place], found[other][place])
            yield _agreement("between_methods", (one, other), *about, *vectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subset:
    n_scenarios: int
    seed: int
    kept: Bool[np.ndarray, "response"]
    apart: Bool[np.ndarray, "response"]  # as many others; none where the subset is over half


def _subsets(
    of_row: Int[np.ndarray, "response"], n_scenarios: int, *, n_seeds: int, seed: int
) -> Iterator[_Subset]:
    for size in subset_sizes(n_scenarios):
        for draw in range(n_seeds if size < n_scenarios else 1):
            order = np.random.default_rng([seed, draw, size]).permutation(n_scenarios)
            apart = np.isin(of_row, order[size : 2 * size]) & (2 * size <= n_scenarios)
            kept = np.isin(of_row, order[:size])
            yield _Subset(n_scenarios=size, seed=draw, kept=kept, apart=apart)


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


def directions(
    rows: Float[np.ndarray, "response d_model"],
    is_aligned: Bool[np.ndarray, "response"],
    kept: Bool[np.ndarray, "subset response"],
    *,
    method: FitMethod,
    c: float,
) -> Float[np.ndarray, "subset d_model"]:
    """Directions fitted on some rows each; zero where a side is missing or both means agree."""
    found = np.zeros((len(kept), rows.shape[1]))
    samples = Resamples.subsets(kept, is_aligned)
    is_whole = ~samples.one_sided()
    if is_whole.any():
        span = span_for(rows, method)
        planes = fit_planes(span.coordinates, samples.only(is_whole), method=method, c=c)
        found[is_whole] = span.lift(np.stack([plane.normal for plane in planes]))
    return found
