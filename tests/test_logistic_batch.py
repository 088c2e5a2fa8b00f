"""Many fits at once: the optima of scikit-learn and of the single solver, whatever the company.

Golden numbers come from scikit-learn's newton-cholesky solver on the rows as they are, repeated as
often as drawn, and from dense linear algebra. Tolerances: weights agree with the single solver to
1e-10 of their norm (measured 1e-13 on the worst rows here); the smallest planted error, a count of
two taken for one, moves them by 1e-3.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from interp_steer import logistic, logistic_batch, newton_cg, planes
from interp_steer.errors import ProbeError
from interp_steer.logistic import Optimum, Span, solve_logistic
from interp_steer.logistic_batch import Optima, solve_resamples
from interp_steer.newton_cg import NewtonSystems, solve_systems
from interp_steer.newton_factors import GramFactor, HessianFactor, SharedRows, newton_factor
from interp_steer.newton_line import Lines, minimise
from interp_steer.planes import fit_plane, fit_planes
from interp_steer.resamples import Resamples, joined


def made(
    n: int, d: int, *, spread: float = 0.0, shift: float = 1.0, n_aligned: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows far from the origin whose axes differ by `spread` orders of magnitude, and labels."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * 10 ** (spread * rng.uniform(-0.5, 0.5, size=d))
    is_aligned = rng.permutation(n) < (n_aligned or n // 2)
    rows[is_aligned, 0] += shift
    return rows + 10 * rng.normal(size=d), is_aligned


def samples_of(is_aligned: np.ndarray, *, seed: int = 0, n_each: int = 3) -> Resamples:
    """All rows, bootstraps, halves and shuffled labels; those without both sides left out."""
    rng, n = np.random.default_rng(seed), len(is_aligned)
    boot = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(n_each)])
    half = rng.random((n_each, n)) < 0.5
    shuffled = np.stack([rng.permutation(is_aligned) for _ in range(n_each)])
    every = np.ones((1 + n_each, n), dtype=bool)
    found = joined(
        [
            Resamples.subsets(every, np.concatenate([is_aligned[None], shuffled])),
            Resamples(counts=boot, is_aligned=np.tile(is_aligned, (n_each, 1))),
            Resamples.subsets(half, is_aligned),
        ]
    )
    return found.only(~found.one_sided())


def alone(rows: np.ndarray, samples: Resamples, place: int, *, c: float = 1.0) -> Optimum:
    """The single solver on the rows of one sample, repeated as often as drawn."""
    return solve_logistic(rows[samples.drawn(place)], samples.labels(place), c=c)


def difference(found: Optima, place: int, other: Optimum) -> float:
    """Of the weights relative to their norm, or of the intercepts, whichever is larger."""
    size = float(np.linalg.norm(other.weights))
    off = float(np.linalg.norm(found.weights[place] - other.weights)) / max(size, 1e-12)
    return max(off, abs(found.intercepts[place] - other.intercept) / (1 + abs(other.intercept)))


# ---------------------------------------------------------------- the optimum


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.sampled_from([5, 60]), c=st.sampled_from([1e-2, 1.0, 10.0]))
def test_direction_and_boundary_are_those_of_newton_cholesky(seed: int, d: int, c: float) -> None:
    rows, is_aligned = made(40, d, seed=seed)
    samples = samples_of(is_aligned, seed=seed, n_each=1)
    span = Span.of(rows)
    found = solve_resamples(span.coordinates, samples, c=c)
    weights = span.lift(found.weights)
    for place in range(len(samples)):
        drawn, labels = samples.drawn(place), samples.labels(place)
        model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-13, max_iter=1000)
        model.fit(rows[drawn], labels)
        w, ours = np.asarray(model.coef_)[0], weights[place]
        length, norm = np.linalg.norm(w), np.linalg.norm(ours)
        assert ours @ w / (length * norm) > 1 - 1e-10
        m = -(found.intercepts[place] - ours @ span.origin) / norm
        rho = rows[drawn] @ (w / length)
        delta_mu = rho[labels].mean() - rho[~labels].mean()
        assert m == pytest.approx(
            -np.asarray(model.intercept_)[0] / length, abs=1e-8 * abs(delta_mu)
        )


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(30, 8), (70, 69), (70, 100), (24, 100)]),
    spread=st.sampled_from([0.0, 4.0, 8.0]),
    shift=st.sampled_from([0.0, 100.0]),
    n_aligned=st.sampled_from([1, 12]),
    c=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_every_sample_is_solved_as_if_alone(
    seed: int, shape: tuple[int, int], spread: float, shift: float, n_aligned: int, c: float
) -> None:
    rows, is_aligned = made(*shape, spread=spread, shift=shift, n_aligned=n_aligned, seed=seed)
    rows = Span.of(rows).coordinates
    samples = samples_of(is_aligned, seed=seed, n_each=2)
    found = solve_resamples(rows, samples, c=c)
    assert found.converged.all()
    for place in range(len(samples)):
        assert difference(found, place, alone(rows, samples, place, c=c)) < 1e-10


def test_a_state_is_that_of_the_single_solver() -> None:
    rows, is_aligned = made(20, 30)
    rows = Span.of(rows).coordinates
    samples = samples_of(is_aligned)
    rng, n = np.random.default_rng(3), len(samples)
    weights, intercepts = rng.normal(size=(n, rows.shape[1])) / 10, 9 * rng.normal(size=n)
    batch = logistic_batch._Batch(SharedRows.of(rows), samples, np.arange(n), c=2.0)
    state = batch.at(np.arange(n), weights, intercepts)
    for place in range(n):
        signs = np.where(samples.labels(place), 1.0, -1.0)
        problem = logistic._Problem(rows=rows[samples.drawn(place)], signs=signs, c=2.0)
        one = problem.at(weights[place], float(intercepts[place]))
        assert state.relative_gradients[place] == pytest.approx(one.relative_gradient, rel=1e-12)
        assert np.allclose(state.gradient[place], one.gradient, rtol=0, atol=1e-12)
        assert state.curvature[place].sum() == pytest.approx(one.curvature.sum(), rel=1e-12)


def test_repeated_rows_weigh_as_often_as_they_were_drawn() -> None:
    rows, is_aligned = made(20, 50)
    rows = Span.of(rows).coordinates
    counts = np.arange(20)[None] % 4
    found = solve_resamples(rows, Resamples(counts=counts, is_aligned=is_aligned[None]))
    drawn = np.repeat(np.arange(20), counts[0])
    wanted = solve_logistic(rows[drawn], is_aligned[drawn])
    assert difference(found, 0, wanted) < 1e-13
    # The control: a count less is another optimum.
    counts[0, 3] -= 1
    other = solve_resamples(rows, Resamples(counts=counts, is_aligned=is_aligned[None]))
    assert difference(other, 0, wanted) > 1e-3


def test_a_row_that_nobody_drew_does_not_matter() -> None:
    rows, is_aligned = made(20, 50)
    kept = np.arange(20)[None] != 4
    found = solve_resamples(rows - 10, Resamples.subsets(kept, is_aligned))
    rows[4] *= 1e4
    other = solve_resamples(rows - 10, Resamples.subsets(kept, is_aligned))
    assert np.allclose(found.weights, other.weights, rtol=0, atol=1e-13)


def test_rows_without_information_leave_the_log_odds() -> None:
    rows = np.tile(np.random.default_rng(0).normal(size=(5, 3)), (3, 1))
    samples = Resamples.subsets(np.ones((1, 15), dtype=bool), np.arange(15) < 10)
    found = solve_resamples(rows, samples)
    assert np.allclose(found.weights, 0, atol=1e-15)
    assert found.intercepts[0] == pytest.approx(np.log(2))


def test_directions_without_a_row_do_not_stop_a_fit_of_large_rows() -> None:
    # Where c |x|^2 is 1e16, the matrix of a step is singular to rounding in the span of all rows.
    rows, is_aligned = made(20, 40)
    rows, kept = 1e8 * Span.of(rows).coordinates, np.arange(20) >= 4
    found = solve_resamples(rows, Resamples.subsets(kept[None], is_aligned))
    own = Span.of(rows[kept])  # no such directions
    one = solve_logistic(own.coordinates, is_aligned[kept])
    weights = own.lift(one.weights)
    assert found.converged[0] and one.converged
    assert np.linalg.norm(found.weights[0] - weights) < 1e-10 * np.linalg.norm(weights)


# ---------------------------------------------------------------- company


@pytest.mark.parametrize("d", [6, 90])
def test_a_sample_does_not_depend_on_its_batch(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, is_aligned = made(40, d, spread=3.0)
    rows = Span.of(rows).coordinates
    samples = samples_of(is_aligned, n_each=8)
    together = solve_resamples(rows, samples)
    turned = Resamples(counts=samples.counts[::-1], is_aligned=samples.is_aligned[::-1])
    back = solve_resamples(rows, turned)
    monkeypatch.setattr(logistic_batch, "_BLOCK_BYTES", 1)
    apart = solve_resamples(rows, samples)
    sizes = np.linalg.norm(together.weights, axis=1, keepdims=True)
    for others in (back.weights[::-1], apart.weights):
        assert (np.abs(others - together.weights) < 1e-12 * sizes).all()
    assert np.allclose(apart.intercepts, together.intercepts, rtol=1e-12, atol=1e-12)


def test_blocks_hold_every_sample_once_and_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    _, is_aligned = made(40, 3)
    samples = samples_of(is_aligned, n_each=20)
    monkeypatch.setattr(logistic_batch, "_BLOCK_BYTES", 5 * 40 * 40 * 8)
    blocks = list(logistic_batch._blocks(samples, rank=100))
    assert np.concatenate(blocks).tolist() == list(range(len(samples)))
    sizes = (samples.counts > 0).sum(axis=1) ** 2
    assert all(sizes[block].sum() <= 6 * 40 * 40 for block in blocks)
    assert min(map(len, blocks[:-1])) >= 4


def test_a_hard_sample_takes_its_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, is_aligned = made(40, 90, spread=8.0)
    rows, easy = Span.of(rows).coordinates, np.zeros(40)
    easy[:6] = 1
    rows[:6] *= 1e-3 / np.linalg.norm(rows[:6], axis=1, keepdims=True)  # nearly nothing to fit
    is_aligned[:6] = np.arange(6) < 3
    kept = np.concatenate([np.tile(easy > 0, (9, 1)), easy[None] == 0])
    sizes: list[int] = []
    at = logistic_batch._Batch.at

    def counted(self: logistic_batch._Batch, of: np.ndarray, *rest: np.ndarray) -> object:
        sizes.append(len(of))
        return at(self, of, *rest)

    monkeypatch.setattr(logistic_batch._Batch, "at", counted)
    found = solve_resamples(rows, Resamples.subsets(kept, is_aligned), c=1e3)
    assert found.converged.all()
    assert sizes[0] == 10
    assert sizes.count(1) > 5  # the hard one goes on when the others are done
    assert np.ptp(found.weights[:9], axis=0).max() < 1e-12


# ---------------------------------------------------------------- where the batch gives up


def _nowhere(shared: SharedRows, drawn: np.ndarray, curvature: np.ndarray) -> GramFactor:
    del shared, curvature
    nothing = np.full((len(drawn), len(drawn)), np.nan)
    return GramFactor(drawn=drawn, lower=nothing, of_ones=nothing[0])


@pytest.mark.parametrize("broken", ["steps", "nowhere"])
def test_what_the_batch_cannot_solve_is_solved_alone(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, is_aligned = made(30, 60)
    rows = Span.of(rows).coordinates
    samples = samples_of(is_aligned)
    wanted = solve_resamples(rows, samples)
    monkeypatch.setattr(newton_cg, "_MAX_ITERATIONS", 0)
    if broken == "steps":
        monkeypatch.setattr(logistic_batch, "_MAX_STEPS", 2)
    else:
        monkeypatch.setattr(logistic_batch, "newton_factor", _nowhere)
    asked: list[int] = []

    def single(rows: np.ndarray, is_aligned: np.ndarray, *, c: float) -> Optimum:
        asked.append(len(rows))
        return solve_logistic(rows, is_aligned, c=c)

    monkeypatch.setattr(logistic_batch, "solve_logistic", single)
    found = solve_resamples(rows, samples)
    assert asked == samples.counts.sum(axis=1).tolist()
    assert found.converged.all()
    assert np.allclose(found.weights, wanted.weights, rtol=0, atol=1e-13)


@pytest.mark.parametrize("d", [8, 90])
def test_the_single_solver_is_a_last_resort(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(logistic_batch, "solve_logistic")
    monkeypatch.setattr(logistic_batch, "_MAX_STEPS", 25)
    rows, is_aligned = made(60, d, spread=6.0)
    found = solve_resamples(Span.of(rows).coordinates, samples_of(is_aligned), c=10.0)
    assert (found.relative_gradients < 1e-13).all()  # it goes on below the tolerance


def test_what_nobody_can_solve_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(rows: np.ndarray, is_aligned: np.ndarray, *, c: float) -> Optimum:
        found = solve_logistic(rows, is_aligned, c=c)
        return replace(found, relative_gradient=1e-9, converged=False)

    monkeypatch.setattr(logistic_batch, "_MAX_STEPS", 2)
    monkeypatch.setattr(logistic_batch, "solve_logistic", early)
    rows, is_aligned = made(12, 20)
    rows = Span.of(rows).coordinates
    assert not fit_plane(rows, is_aligned, method="logistic", c=1.0).converged
    found = solve_resamples(rows, samples_of(is_aligned))
    assert not found.converged.any()
    assert (found.relative_gradients == 1e-9).all()


def test_a_sample_of_one_side_is_refused_by_number() -> None:
    rows, is_aligned = made(8, 3)
    kept = np.ones((3, 8), dtype=bool)
    kept[2] = is_aligned
    samples = Resamples.subsets(kept, is_aligned)
    assert samples.one_sided().tolist() == [False, False, True]
    wording = r"needs rows of both sides, but sample 2 has rows of one side alone \(1 such of 3\)"
    with pytest.raises(ProbeError, match=wording):
        solve_resamples(rows, samples)
    for method in ("logistic", "logistic_sklearn_default", "mean_difference"):
        with pytest.raises(ProbeError, match=wording):
            fit_planes(rows, samples, method=method, c=1.0)


# ---------------------------------------------------------------- planes


@pytest.mark.parametrize("method", ["logistic", "logistic_sklearn_default", "mean_difference"])
def test_many_planes_are_those_of_the_rows_drawn(method: planes.FitMethod) -> None:
    rows, is_aligned = made(24, 40, shift=3.0)
    rows = Span.of(rows).coordinates
    samples = samples_of(is_aligned)
    found = fit_planes(rows, samples, method=method, c=2.0)
    for place, plane in enumerate(found):
        drawn = rows[samples.drawn(place)]
        one = fit_plane(drawn, samples.labels(place), method=method, c=2.0)
        assert np.allclose(plane.normal, one.normal, rtol=0, atol=1e-12)
        assert plane.offset == pytest.approx(one.offset, abs=1e-11)
        assert plane.converged == one.converged
        assert np.linalg.norm(plane.normal) == pytest.approx(1)


@pytest.mark.parametrize("method", ["logistic", "logistic_sklearn_default", "mean_difference"])
def test_only_a_sample_whose_means_coincide_has_no_direction(method: planes.FitMethod) -> None:
    rows = np.random.default_rng(1).normal(size=(6, 4))
    rows = np.concatenate([rows, rows])
    is_aligned = np.arange(12) < 6
    kept = np.ones((3, 12), dtype=bool)
    kept[1, 0] = False
    found = fit_planes(rows, Resamples.subsets(kept, is_aligned), method=method, c=1.0)
    assert [bool(plane.normal.any()) for plane in found] == [False, True, False]
    assert found[0].converged and found[0].offset == 0


# ---------------------------------------------------------------- the Newton step


@pytest.mark.parametrize("kind", [GramFactor, HessianFactor])
def test_both_factors_give_the_step_of_the_bordered_system(
    kind: type[GramFactor] | type[HessianFactor],
) -> None:
    rng = np.random.default_rng(2)
    rows, counts = rng.normal(size=(12, 7)), np.arange(12) % 3
    curvature, pull = counts * rng.uniform(0.1, 1.0, size=12), rng.normal(size=12)
    gradient, slope = rng.normal(size=7), 0.3
    drawn = np.flatnonzero(counts)
    hessian = np.block(
        [
            [np.eye(7) + rows.T @ (curvature[:, None] * rows), (curvature @ rows)[:, None]],
            [(curvature @ rows)[None], np.array([[curvature.sum()]])],
        ]
    )
    wanted = -np.linalg.solve(hessian, [*gradient, slope])[:7]
    middle = curvature @ rows / curvature.sum()
    q = gradient - slope * middle
    factor = kind.of(SharedRows.of(rows), drawn, curvature)
    if isinstance(factor, GramFactor):
        y = factor.pulls(rows @ q + pull[0])  # a constant makes no difference
        found = rows[drawn].T @ y - q
        assert y.sum() == pytest.approx(0, abs=1e-13)
    else:
        found = factor.direction(q)
    assert np.allclose(found, wanted, rtol=0, atol=1e-12)


def systems_of(n: int = 5) -> NewtonSystems:
    """Systems of 40 rows in 30 dimensions."""
    rng = np.random.default_rng(5)
    rows, curvature = rng.normal(size=(40, 30)), rng.uniform(0.0, 0.3, size=(n, 40))
    middles = curvature @ rows / curvature.sum(axis=1, keepdims=True)
    return NewtonSystems(rows=rows, curvature=curvature, middles=middles)


def dense(systems: NewtonSystems, place: int) -> np.ndarray:
    """One of the matrices."""
    rows = systems.rows - systems.middles[place]
    return np.eye(rows.shape[1]) + rows.T @ (systems.curvature[place][:, None] * rows)


def test_iterations_end_within_the_tolerance_of_each_system() -> None:
    systems = systems_of()
    right = np.random.default_rng(6).normal(size=(5, 30)) * np.array([[1], [1e6], [1e-9], [0], [1]])
    tolerances = np.array([1e-1, 1e-3, 1e-3, 1e-3, 1e-12])
    found = solve_systems(systems, right, tolerances)
    assert found.is_solved.tolist() == [
        True,
        True,
        True,
        True,
        False,
    ]  # 15 are too few for the last
    assert (found.vectors[3] == 0).all()
    for place in range(4):
        off = dense(systems, place) @ found.vectors[place] - right[place]
        # Equal but for rounding: the residual is updated, not computed anew.
        bound = 1.01 * tolerances[place] * np.linalg.norm(right[place])
        assert np.linalg.norm(off) <= bound
    one = solve_systems(systems.only(np.arange(5) == 1), right[[1]], tolerances[[1]])
    assert np.allclose(one.vectors[0], found.vectors[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("iterations", [0, 1, 40])
def test_steps_by_products_and_by_factors_end_alike(
    iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, is_aligned = made(60, 90)
    rows = Span.of(rows).coordinates
    samples = samples_of(is_aligned, n_each=6)
    wanted = solve_resamples(rows, samples)
    factors: list[int] = []

    def counted(shared: SharedRows, *about: np.ndarray) -> GramFactor | HessianFactor:
        factors.append(1)
        return newton_factor(shared, *about)

    monkeypatch.setattr(logistic_batch, "newton_factor", counted)
    monkeypatch.setattr(logistic_batch, "_FEW", 0)
    monkeypatch.setattr(newton_cg, "_MAX_ITERATIONS", iterations)
    found = solve_resamples(rows, samples)
    assert found.converged.all()
    assert np.allclose(found.weights, wanted.weights, rtol=0, atol=1e-13)
    assert bool(factors) is (iterations < 40)


def test_the_cheaper_factor_is_taken() -> None:
    rng = np.random.default_rng(0)
    for d, kind in ((3, HessianFactor), (30, GramFactor)):
        shared = SharedRows.of(rng.normal(size=(20, d)))
        assert isinstance(newton_factor(shared, np.arange(20), np.ones(20)), kind)


def lines(n: int, *, length: float, seed: int = 0) -> Lines:
    """Lines from the origin, along which all margins but a few grow."""
    rng = np.random.default_rng(seed)
    d = rng.uniform(0.01, 0.1, size=n)
    return Lines(
        pulls=rng.integers(0, 4, size=(n, 15)).astype(float),
        margins=rng.normal(size=(n, 15)),
        moves=length * (rng.normal(size=(n, 15)) + 2),
        ww=np.ones(n),
        wd=0.1 * rng.normal(size=n),
        dd=d,
    )


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_steps_end_at_the_minimum_of_their_line(length: float) -> None:
    some, nobody = lines(20, length=length), np.zeros(20, dtype=bool)
    slopes = some.bends(np.zeros(20)).slopes
    found = minimise(some, slopes, is_near=nobody)
    goes_down = slopes < 0
    assert goes_down.sum() > 5
    assert (found[~goes_down] == 0).all()
    for place in np.flatnonzero(goes_down):
        line = some.only(np.array([place]))
        best: Any = minimize_scalar(
            lambda t, line=line: float(line.objectives(np.array([t]))[0]),
            bounds=(0, 1e5),
            options={"xatol": 1e-12, "maxiter": 1000},
        )
        reached = float(line.objectives(found[[place]])[0])
        start = float(line.objectives(np.zeros(1))[0])
        # Of a convex function: the slope left, a hundredth of the first, times the way left.
        left = 1e-2 * abs(float(slopes[place])) * abs(float(found[place]) - best.x)
        assert reached - best.fun <= left + 1e-12
        assert reached < start


def test_near_the_optimum_steps_are_whole_and_a_rise_is_halved() -> None:
    some = lines(4, length=1.0)
    slopes = some.bends(np.zeros(4)).slopes
    assert (minimise(some, slopes, is_near=np.ones(4, dtype=bool)) == 1).all()
    # A slope that promises more than there is: no size satisfies it, so nobody moves.
    greedy = minimise(some, np.full(4, -1e9), is_near=np.zeros(4, dtype=bool))
    assert (greedy == 0).all()
