"""Fitting probes against loops of scikit-learn fits that reach the same objective.

- `fit_vs_sklearn`: time of one layer's fits, the probe itself, 200 bootstraps and 50 shuffles of
  the labels, in a loop of `sklearn.linear_model.LogisticRegression`, over the time that this
  library takes for all of them: centring, the span of the rows, their Gram matrix, every fit
  (`logistic_batch`) and the weights back in the coordinates of the model. Every run is another
  layer. Layers share nothing and are alike: 80 of them take 80 times as long on both sides.

Two loops. "On the rows" is what users give to scikit-learn: the responses, though centred, since
lbfgs stops up to 2e-4 from the optimum where they are not. "In the span" gives it the dimensions
that this library solves in, and counts the time of finding them. Both are generous: a bootstrap is
its distinct rows with weights, the solver is the faster of those tried (lbfgs, newton-cg,
newton-cholesky), and every fit has the loosest tolerance with which its objective is within 1e-8 of
the optimum's, looser ones not being counted. The whole loop would take too long: its time is
extrapolated from a few of its fits, spread over all, as the case says.

Command: python -m benchmarks fitting [--quick]. Takes about two minutes on two idle cores.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.ratios import BenchmarkError, Options, Ratio, at_least, measured, paired_ratio
from interp_steer.logistic import Span
from interp_steer.logistic_batch import Optima, solve_resamples
from interp_steer.resamples import Resamples, joined

N_BOOTSTRAPS, N_SHUFFLES = 200, 50
N_TIMED = 20
"""Fits of scikit-learn behind its time."""
OBJECTIVE_NOISE = 1e-8
"""Largest relative difference of the objectives."""
LOOPS: Mapping[str, str] = {"on the rows": "lbfgs", "in the span": "newton-cg"}
"""scikit-learn's solver by what it is given."""
TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
"""scikit-learn's, tried in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Responses of two classes at one layer."""

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

    def samples(self, seed: int) -> Resamples:
        """What is fitted: all rows, bootstraps, shuffled labels."""
        rng, n = np.random.default_rng(seed), len(self.rows)
        drawn = rng.integers(n, size=(N_BOOTSTRAPS, n))
        boots = np.stack([np.bincount(one, minlength=n) for one in drawn])
        shuffled = np.stack([rng.permutation(self.is_aligned) for _ in range(N_SHUFFLES)])
        labels = np.concatenate([self.is_aligned[None], shuffled])
        every = Resamples.subsets(np.ones(labels.shape, dtype=bool), labels)
        boots = Resamples(counts=boots, is_aligned=np.tile(self.is_aligned, (N_BOOTSTRAPS, 1)))
        is_first = np.arange(len(labels)) == 0
        return joined([every.only(is_first), boots, every.only(~is_first)])

    def ours(self, samples: Resamples) -> Optima:
        """All fits by this library, weights in the coordinates of the model."""
        span = Span.of(self.rows)
        reduced = solve_resamples(span.coordinates, samples)
        weights = span.lift(reduced.weights)
        return Optima(
            weights=weights,
            intercepts=reduced.intercepts - weights @ span.origin,
            relative_gradients=reduced.relative_gradients,
        )

    def objective(
        self,
        samples: Resamples,
        place: int,
        weights: Float[np.ndarray, "d_model"],
        intercept: float,
    ) -> float:
        """The objective of one fit, on the rows as they are."""
        signs = np.where(samples.is_aligned[place], 1.0, -1.0)
        losses = np.logaddexp(0.0, -signs * (self.rows @ weights + intercept))
        return float(samples.counts[place] @ losses + weights @ weights / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop of scikit-learn over the fits of a layer."""

    layer: Layer
    """The layer."""
    samples: Resamples
    """What is fitted."""
    exact: Optima
    """The optima, in the coordinates of the model."""
    given: str
    """One of `LOOPS`."""

    def seconds(self, places: Sequence[int]) -> float:
        """Time of all fits, extrapolated from those at `places`.

        Raises:
            BenchmarkError: a fit that does not reach its optimum.
        """
        started = time.perf_counter()
        span = self._span()
        once = time.perf_counter() - started
        timed = sum(self._fit(span, place) for place in places)
        return once + timed / len(places) * len(self.samples)

    def _span(self) -> Span:
        if self.given == "in the span":
            return Span.of(self.layer.rows)
        origin = self.layer.rows.mean(axis=0)
        return Span(origin=origin, basis=None, coordinates=self.layer.rows - origin)

    def _fit(self, span: Span, place: int) -> float:
        """Time of one fit, at the first tolerance that is tight enough."""
        from sklearn.linear_model import LogisticRegression

        counts = self.samples.counts[place]
        labels, off = self.samples.is_aligned[place], np.inf
        is_drawn = counts > 0
        for tolerance in TOLERANCES:
            model = LogisticRegression(
                C=1.0, solver=LOOPS[self.given], tol=tolerance, max_iter=100_000
            )
            started = time.perf_counter()
            rows = span.coordinates if is_drawn.all() else span.coordinates[is_drawn]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what counts is the objective
                model.fit(rows, labels[is_drawn], counts[is_drawn].astype(np.float64))
            taken = time.perf_counter() - started
            weights = span.lift(np.asarray(model.coef_)[0])
            intercept = float(np.asarray(model.intercept_)[0]) - float(weights @ span.origin)
            off = self.distance(place, weights, intercept)
            if off <= OBJECTIVE_NOISE:
                return taken
        raise BenchmarkError(
            f"scikit-learn's objective of fit {place} is {off:.1e} from the optimum, expected at "
            f"most {OBJECTIVE_NOISE:.0e}"
        )

    def distance(
        self, place: int, weights: Float[np.ndarray, "d_model"], intercept: float
    ) -> float:
        """How far an objective is from the optimum's, relative to it.

        Raises:
            BenchmarkError: the optimum is none.
        """
        best = self.exact.weights[place], float(self.exact.intercepts[place])
        least = self.layer.objective(self.samples, place, *best)
        off = self.layer.objective(self.samples, place, weights, intercept) / least - 1
        if not self.exact.converged[place] or off < -OBJECTIVE_NOISE:
            raise BenchmarkError(f"fit {place} has not reached its optimum: {off:.1e}")
        return abs(off)


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script.

    Raises:
        BenchmarkError: somebody does not reach the optimum.
    """
    d_model = 64 if options.quick else 8192
    sizes = (8,) if options.quick else (50, 250)
    return [ratio for n in sizes for ratio in _against_sklearn(n, d_model, options)]


def _against_sklearn(n_per_class: int, d_model: int, options: Options) -> list[Ratio]:
    n_fits = 1 + N_BOOTSTRAPS + N_SHUFFLES
    n_timed = 3 if options.quick else N_TIMED
    places = np.unique(np.linspace(0, n_fits - 1, n_timed).astype(int)).tolist()
    ours: list[float] = []
    theirs: dict[str, list[float]] = {given: [] for given in LOOPS}
    for run in range(options.runs):
        layer = Layer.made(n_per_class=n_per_class, d_model=d_model, seed=run)
        samples = layer.samples(run)
        started = time.perf_counter()
        exact = layer.ours(samples)
        ours.append(n_fits / (time.perf_counter() - started))
        for given, rates in theirs.items():
            loop = Loop(layer=layer, samples=samples, exact=exact, given=given)
            rates.append(n_fits / loop.seconds(places))
    return [
        measured(
            "fit_vs_sklearn",
            f"one layer of d_model {d_model}, {n_per_class} responses a class, {n_fits} fits; "
            f"scikit-learn {given}, extrapolated from {n_timed} fits",
            paired_ratio(ours, rates),
            device="cpu",
            goal=at_least(20) if given == "on the rows" and not options.quick else None,
        )
        for given, rates in theirs.items()
    ]
