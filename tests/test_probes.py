"""Probes: the optimum against scikit-learn, closed forms and symmetries; cross-fitting; refusals.

Golden numbers come from scikit-learn's newton-cholesky solver, from numpy and from closed forms.
Tolerances: the solvers agree to 1e-9 (measured 1e-15 to 7e-13); the smallest planted error, an
intercept off by 1 % of the distance between the means, is 1e-2.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp_steer.errors import ProbeError
from interp_steer.files import atomic_write_tensors
from interp_steer.logistic import Span, fit_logistic
from interp_steer.probes import LayerProbe, ProbeSet, fit_probes, shuffled_label_direction
from interp_steer.readability import make_folds, readability


def labelled(
    n: int, d: int, *, shift: float = 1.0, offset: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit Gaussian rows, every second one aligned and `shift` further along a random axis."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=d)
    is_aligned = np.arange(n) % 2 == 0
    rows = rng.normal(size=(n, d)) + offset * rng.normal(size=d)
    rows[is_aligned] += shift * axis / np.linalg.norm(axis)
    return rows, is_aligned


def gradient(rows: np.ndarray, is_aligned: np.ndarray, w: np.ndarray, b: float) -> tuple[Any, Any]:
    """Relative gradients of the objective in w and b, in the raw coordinates (the definition)."""
    s = np.where(is_aligned, 1.0, -1.0)
    residuals = s / (1 + np.exp(s * (rows @ w + b)))
    # sum(residuals) = 0 at the optimum, so the common offset may be taken out of the sum.
    slope = w - (rows - rows.mean(axis=0)).T @ residuals
    return np.linalg.norm(slope) / np.linalg.norm(w), residuals.sum() / np.abs(residuals).sum()


def sides(
    n: int = 20, layers: int = 2, d: int = 16, *, shift: float = 2.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Aligned and malicious residuals of `n` responses each, `shift` apart along one axis."""
    generator = torch.Generator().manual_seed(seed)
    offset = 3 * torch.randn(layers, d, generator=generator)
    axis = torch.randn(layers, d, generator=generator)
    axis = shift / 2 * axis / axis.norm(dim=1, keepdim=True)
    aligned = torch.randn(n, layers, d, generator=generator) + offset + axis
    malicious = torch.randn(n, layers, d, generator=generator) + offset - axis
    return aligned, malicious


def ids(n: int) -> tuple[list[str], list[str]]:
    names = [f"s{i}" for i in range(n)]
    return names, names


def fit(aligned: torch.Tensor, malicious: torch.Tensor, **options: Any) -> ProbeSet:
    options.setdefault("scenario_ids", (ids(len(aligned))[0], ids(len(malicious))[0]))
    options.setdefault("layers", range(aligned.shape[1]))
    return fit_probes(aligned, malicious, **options)


# ---------------------------------------------------------------- the optimum


@pytest.mark.parametrize(("n", "d", "c"), [(60, 8, 1.0), (60, 100, 1.0), (60, 20, 10.0)])
def test_the_optimum_is_that_of_newton_cholesky(n: int, d: int, c: float) -> None:
    rows, is_aligned = labelled(n, d, offset=1.0)
    reference = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    reference.fit(rows, is_aligned)
    ours = fit_logistic(rows, is_aligned, c=c)
    assert ours.converged
    assert np.allclose(ours.weights, reference.coef_[0], rtol=0, atol=1e-9)
    assert ours.intercept == pytest.approx(reference.intercept_[0], abs=1e-8)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3, 1e5])
@pytest.mark.parametrize("d", [10, 500])
def test_the_gradient_vanishes_however_large_the_common_offset(offset: float, d: int) -> None:
    rows, is_aligned = labelled(80, d, offset=offset)
    ours = fit_logistic(rows, is_aligned)
    slope, balance = gradient(rows, is_aligned, ours.weights, ours.intercept)
    assert ours.converged
    # Recomputing x . w + b in raw coordinates costs eps * |x|; nothing else is lost.
    noise = 1e-12 + 1e-14 * offset * np.sqrt(d)
    assert slope < noise
    assert abs(balance) < noise
    # The control: lbfgs as scikit-learn ships it is orders of magnitude away.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        default = LogisticRegression().fit(rows, is_aligned)
    slope, _ = gradient(rows, is_aligned, default.coef_[0], default.intercept_[0])
    assert slope > 1e-6


