"""Fitting probes against a loop of scikit-learn fits that reach the same objective.

- `fit_vs_sklearn`: time of one layer's fits, the probe itself, 200 bootstraps and 50 shuffles of
  the labels, in a loop of `sklearn.linear_model.LogisticRegression`, over the time that this
  library takes. Here the layer's rows are rotated into their span once (`logistic.Span`) and every
  fit is solved there, in as many dimensions as there are rows. Layers are independent and alike:
  80 of them take 80 times as long on both sides.

scikit-learn is run with lbfgs, its fastest solver where dimensions are many, to a tolerance at
which its objective agrees with the exact optimum to 1e-8, which is checked for every fit that is
timed. Its whole loop would take too long: the time is extrapolated from a few of its fits, spread
over all, which the case says.

Command: python -m benchmarks fitting [--quick]. Takes about four minutes on two idle cores.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.ratios import BenchmarkError, Options, Ratio, at_least, measured, paired_ratio
from interp_steer.logistic import Optimum, Span, solve_logistic

N_BOOTSTRAPS, N_SHUFFLES = 200, 50
N_TIMED = 20
"""Fits of scikit-learn behind its time."""
OBJECTIVE_NOISE = 1e-8
"""Largest relative difference of the objectives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Responses of two classes at one layer, and what is fitted to them."""

    rows: Float[np.ndarray, "row d_model"]
    """Far from the origin and from round, as residual streams are."""
    is_aligned: Bool[np.ndarray, "row"]
    """Class of each."""

    @classmethod
    def made(cls, *, n_per_class: int, d_model: int, seed: int) -> "Layer":
        """Draw a layer."""
        rng = np.random.default_rng(seed)
        is_aligned = np.arange(2 * n_per_class) < n_per_class
        scales = rng.lognormal(sigma=1.0, size=d_model)
        rows = rng.normal(size=(2 * n_per_class, d_model)) * scales + 5 * rng.normal(size=d_model)
        rows[is_aligned] += 0.3 * rng.normal(size=d_model)
        return cls(rows=rows, is_aligned=is_aligned)

    def fits(self, seed: int) -> Iterator[tuple[Int[np.ndarray, "row"], Bool[np.ndarray, "row"]]]:
        """Rows and labels of every fit: all rows, bootstraps, shuffled labels."""
        rng, n = np.random.default_rng(seed), len(self.rows)
        every = np.arange(n)
        yield every, self.is_aligned
        for _ in range(N_BOOTSTRAPS):
            drawn = rng.integers(n, size=n)
            yield drawn, self.is_aligned[drawn]
        for _ in range(N_SHUFFLES):
            yield every, rng.permutation(self.is_aligned)

    def ours(self, n_fits: int, seed: int) -> list[Optimum]:
        """The first `n_fits` fits by this library, weights in raw coordinates."""
        span = Span.of(self.rows)
        found = []
        for (rows, labels), _ in zip(self.fits(seed), range(n_fits), strict=False):
            reduced = solve_logistic(span.coordinates[rows], labels)
            weights = span.lift(reduced.weights)
            found.append(
                Optimum(
                    weights=weights,
                    intercept=reduced.intercept - float(weights @ span.origin),
                    relative_gradient=reduced.relative_gradient,
                    converged=reduced.converged,
                )
            )
        return found

    def sklearn(self, places: Int[np.ndarray, "fit"], seed: int) -> list[Optimum]:
        """Some of the fits by scikit-learn."""
        from sklearn.linear_model import LogisticRegression

        wanted, found = set(places.tolist()), []
        for place, (rows, labels) in enumerate(self.fits(seed)):
            if place in wanted:
                model = LogisticRegression(C=1.0, solver="lbfgs", tol=1e-9, max_iter=100_000)
                model.fit(self.rows[rows], labels)
                found.append(
                    Optimum(
                        weights=np.asarray(model.coef_)[0],
                        intercept=float(np.asarray(model.intercept_)[0]),
                        relative_gradient=0.0,
                        converged=True,
                    )
                )
        return found

    def objective(self, found: Optimum, place: int, seed: int) -> float:
        """The objective of one fit at an optimum."""
        rows, labels = next(fit for at, fit in enumerate(self.fits(seed)) if at == place)
        margins = np.where(labels, 1.0, -1.0) * (self.rows[rows] @ found.weights + found.intercept)
        return float(np.logaddexp(0.0, -margins).sum() + found.weights @ found.weights / 2)


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script.

    Raises:
        BenchmarkError: scikit-learn does not reach the optimum.
    """
    d_model = 64 if options.quick else 8192
    sizes = (8,) if options.quick else (50, 250)
    return [_against_sklearn(n, d_model, options) for n in sizes]


def _against_sklearn(n_per_class: int, d_model: int, options: Options) -> Ratio:
    n_fits = 1 + N_BOOTSTRAPS + N_SHUFFLES
    n_timed = 3 if options.quick else N_TIMED
    ours, theirs = [], []
    for run in range(min(3, options.runs)):
        layer = Layer.made(n_per_class=n_per_class, d_model=d_model, seed=run)
        started = time.perf_counter()
        exact = layer.ours(n_fits, run)
        ours.append(n_fits / (time.perf_counter() - started))
        places = np.unique(np.linspace(0, n_fits - 1, n_timed).astype(int))
        started = time.perf_counter()
        loop = layer.sklearn(places, run)
        theirs.append(len(places) / (time.perf_counter() - started))
        for place, found in zip(places.tolist(), loop, strict=True):
            check_objective(layer, exact[place], found, place=place, seed=run)
    case = (
        f"one layer of d_model {d_model}, {n_per_class} responses a class, {n_fits} fits "
        f"(scikit-learn's extrapolated from {n_timed})"
    )
    goal = None if options.quick else at_least(20)
    return measured("fit_vs_sklearn", case, paired_ratio(ours, theirs), device="cpu", goal=goal)


def check_objective(
    layer: Layer, exact: Optimum, found: Optimum, *, place: int, seed: int
) -> float:
    """Refuse to compare unless both reach the same objective; return the relative difference.

    Raises:
        BenchmarkError: they do not.
    """
    least, other = (layer.objective(one, place, seed) for one in (exact, found))
    off = abs(other - least) / least
    if not exact.converged or off > OBJECTIVE_NOISE:
        raise BenchmarkError(
            f"scikit-learn's objective of fit {place} is {off:.1e} from the optimum, expected at "
            f"most {OBJECTIVE_NOISE:.0e}"
        )
    return off