def test_two_points_have_the_closed_form() -> None:
    # At +-a: w = a * 2 sigma(-w a) along the axis, and b = 0 by symmetry; shifted by `centre`.
    a, centre = 1.5, np.array([3.0, -2.0, 7.0])
    step = np.array([a, 0.0, 0.0])
    rows = np.stack([centre + step, centre - step])
    ours = fit_logistic(rows, np.array([True, False]))
    low, high = 0.0, 10.0
    for _ in range(200):  # bisection on w - 2 a sigma(-w a) = 0
        w = (low + high) / 2
        low, high = (w, high) if w < 2 * a / (1 + np.exp(w * a)) else (low, w)
    assert np.allclose(ours.weights, [w, 0, 0], atol=1e-12)
    assert ours.intercept == pytest.approx(-w * centre[0], abs=1e-12)


def test_without_information_only_the_log_odds_of_the_class_sizes_remain() -> None:
    rows = np.tile([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]], (2, 1))
    ours = fit_logistic(
        np.concatenate([rows, rows[:3]]), np.array([True] * 3 + [False] * 3 + [True] * 3)
    )
    assert np.allclose(ours.weights, 0, atol=1e-15)
    assert ours.intercept == pytest.approx(np.log(6 / 3))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.sampled_from([3, 40]), scale=st.sampled_from([0.01, 1, 50]))
def test_the_optimum_follows_translation_rotation_and_label_swap(
    seed: int, d: int, scale: float
) -> None:
    rows, is_aligned = labelled(30, d, seed=seed)
    rows *= scale
    rng = np.random.default_rng(seed)
    base = fit_logistic(rows, is_aligned)
    size = np.linalg.norm(base.weights)
    noise = 1e-9 * (1 + size * np.abs(rows).max())  # of b: the terms w.x cancel in it
    shift = 100 * rng.normal(size=d)
    moved = fit_logistic(rows + shift, is_aligned)
    assert np.allclose(moved.weights, base.weights, atol=1e-8 * size)
    expected = base.intercept - base.weights @ shift
    assert moved.intercept == pytest.approx(expected, rel=1e-8, abs=1e-8)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    turned = fit_logistic(rows @ rotation.T, is_aligned)
    assert np.allclose(turned.weights, rotation @ base.weights, atol=1e-9 * size)
    assert turned.intercept == pytest.approx(base.intercept, rel=1e-8, abs=noise)
    swapped = fit_logistic(rows, ~is_aligned)
    assert np.allclose(swapped.weights, -base.weights, atol=1e-9 * size)
    assert swapped.intercept == pytest.approx(-base.intercept, rel=1e-8, abs=noise)


def test_the_span_loses_nothing() -> None:
    rows, _ = labelled(10, 30, offset=5.0)
    span = Span.of(rows)
    assert span.coordinates.shape == (10, 10)
    assert np.allclose(span.origin + span.coordinates @ span.basis.T, rows, atol=1e-12)
    assert np.allclose(span.basis.T @ span.basis, np.eye(10), atol=1e-13)


# ---------------------------------------------------------------- fit_probes


def test_direction_boundary_and_statistics_follow_their_definitions() -> None:
    aligned, malicious = sides()
    probes = fit(aligned, malicious, layers=(4, 9))
    assert probes.layers == (4, 9)
    for place, probe in enumerate(probes.probes):
        rows = torch.cat([aligned[:, place], malicious[:, place]]).double().numpy()
        reference = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(
            rows, np.arange(40) < 20
        )
        w, b = reference.coef_[0], reference.intercept_[0]
        assert np.allclose(probe.v_hat, w / np.linalg.norm(w), atol=1e-7)
        assert probe.boundary == pytest.approx(-b / np.linalg.norm(w), abs=1e-6)
        rho = rows @ probe.v_hat.double().numpy()
        assert probe.mu_pos == pytest.approx(rho[:20].mean(), abs=1e-12)
        assert probe.mu_neg == pytest.approx(rho[20:].mean(), abs=1e-12)
        assert probe.sigma_pos == pytest.approx(np.sqrt(((rho[:20] - rho[:20].mean()) ** 2).mean()))
        assert probe.sigma_neg == pytest.approx(np.sqrt(((rho[20:] - rho[20:].mean()) ** 2).mean()))
        assert probe.delta_mu == pytest.approx(probe.mu_pos - probe.mu_neg, abs=1e-12)
        difference = rows[:20].mean(0) - rows[20:].mean(0)
        cosine = difference @ w / np.linalg.norm(difference) / np.linalg.norm(w)
        assert probe.cosine_caa == pytest.approx(cosine, abs=1e-6)
        assert probe.in_sample.auroc == pytest.approx(roc_auc_score(np.arange(40) < 20, rho))
        assert probe.converged
        assert probe.v_hat.dtype == torch.float32
        assert float(probe.v_hat.norm()) == pytest.approx(1.0, abs=1e-6)


def test_the_boundary_is_where_the_decision_value_is_zero_under_a_large_offset() -> None:
    aligned, malicious = sides(d=64)
    shift = 500 * torch.randn(
        2, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    here = fit(aligned.double(), malicious.double())
    there = fit(aligned.double() + shift, malicious.double() + shift)
    for place, (one, other) in enumerate(zip(here.probes, there.probes, strict=True)):
        moved = float(shift[place] @ one.v_hat.double())
        assert torch.allclose(one.v_hat, other.v_hat, atol=1e-6)
        # v_hat is rounded to float32 in both; rows are 4000 long, so 4000 * 6e-8 is the noise.
        assert other.boundary - moved == pytest.approx(one.boundary, abs=1e-3)
        assert other.boundary - other.mu_pos == pytest.approx(one.boundary - one.mu_pos, abs=1e-6)
        assert one.crossfit.cohens_d == pytest.approx(other.crossfit.cohens_d, abs=1e-6)


@pytest.mark.parametrize("method", ["logistic", "mean_difference"])
def test_swapping_the_sides_turns_the_probe_round(method: Any) -> None:
    aligned, malicious = sides()
    one = fit(aligned, malicious, method=method).probes[0]
    other = fit(malicious, aligned, method=method).probes[0]
    assert torch.allclose(one.v_hat, -other.v_hat, atol=1e-6)
    assert one.boundary == pytest.approx(-other.boundary, abs=1e-5)
    assert one.mu_pos == pytest.approx(-other.mu_neg, abs=1e-5)
    assert one.delta_mu == pytest.approx(other.delta_mu, abs=1e-5)
    for name in ("cohens_d", "accuracy", "auroc"):
        assert getattr(one.crossfit, name) == pytest.approx(getattr(other.crossfit, name), abs=1e-6)


def test_the_mean_difference_has_its_boundary_midway() -> None:
    aligned, malicious = sides(n=30)
    malicious = malicious[:10]  # unbalanced: midway between the means, not the mean of the rows
    probe = fit(aligned, malicious, method="mean_difference").probes[1]
    difference = (aligned.mean(0) - malicious.mean(0))[1]
    assert torch.allclose(probe.v_hat, difference / difference.norm(), atol=1e-6)
    # Noise: v_hat rounded to float32, 1e-8; the mean of all rows would be 0.5 off.
    assert probe.boundary == pytest.approx((probe.mu_pos + probe.mu_neg) / 2, abs=1e-6)
    assert probe.cosine_caa == pytest.approx(1.0, abs=1e-9)


def test_the_sklearn_default_is_scikit_learns_as_it_stops() -> None:
    aligned, malicious = sides(d=64, seed=3)
    aligned, malicious = aligned + 40, malicious + 40
    probes = fit(aligned, malicious, method="logistic_sklearn_default")
    rows = torch.cat([aligned[:, 0], malicious[:, 0]]).double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression().fit(rows, np.arange(40) < 20)
    w, b = model.coef_[0], model.intercept_[0]
    probe = probes.probes[0]
    assert np.allclose(probe.v_hat, w / np.linalg.norm(w), atol=1e-6)
    assert probe.boundary == pytest.approx(-b / np.linalg.norm(w), abs=1e-4)
    assert probes.conventions["method"] == "logistic_sklearn_default"
    # The control: far from centred, the optimum is somewhere else.
    exact = fit(aligned, malicious).probes[0]
    assert float(exact.v_hat @ probe.v_hat) < 1 - 1e-4


def test_the_inputs_dtype_does_not_matter_and_the_inputs_are_left_alone() -> None:
    aligned, malicious = (side.bfloat16() for side in sides())
    before = aligned.clone()
    half = fit(aligned, malicious)
    double = fit(aligned.double(), malicious.double())
    assert torch.equal(half.v_hat, double.v_hat)
    assert half.probes[0].boundary == double.probes[0].boundary
    assert torch.equal(aligned, before)


def test_projecting_is_in_float32() -> None:
    probe = fit(*sides()).probes[0]
    h = torch.randn(3, 5, 16)
    assert torch.allclose(probe.project(h), torch.einsum("bpd,d->bp", h, probe.v_hat), atol=1e-6)
    low = h.bfloat16()
    assert probe.project(low).dtype == torch.float32
    assert torch.equal(probe.project(low), probe.project(low.float()))
    assert probe.project(h[0, 0]).shape == ()


# ---------------------------------------------------------------- readability


def test_crossfitted_figures_expose_noise_that_in_sample_ones_admire() -> None:
    noise = [fit(*sides(n=50, layers=4, d=128, shift=0.0, seed=s)) for s in range(3)]
    probes = [probe for one in noise for probe in one.probes]
    in_sample = np.array([probe.in_sample.cohens_d for probe in probes])
    crossfit = np.array([probe.crossfit.cohens_d for probe in probes])
    # method.md: 5.6 in-sample. Cross-fitted, one layer scatters by about 0.35, the mean by 0.1.
    assert 4 < in_sample.mean() < 7
    assert all(probe.in_sample.accuracy == 1 for probe in probes)
    assert abs(crossfit.mean()) < 0.35
    assert abs(np.mean([probe.crossfit.auroc for probe in probes]) - 0.5) < 0.1
    # The control: a real difference survives cross-fitting.
    real = fit(*sides(n=50, layers=2, d=128, shift=6.0))
    assert all(probe.crossfit.cohens_d > 2 for probe in real.probes)
    assert all(probe.crossfit.accuracy > 0.9 for probe in real.probes)


def test_labels_swapped_at_random_leave_nothing_to_read() -> None:
    aligned, malicious = sides(n=60, layers=1, d=64, shift=6.0)
    assert fit(aligned, malicious).probes[0].crossfit.cohens_d > 2
    found = []
    for seed in range(12):
        swap = torch.rand(60, generator=torch.Generator().manual_seed(seed)) < 0.5
        pick = swap[:, None, None]
        shuffled = fit(torch.where(pick, malicious, aligned), torch.where(pick, aligned, malicious))
        assert shuffled.probes[0].in_sample.cohens_d > 1
        found.append(shuffled.probes[0].crossfit.cohens_d)
    assert abs(np.mean(found)) < 0.4


def test_crossfitting_is_what_refitting_by_hand_gives() -> None:
    aligned, malicious = sides(n=12, layers=1, d=20)
    scenarios = ids(12)
    folds = make_folds(scenarios, n_folds=4, seed=7)
    rows = torch.cat([aligned[:, 0], malicious[:, 0]]).double().numpy()
    is_aligned = np.arange(24) < 12
    margins = np.empty(24)
    for fold in range(4):
        out = folds.of_response == fold
        model = LogisticRegression(solver="newton-cholesky", tol=1e-12)
        model.fit(rows[~out], is_aligned[~out])
        margins[out] = model.decision_function(rows[out]) / np.linalg.norm(model.coef_)
    above, below = margins[:12], margins[12:]
    d = (above.mean() - below.mean()) / np.sqrt((above.var() + below.var()) / 2)
    found = fit(aligned, malicious, n_folds=4, seed=7).probes[0].crossfit
    assert found.cohens_d == pytest.approx(d, rel=1e-7)
    assert found.accuracy == ((margins >= 0) == is_aligned).mean()
    assert found.auroc == pytest.approx(roc_auc_score(is_aligned, margins))


def test_cohens_d_weighs_the_sides_by_their_size_and_ties_count_half() -> None:
    margins = np.array([3.0, 1.0, 1.0, -1.0, -2.0])
    found = readability(margins, np.array([True, True, False, False, False]))
    pooled = np.sqrt((2 * 1.0 + 3 * np.var([1, -1, -2])) / 5)
    assert found.cohens_d == pytest.approx((2 - (-2 / 3)) / pooled)
    assert found.auroc == pytest.approx((3 + 2.5) / 6)
    assert found.accuracy == 4 / 5
    assert np.isnan(readability(np.array([1.0, 1.0, 0.0]), np.array([True, True, False])).cohens_d)


def test_both_sides_of_a_scenario_share_a_fold_and_folds_are_even() -> None:
    scenarios = [f"s{i % 10}" for i in range(30)]
    folds = make_folds((scenarios, scenarios[::-1]), n_folds=5)
    by_scenario: dict[str, set[int]] = {}
    for name, fold in zip([*scenarios, *scenarios[::-1]], folds.of_response, strict=True):
        by_scenario.setdefault(name, set()).add(int(fold))
    assert all(len(held) == 1 for held in by_scenario.values())
    assert np.bincount(folds.of_response).tolist() == [12] * 5
    assert (folds.n_folds, folds.n_groups, folds.grouped_by) == (5, 10, "scenario")
    again = make_folds((scenarios, scenarios[::-1]), n_folds=5)
    assert (again.of_response == folds.of_response).all()


def test_folds_do_not_depend_on_the_order_of_the_responses() -> None:
    names = [f"s{i}" for i in range(9)]
    there = make_folds((names, names), n_folds=3).of_response[:9]
    back = make_folds((names[::-1], names[::-1]), n_folds=3).of_response[:9]
    assert (there == back[::-1]).all()


def test_scenarios_that_share_a_system_prompt_share_a_fold() -> None:
    names = [f"s{i}" for i in range(20)]
    variant = [f"v{i % 4}" for i in range(20)]
    folds = make_folds((names, names), (variant, variant), n_folds=5)
    assert (folds.n_folds, folds.n_groups) == (4, 4)
    assert folds.grouped_by == "scenario and system prompt"
    for name in set(variant):
        held = {int(f) for f, v in zip(folds.of_response, variant * 2, strict=True) if v == name}
        assert len(held) == 1


def test_system_prompts_that_connect_everything_are_set_aside_and_said_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    aligned, malicious = sides()
    same = ["be good"] * 20
    probes = fit(aligned, malicious, system_ids=(same, same))
    said = probes.conventions["crossfit"]
    assert said["grouped_by"] == "scenario (system prompts connect all scenarios)"
    assert said["n_groups"] == 20
    assert "system prompts connect all scenarios" in caplog.text
    assert fit(aligned, malicious).conventions["crossfit"]["grouped_by"] == "scenario"


def test_fewer_scenarios_than_folds_are_held_out_one_by_one() -> None:
    probes = fit(*sides(n=3))
    assert probes.conventions["crossfit"]["n_folds"] == 3


# ---------------------------------------------------------------- control directions


def test_shuffled_labels_swap_exactly_half_of_the_scenarios() -> None:
    aligned, malicious = sides(n=10, layers=2, d=24, shift=8.0)
    # One coordinate that says which side a row came from, and nothing else: the direction's
    # weight there is zero exactly if as many scenarios were swapped as were not.
    aligned[:, :, 0], malicious[:, :, 0] = 1.0, -1.0
    aligned[:, :, 1:], malicious[:, :, 1:] = 0.0, 0.0
    for scenario in range(10):
        aligned[scenario, :, 1 + scenario], malicious[scenario, :, 1 + scenario] = 1.0, -1.0
    names = ids(10)
    u = shuffled_label_direction(aligned, malicious, scenario_ids=names, draw=0)
    assert u.shape == (2, 24)
    assert u.dtype == torch.float32
    assert torch.allclose(u.norm(dim=1), torch.ones(2), atol=1e-6)
    assert float(u[0, 0].abs()) < 1e-6
    swapped = u[0, 1:11] < 0
    assert int(swapped.sum()) == 5
    assert torch.equal(u[1, 1:11] < 0, swapped)  # the same scenarios at every layer
    unswapped = fit(aligned, malicious).probes[0].v_hat
    assert float(unswapped[0]) > 0.5  # the control


def test_draws_differ_and_repeat() -> None:
    aligned, malicious = sides(n=16)
    draws = [
        shuffled_label_direction(aligned, malicious, scenario_ids=ids(16), draw=i, seed=1)
        for i in (0, 1, 0)
    ]
    assert torch.equal(draws[0], draws[2])
    assert float((draws[0] * draws[1]).sum(dim=1).abs().max()) < 0.9


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("which", ["draw", "seed"])
def test_a_draw_or_seed_below_zero_is_refused(which: str) -> None:
    aligned, malicious = sides()
    numbers = {"draw": 0, "seed": 1, which: -1}
    with pytest.raises(ProbeError, match=rf"0 or more, got .*{which} -1"):
        shuffled_label_direction(aligned, malicious, scenario_ids=ids(20), **numbers)


@pytest.mark.parametrize(
    ("size", "c", "method"),
    [
        (1e-9, 1.0, "logistic_sklearn_default"),  # lbfgs is content where it starts
        (1.0, 1e-300, "logistic"),  # |w| is no number of float64
    ],
)
def test_weights_that_are_no_direction_are_refused(size: float, c: float, method: Any) -> None:
    aligned, malicious = sides()
    with pytest.raises(ProbeError, match="ended at weights of norm 0, which are no direction"):
        fit(aligned * size, malicious * size, c=c, method=method)


def test_what_no_probe_can_be_fitted_from_is_refused_by_name() -> None:
    aligned, malicious = sides()
    with pytest.raises(ProbeError, match="got none that is malicious"):
        fit(aligned, malicious[:0])
    broken = malicious.clone()
    broken[7, 1, 3] = float("nan")
    with pytest.raises(
        ProbeError, match=r"at layer 5 in malicious response 7 \(scenario 's7'\) \(1 such"
    ):
        fit(aligned, broken, layers=(3, 5))
    broken[7, 1, 3] = float("inf")
    with pytest.raises(ProbeError, match="NaN or infinity"):
        fit(aligned, broken)
    counts = torch.full((20,), 4)
    empty = counts.clone()
    empty[2] = 0
    with pytest.raises(ProbeError, match=r"1 aligned response.*response 2 \(scenario 's2'\)"):
        fit(aligned, malicious, n_tokens=(empty, counts))
    assert fit(aligned, malicious, n_tokens=(counts, counts)).layers == (0, 1)
    with pytest.raises(ProbeError, match="needs at least 2, got 1"):
        fit(aligned, malicious, scenario_ids=(["s"] * 20, ["s"] * 20))
    with pytest.raises(ProbeError, match=r"agree in layers and d_model, got \(2, 16\) and \(2, 15"):
        fit(aligned, malicious[..., :15])
    with pytest.raises(ProbeError, match="name each of the 2 layers once, got \\(1, 1\\)"):
        fit(aligned, malicious, layers=(1, 1))
    with pytest.raises(ProbeError, match="20 aligned responses, got 19 ids"):
        fit(aligned, malicious, scenario_ids=(ids(19)[0], ids(20)[0]))
    with pytest.raises(ProbeError, match="one count for each of the 20 aligned"):
        fit(aligned, malicious, n_tokens=(counts[:3], counts))
    with pytest.raises(ProbeError, match="one system prompt a response"):
        fit(aligned, malicious, system_ids=(["a"], ["b"]))
    with pytest.raises(ProbeError, match="at least 2 folds, got n_folds=1"):
        fit(aligned, malicious, n_folds=1)
    with pytest.raises(ProbeError, match="c must be a positive number"):
        fit(aligned, malicious, c=0.0)


def test_sides_without_a_difference_are_refused_at_their_layer() -> None:
    aligned, malicious = sides()
    malicious[:, 1] = aligned[:, 1]
    with pytest.raises(ProbeError, match="layer 1: both sides have the same mean"):
        fit(aligned, malicious)


def test_folds_that_leave_one_side_alone_are_refused() -> None:
    aligned, malicious = sides(n=4)
    with pytest.raises(ProbeError, match="both sides outside every fold"):
        fit(aligned, malicious, scenario_ids=(["a"] * 4, ["b"] * 4))


def test_a_layer_without_probe_is_refused() -> None:
    probes = fit(*sides(), layers=(2, 7))
    assert probes.probe(7).layer == 7
    with pytest.raises(ProbeError, match="no probe for layer 3; there are probes for layers 2, 7"):
        probes.probe(3)


# ---------------------------------------------------------------- files


def probes_with_undefined_d(tmp_path: Path) -> ProbeSet:
    aligned, malicious = sides(n=6)
    aligned[:, 0], malicious[:, 0] = 1.0, -1.0  # no spread: Cohen's d is undefined
    return fit(aligned, malicious, layers=(3, 8), provenance={"weights": "abc"})


def test_saving_and_loading_returns_the_same_probes(tmp_path: Path) -> None:
    probes = probes_with_undefined_d(tmp_path)
    probes.save(tmp_path)
    loaded = ProbeSet.load(tmp_path, provenance={"weights": "abc"})
    assert torch.equal(loaded.v_hat, probes.v_hat)
    assert loaded.conventions == probes.conventions
    assert loaded.provenance == {"weights": "abc"}
    for one, other in zip(loaded.probes, probes.probes, strict=True):
        for name in LayerProbe.__slots__:
            if name != "v_hat":
                assert repr(getattr(one, name)) == repr(getattr(other, name)), name
    assert np.isnan(loaded.probes[0].in_sample.cohens_d)
    record = json.loads((tmp_path / "probes.json").read_text())
    assert record["layers"][0]["in_sample"]["cohens_d"] is None  # NaN is not JSON
    assert {"layer", "boundary", "mu_pos", "sigma_pos", "mu_neg", "sigma_neg", "delta_mu"} < set(
        record["layers"][1]
    )


def test_probe_files_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    probes = probes_with_undefined_d(tmp_path)
    probes.save(tmp_path)
    with pytest.raises(ProbeError, match="fitted with weights = 'abc', expected 'xyz'"):
        ProbeSet.load(tmp_path, provenance={"weights": "xyz"})
    vectors, numbers = tmp_path / "probes.safetensors", tmp_path / "probes.json"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-5])
    with pytest.raises(ProbeError, match=r"probes.safetensors is damaged or cut short"):
        ProbeSet.load(tmp_path)
    vectors.write_bytes(whole[:-5] + bytes(5))
    with pytest.raises(ProbeError, match="'v_hat' is not as it was written"):
        ProbeSet.load(tmp_path)
    others = {"v_hat": -probes.v_hat, "layers": torch.tensor(probes.layers)}
    atomic_write_tensors(vectors, others)
    with pytest.raises(ProbeError, match="do not belong together"):
        ProbeSet.load(tmp_path)
    vectors.write_bytes(whole)
    text = numbers.read_text()
    numbers.write_text(text[: len(text) // 2])
    with pytest.raises(ProbeError, match=r"probes.json is damaged or cut short .*fit the probes"):
        ProbeSet.load(tmp_path)
    numbers.write_text(text.replace('"mu_pos"', '"mu"'))
    with pytest.raises(ProbeError, match="do not fit this version"):
        ProbeSet.load(tmp_path)
    numbers.unlink()
    with pytest.raises(ProbeError, match="there is no file .*probes.json"):
        ProbeSet.load(tmp_path)
