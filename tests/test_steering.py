"""The laws of the three interventions, and of the hook that applies them row by row; no model."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.hook_records import HookRecord
from interp_steer.interventions import Law, edit, move, project, stmp, stmp_law, sttp, swfc
from interp_steer.layer_hooks import LayerHook
from interp_steer.probes import LayerProbe
from interp_steer.scopes import Scope
from interp_steer.specs import SteeringSpec, quantile_threshold, resolve
from interp_steer.steering import SteeringPlan
from steering_cases import D_MODEL, chunk_of, make_probe, make_probes, normals, probe_set

METHODS = ("swfc", "sttp", "stmp")
finite = st.floats(-50, 50, width=32)
strengths = st.floats(0, 8, width=32)
seeds = st.integers(0, 2**31 - 1)

# Rounding of float32: a projection is a sum of D_MODEL products of size |h_i v_i|, so its error is
# below D_MODEL * 2**-24 * |h|; |h| stays below 400 here, which makes 4e-4 the loosest bound used.
# A wrong constant in any formula moves rho by at least 1e-2 times a statistic of order 1.
TOLERANCE = 5e-4
laws = settings(deadline=None, max_examples=30)  # the first call loads torch kernels


def rhos(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def run(spec: SteeringSpec, h: Tensor, probe: LayerProbe, **chunk: Any) -> Tensor:
    """The output of a compiled hook for one spec and every row of h."""
    plan = SteeringPlan.uniform(spec, probe_set((probe,)))
    out = plan.hooks()[probe.layer](h, chunk_of(*h.shape[:2], **chunk))
    assert out is not None
    return out


class Kept:
    """A recorder of the last call."""

    last: HookRecord

    def record(self, record: HookRecord) -> None:
        self.last = record


def recorded(
    spec: SteeringSpec, h: Tensor, probe: LayerProbe, piece: tuple[int, int]
) -> HookRecord:
    """What a hook did to a piece of one row of h."""
    kept, plan = Kept(), SteeringPlan.uniform(spec, probe_set((probe,)))
    hook = plan.hooks(recorder=kept)[probe.layer]
    hook(h[:, slice(*piece)], chunk_of(1, h.shape[1], piece=piece))
    return kept.last


def spec_of(method: str, alpha: float, **options: Any) -> SteeringSpec:
    return SteeringSpec(method=method, layer=0, alpha=alpha, **options)


# --- laws on projections -------------------------------------------------------------------


@laws
@given(st.lists(finite, min_size=1, max_size=8), finite)
def test_stmp_alpha_half_is_sttp_onto_the_threshold(values: list[float], t: float) -> None:
    rho = rhos(values)
    onto = sttp(rho, threshold=t, target=t)
    torch.testing.assert_close(stmp(rho, threshold=t, alpha=0.5), onto, atol=1e-5, rtol=0)
    if bool((rho < t - 0.1).any()):  # control: another alpha is another method
        assert (stmp(rho, threshold=t, alpha=0.6) - onto).abs().max() > 1e-2


@laws
@given(st.lists(finite, min_size=1, max_size=8), finite)
def test_stmp_alpha_one_mirrors_and_does_not_fire_twice(values: list[float], t: float) -> None:
    rho = rhos(values)
    first = move(rho, stmp_law(threshold=t, alpha=1.0))
    mirrored = rho + first.shift
    expected = torch.where(rho < t, 2 * t - rho, rho)
    torch.testing.assert_close(mirrored, expected, atol=2e-5, rtol=0)
    assert torch.equal(first.fired, rho < t)
    assert not move(mirrored, stmp_law(threshold=t, alpha=1.0)).fired.any()


@laws
@given(st.lists(finite, min_size=1, max_size=8), finite, strengths)
def test_sttp_twice_is_once(values: list[float], t: float, above: float) -> None:
    once = sttp(rhos(values), threshold=t, target=t + above)
    twice = sttp(once, threshold=t, target=t + above)
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=0)


@laws
@given(st.lists(finite, min_size=1, max_size=8), strengths, strengths, st.floats(0.1, 20))
def test_swfc_is_linear_in_alpha(values: list[float], a: float, b: float, delta: float) -> None:
    rho = rhos(values)
    moved = [swfc(rho, alpha=alpha, delta_mu=delta) - rho for alpha in (a, b, a + b)]
    torch.testing.assert_close(moved[0] + moved[1], moved[2], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[0], torch.full_like(rho, a * delta), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # t = 1, rho = (-2, 0.5, 1, 3); worked by hand from equations 3 to 5
        (lambda r: swfc(r, alpha=2, delta_mu=1.5), [1.0, 3.5, 4.0, 6.0]),
        (lambda r: sttp(r, threshold=1, target=4), [4.0, 4.0, 1.0, 3.0]),
        (lambda r: stmp(r, threshold=1, alpha=2), [10.0, 2.5, 1.0, 3.0]),
        (lambda r: stmp(r, threshold=1, alpha=2, cap=6), [6.0, 2.5, 1.0, 3.0]),
        (lambda r: stmp(r, threshold=1, alpha=0.25), [-0.5, 0.75, 1.0, 3.0]),
    ],
)
def test_equations_worked_by_hand(method: Any, expected: list[float]) -> None:
    assert method(rhos([-2, 0.5, 1, 3])).tolist() == expected


def test_capped_are_only_the_tokens_that_the_cap_shortened() -> None:
    moved = move(rhos([-2, 0.5, 1, 3]), stmp_law(threshold=1, alpha=2, cap=6))
    assert moved.fired.tolist() == [True, True, False, False]
    assert moved.capped.tolist() == [True, False, False, False]
    # a token above the cap that did not fire stays above it
    assert stmp(rhos([9.0]), threshold=1, alpha=2, cap=6).item() == 9.0


@laws
@given(
    st.lists(finite, min_size=1, max_size=8),
    st.sampled_from([math.inf, 0.5]),
    st.sampled_from([0.0, 1.0, 1.5]),
    st.sampled_from([0.0, 2.5]),
    st.sampled_from([math.inf, 3.0]),
    st.booleans(),
)
def test_a_constant_says_the_same_as_a_number_and_as_a_tensor(
    values: list[float], gate: float, gain: float, offset: float, cap: float, is_scoped: bool
) -> None:
    """Numbers that change nothing are left out of the sum; a tensor's are not looked at."""
    rho = rhos(values)
    among = rho > -1.0 if is_scoped else None
    law = Law(gate=gate, gain=gain, pivot=1.25, offset=offset, cap=cap)
    tensors = {f.name: torch.tensor([float(getattr(law, f.name))]) for f in fields(law)}
    found, expected = move(rho, law, among=among), move(rho, Law(**tensors), among=among)
    for name in ("fired", "shift", "capped"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    if bool(found.fired.any()):  # control: another constant is another law
        other = move(rho, replace(law, offset=offset - 0.5), among=among)
        assert not torch.equal(other.wanted, expected.wanted)


def test_a_cap_below_the_threshold_is_refused() -> None:
    with pytest.raises(SteeringError, match=r"cap at or above the threshold 2, got cap 1; raise"):
        stmp(rhos([0.0]), threshold=2.0, alpha=1.0, cap=1.0)


# --- laws on residuals, through the compiled hook --------------------------------------------


@laws
@given(seeds, st.sampled_from(METHODS), strengths, st.sampled_from(["aligned", "reversed"]))
def test_a_token_gets_alone_what_it_gets_among_others(
    seed: int, method: str, alpha: float, direction: str
) -> None:
    """Among others some token fires nearly always; alone often none does."""
    h, probe = normals(seed, 1, 8, D_MODEL), make_probe(seed)
    spec = spec_of(method, alpha, direction=direction)
    whole, threshold = recorded(spec, h, probe, (0, 8)), resolve(spec, probe).threshold
    for at in range(8):
        alone = recorded(spec, h, probe, (at, at + 1))
        rho = whole.projection_before[:, at : at + 1]
        if threshold is not None and (rho - threshold).abs() < 1e-4:
            continue  # rounding decides
        for name in ("in_scope", "fired", "capped"):
            assert torch.equal(getattr(alone, name), getattr(whole, name)[:, at : at + 1])
        for name in ("projection_before", "shift", "delta_norm", "norm", "projection_after"):
            among = getattr(whole, name)[:, at : at + 1]
            torch.testing.assert_close(getattr(alone, name), among, atol=TOLERANCE, rtol=1e-5)
        if not alone.fired:
            assert torch.equal(alone.resid_after, h[:, at : at + 1])


@laws
@given(seeds, st.sampled_from(METHODS), strengths, st.sampled_from(["aligned", "reversed"]))
def test_the_orthogonal_component_is_unchanged(
    seed: int, method: str, alpha: float, direction: str
) -> None:
    h, probe = normals(seed, 2, 3, D_MODEL), make_probe(seed)
    delta = run(spec_of(method, alpha, direction=direction), h, probe) - h
    along = (delta @ probe.v_hat)[..., None] * probe.v_hat
    assert (delta - along).norm() <= TOLERANCE
    # control: against another direction the same edit has an orthogonal part
    if delta.norm() > 0.1:
        u = make_probe(seed + 1).v_hat
        assert (delta - (delta @ u)[..., None] * u).norm() > 10 * TOLERANCE


@laws
@given(seeds, st.sampled_from(METHODS), strengths)
def test_reversed_is_the_same_method_after_turning_the_probe(
    seed: int, method: str, alpha: float
) -> None:
    h, probe = normals(seed, 2, 3, D_MODEL), make_probe(seed)
    turned = replace(
        probe,
        v_hat=-probe.v_hat,
        boundary=-probe.boundary,
        mu_pos=-probe.mu_neg,
        sigma_pos=probe.sigma_neg,
        mu_neg=-probe.mu_pos,
        sigma_neg=probe.sigma_pos,
    )
    reverse = run(spec_of(method, alpha, direction="reversed"), h, probe)
    assert torch.equal(reverse, run(spec_of(method, alpha), h, turned))
    if alpha > 0.1:  # control: it is not what the aligned direction does
        assert not torch.allclose(reverse, run(spec_of(method, alpha), h, probe), atol=1e-2)


def test_reversed_by_the_formulas_of_the_paper() -> None:
    probe = make_probe(3)
    h = normals(4, 1, 200, D_MODEL) * 3
    rho = (h @ probe.v_hat)[0].double().numpy()
    m, mu, sigma = probe.boundary, probe.mu_neg, probe.sigma_neg
    fires = rho > m
    expected = {
        ("swfc", 2.0): rho - 2.0 * probe.delta_mu,
        ("sttp", 6.0): np.where(fires, mu - 6.0 * sigma, rho),
        ("stmp", 1.5): np.where(fires, np.maximum(rho + 3.0 * (m - rho), mu - 40 * sigma), rho),
    }
    assert 20 < fires.sum() < 180  # both branches are entered
    for (method, alpha), want in expected.items():
        out = run(spec_of(method, alpha, direction="reversed"), h, probe)
        np.testing.assert_allclose((out @ probe.v_hat)[0].numpy(), want, atol=TOLERANCE)


def test_the_reversed_floor_stops_the_mirror_image() -> None:
    probe = make_probe(3)
    floor = probe.mu_neg - 2 * probe.sigma_neg
    h = (probe.boundary + 30.0) * probe.v_hat.expand(1, 1, -1)
    out = run(spec_of("stmp", 4.0, direction="reversed", cap_sigmas=2), h, probe)
    assert (out @ probe.v_hat).item() == pytest.approx(floor, abs=TOLERANCE)


@laws
@given(
    seeds,
    st.sampled_from(METHODS),
    strengths,
    st.sampled_from(["aligned", "reversed"]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.sampled_from([(1, 1), (3, 1), (2, 4)]),
    st.sampled_from(["all", "response"]),
    st.booleans(),
)
def test_short_cuts_say_the_same_to_the_bit(
    seed: int,
    method: str,
    alpha: float,
    direction: str,
    dtype: torch.dtype,
    shape: tuple[int, int],
    scope: str,
    may_have_padding: bool,
) -> None:
    """Nobody records, one token alone, no padding: each takes a way of its own to the same h'."""
    h, probe = normals(seed, *shape, D_MODEL).to(dtype), make_probe(seed)
    plan = SteeringPlan.uniform(
        spec_of(method, alpha, direction=direction, scope=scope), probe_set((probe,))
    )
    chunk = replace(chunk_of(*shape, prompt=shape[1] // 2), has_padding=may_have_padding)
    kept = Kept()
    recorded = plan.hooks(recorder=kept)[0](h, chunk)
    unseen = plan.hooks()[0](h, chunk)
    assert recorded is not None and unseen is not None
    assert same_bits(recorded, unseen)
    seen = kept.last
    assert same_bits(recorded, edit(h, probe.v_hat, seen.shift))
    assert bool((seen.fired <= seen.in_scope).all())
    still = ~seen.fired
    assert same_bits(recorded[still], h[still])


@laws
@given(seeds, st.sampled_from(["swfc", "stmp"]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_zero_strength_keeps_every_bit(seed: int, method: str, dtype: torch.dtype) -> None:
    h = normals(seed, 2, 3, D_MODEL).to(dtype)
    h[0, 0] = -0.0  # adding a zero would turn it into +0.0
    assert same_bits(run(spec_of(method, 0.0), h, make_probe(seed)), h)
    low = h - (20 * make_probe(seed).v_hat).to(dtype)
    assert not same_bits(run(spec_of(method, 4.0), low, make_probe(seed)), low)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    )


@laws
@given(seeds, st.sampled_from(METHODS), st.sampled_from([torch.float32, torch.bfloat16]))
def test_tokens_outside_gate_and_scope_keep_their_bits(
    seed: int, method: str, dtype: torch.dtype
) -> None:
    h, probe = normals(seed, 2, 6, D_MODEL).to(dtype), make_probe(seed)
    h[:, 3] = -0.0
    untouched = h.clone()
    out = run(spec_of(method, 3.0, scope="response"), h, probe, prompt=4, padding=[0, 2])
    assert torch.equal(h, untouched)  # the input is never written to
    assert same_bits(out[:, :4], h[:, :4])
    passes = (h.float() @ probe.v_hat) >= probe.boundary
    if method != "swfc":
        assert same_bits(out[passes], h[passes])
    fires = ~passes[:, 4:] if method != "swfc" else torch.ones_like(passes[:, 4:])
    changed = (out != h).any(-1)[:, 4:]
    assert torch.equal(changed, fires)  # control: the others do change


@laws
@given(seeds, st.sampled_from(METHODS), st.floats(0, 3))
def test_bfloat16_is_within_the_rounding_of_h(seed: int, method: str, alpha: float) -> None:
    """bfloat16 rounds each entry of h' by at most 2**-8 of it (unit roundoff of 8 bits), hence
    moves <h', v> by at most 2**-8 |h'| (Cauchy-Schwarz, |v| = 1)."""
    h, probe = normals(seed, 2, 3, D_MODEL).bfloat16(), make_probe(seed)
    out = run(spec_of(method, alpha), h, probe)
    wide = run(spec_of(method, alpha), h.float(), probe)
    assert out.dtype == torch.bfloat16
    error = ((out.float() - wide) @ probe.v_hat).abs()
    assert bool((error <= 2**-8 * wide.norm(dim=-1) + 1e-6).all())
    # A projection formed in bfloat16 breaks this bound (planted and seen to fail).
    assert project(h, probe.v_hat).dtype == torch.float32


def test_float64_residuals_are_not_cut_to_float32() -> None:
    h = normals(0, 1, 1, D_MODEL).double() + 1e-12
    v = make_probe(0).v_hat
    moved = edit(h, v, torch.full((1, 1), 2.0))
    assert moved.dtype == torch.float64
    np.testing.assert_allclose(moved - 2.0 * v.double(), h, atol=1e-15)


# --- rows --------------------------------------------------------------------------------------


@laws
@given(seeds, st.data())
def test_every_row_is_steered_as_if_alone(seed: int, data: st.DataObject) -> None:
    probes = make_probes(seed, layers=(0,))
    u = make_probe(seed + 9).v_hat
    menu: list[SteeringSpec | None] = [
        None,
        spec_of("swfc", 1.5),
        spec_of("sttp", 6.0, scope="response"),
        spec_of("stmp", 2.0, scope="first:1", direction="reversed"),
        spec_of("stmp", 3.0, threshold=("sigma", 1.0)),
        spec_of("sttp", 3.0, scope="prompt", threshold=("value", 0.3)),
        spec_of("stmp", 2.0, edit_direction=u),
        spec_of("swfc", 1.0, direction="reversed", scope="response+last_prompt"),
    ]
    picks = data.draw(st.lists(st.sampled_from(range(len(menu))), min_size=1, max_size=6))
    specs = [menu[pick] for pick in picks]
    h = normals(seed, len(specs), 6, D_MODEL)
    padding = [row % 3 for row in range(len(specs))]
    chunk = chunk_of(len(specs), 6, prompt=4, padding=padding)
    hooks = SteeringPlan(specs, probes).hooks()
    packed = hooks[0](h, chunk) if hooks else None
    packed = h if packed is None else packed
    for row, spec in enumerate(specs):
        if spec is None:
            assert same_bits(packed[row], h[row])
            continue
        alone = run(spec, h[row : row + 1], probes.probe(0), prompt=4, padding=[padding[row]])
        torch.testing.assert_close(packed[row : row + 1], alone, atol=1e-5, rtol=0)


def test_rows_that_leave_the_batch_keep_their_own_specs() -> None:
    probes = make_probes(1, layers=(0,))
    specs = [spec_of("swfc", float(alpha)) for alpha in (1, 2, 3)]
    hook = SteeringPlan([*specs, None], probes).hooks()[0]
    h = normals(0, 4, 1, D_MODEL)
    hook(h, chunk_of(4, 1, prompt=0))
    left = chunk_of(2, 1, prompt=0, rows=[2, 3])
    out = hook(h[:2], left)
    assert out is not None
    torch.testing.assert_close(out[0], h[0] + 3 * probes.probe(0).delta_mu * probes.probe(0).v_hat)
    assert same_bits(out[1], h[1])
    assert hook(h[:1], chunk_of(1, 1, prompt=0, rows=[3])) is None


def test_layers_of_one_spec_have_each_their_own_constants() -> None:
    probes = make_probes(5, layers=(0, 2))
    spec = SteeringSpec(method="sttp", layer=(0, 2), alpha=3)
    hooks = SteeringPlan([spec], probes).hooks()
    h = normals(1, 1, 4, D_MODEL) - 20 * probes.probe(0).v_hat - 20 * probes.probe(2).v_hat
    for layer in (0, 2):
        probe = probes.probe(layer)
        out = hooks[layer](h, chunk_of(1, 4))
        assert out is not None
        target = probe.mu_pos + 3 * probe.sigma_pos
        np.testing.assert_allclose(out @ probe.v_hat, target, atol=TOLERANCE)


def test_the_edit_direction_control_matches_the_move_but_not_the_direction() -> None:
    probe, u = make_probe(2), make_probe(7).v_hat
    h = normals(3, 2, 8, D_MODEL)
    for method, alpha in (("swfc", 2.0), ("sttp", 6.0), ("stmp", 2.0)):
        real = run(spec_of(method, alpha), h, probe) - h
        control = run(spec_of(method, alpha, edit_direction=u), h, probe) - h
        shift = real @ probe.v_hat
        np.testing.assert_allclose(control, shift[..., None] * u, atol=TOLERANCE)
        np.testing.assert_allclose(control.norm(dim=-1), real.norm(dim=-1), atol=TOLERANCE)
        assert (shift != 0).any()


def test_thresholds() -> None:
    probe = make_probe(2)
    sigma = resolve(spec_of("sttp", 3.0, threshold=("sigma", -1.5)), probe)
    assert sigma.threshold == pytest.approx(probe.mu_pos - 1.5 * probe.sigma_pos)
    back = resolve(spec_of("sttp", 3.0, threshold=("sigma", -1.5), direction="reversed"), probe)
    assert back.threshold == pytest.approx(probe.mu_neg + 1.5 * probe.sigma_neg)
    given_value = spec_of("stmp", 1.0, threshold=("value", 0.25), direction="reversed")
    assert resolve(given_value, probe).threshold == 0.25
    assert resolve(spec_of("stmp", 1.0), probe).threshold == probe.boundary
    assert resolve(spec_of("swfc", 1.0), probe).threshold is None
    # StMP mirrors about the threshold in force
    h = -3.0 * probe.v_hat.expand(1, 1, -1)
    out = run(spec_of("stmp", 1.0, threshold=("value", 0.25)), h, probe)
    assert (out @ probe.v_hat).item() == pytest.approx(3.5, abs=1e-5)


@laws
@given(st.lists(finite, min_size=1, max_size=30), st.floats(0, 1))
def test_quantile_threshold_agrees_with_numpy(values: list[float], q: float) -> None:
    kind, value = quantile_threshold(rhos(values), q)
    assert kind == "value"
    assert value == pytest.approx(np.quantile(np.float64(values), q), abs=1e-9)


# --- scopes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", "..######"),
        ("response", ".....###"),
        ("prompt", "..###..."),
        ("first:1", ".....#.."),
        ("first:2", ".....##."),
        ("first:99", ".....###"),
        ("response+last_prompt", "....####"),
        ("first:1+last_prompt", "....##.."),
    ],
)
def test_scopes_of_a_padded_row_whole_and_in_pieces(text: str, expected: str) -> None:
    scope = Scope.parse(text)
    assert str(scope) == text
    assert Scope.parse(str(scope)) == scope
    whole = chunk_of(1, 8, prompt=5, padding=[2])
    drawn = "".join("#" if hit else "." for hit in scope.mask(whole)[0].tolist())
    assert drawn == expected
    for cut in range(1, 8):
        pieces = [chunk_of(1, 8, prompt=5, padding=[2], piece=p) for p in ((0, cut), (cut, 8))]
        joined = torch.cat([scope.mask(piece) for piece in pieces], dim=1)
        assert torch.equal(joined, scope.mask(whole))


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "caa"}, r"expected method one of swfc, sttp, stmp, got 'caa'"),
        ({"direction": "up"}, r"expected direction one of aligned, reversed, got 'up'"),
        ({"alpha": math.nan}, r"expected a finite alpha, got nan"),
        ({"alpha": math.inf}, r"expected a finite alpha, got inf"),
        ({"alpha": -1.0}, r"alpha >= 0 for stmp, got -1.0; .* direction='reversed'"),
        ({"scope": "answer"}, r"'all', 'response', 'prompt' or 'first:K' .* got 'answer'"),
        ({"scope": "first:0"}, r"'first:K' with K >= 1 response tokens, got K=0; .* 'prompt'"),
        ({"scope": "first:-2"}, r"K >= 1 response tokens, got K=-2"),
        ({"scope": "first:"}, r"got 'first:'"),
        ({"scope": "first:two"}, r"got 'first:two'"),
        ({"scope": "all+last_prompt"}, r"'all' contains the last prompt position already"),
        ({"layer": ()}, r"one layer or several different ones, zero-based, got \(\)"),
        ({"layer": -1}, r"zero-based, got -1"),
        ({"layer": (1, 1)}, r"several different ones"),
        ({"cap_sigmas": math.nan}, r"finite cap_sigmas, got nan; None turns the cap off"),
        ({"threshold": "mean"}, r"threshold 'boundary', \('sigma', k\) or \('value', x\), got 'me"),
        ({"threshold": ("sigma", math.nan)}, r"expected a finite threshold"),
        (
            {"threshold": ("value", 1.0), "layer": (0, 1)},
            r"one layer, got layers \(0, 1\)",
        ),
        ({"threshold": ("sigma", 1.0), "method": "swfc"}, r"swfc acts on every token in scope"),
        ({"edit_direction": torch.ones(D_MODEL)}, r"norm 1, got .*; divide it by its norm"),
        ({"edit_direction": torch.eye(D_MODEL)[:2]}, r"\[1, d_model\] \(one row per layer\), got"),
    ],
)
def test_bad_specs_are_refused(options: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"method": "stmp", "layer": 0, "alpha": 1.0}
    SteeringSpec(**good)
    with pytest.raises(SteeringError, match=message):
        SteeringSpec(**(good | options))


def test_scope_objects_refuse_what_no_text_can_say() -> None:
    with pytest.raises(SteeringError, match="expected k for the scope 'first'"):
        Scope(kind="first")
    with pytest.raises(SteeringError, match="expected k for the scope 'first' and for no other"):
        Scope(kind="all", k=3)


def test_contradictions_with_the_probe_are_refused() -> None:
    probes = make_probes(0, layers=(0,))
    probe = probes.probe(0)
    with pytest.raises(SteeringError, match=r"a layer with a probe \(0\), got layer 3; fit a"):
        SteeringPlan([SteeringSpec(method="swfc", layer=3, alpha=1)], probes)
    with pytest.raises(SteeringError, match="got an empty list"):
        SteeringPlan([], probes)
    low = -(probe.mu_pos - probe.boundary) / probe.sigma_pos - 1
    with pytest.raises(SteeringError, match="cap at or above the threshold"):
        SteeringPlan([spec_of("stmp", 1.0, cap_sigmas=low)], probes)
    SteeringPlan([spec_of("stmp", 1.0, cap_sigmas=low + 1.5)], probes)
    narrow = torch.eye(D_MODEL + 1)[0]
    with pytest.raises(SteeringError, match=rf"width {D_MODEL} .* got {D_MODEL + 1}"):
        SteeringPlan([spec_of("swfc", 1.0, edit_direction=narrow)], probes)
    with pytest.raises(SteeringError, match="layer 0 has a statistic that is not finite"):
        resolve(spec_of("sttp", 1.0), replace(probe, sigma_pos=math.inf))


def test_a_plan_for_another_number_of_rows_is_refused() -> None:
    probes = make_probes(0, layers=(0,))
    plan = SteeringPlan([spec_of("swfc", 1.0)] * 3, probes)
    for n_rows in (2, 4):
        hook = plan.hooks()[0]
        with pytest.raises(SteeringError, match=rf"a call with 3 sequences.*got {n_rows}; give"):
            hook(normals(0, n_rows, 2, D_MODEL), chunk_of(n_rows, 2))
    hook = plan.hooks()[0]
    hook(normals(0, 3, 2, D_MODEL), chunk_of(3, 2))
    with pytest.raises(SteeringError, match="a call with 3 sequences"):
        hook(normals(0, 4, 2, D_MODEL), chunk_of(4, 2))


@pytest.mark.parametrize(
    ("values", "q", "message"),
    [
        ([1.0], 1.5, r"a quantile in \[0, 1\], got 1.5"),
        ([], 0.5, r"at least one token, got 0 tokens"),
        ([1.0, math.nan], 0.5, r"2 tokens, 1 of them not finite"),
    ],
)
def test_quantile_threshold_refuses(values: list[float], q: float, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        quantile_threshold(rhos(values), q)


def test_specs_that_are_the_same_object_share_constants() -> None:
    probes = make_probes(0, layers=(0,))
    spec = spec_of("swfc", 1.0)
    plan = SteeringPlan([spec, None, spec, spec_of("swfc", 1.0)], probes)
    assert len(plan.compiled[0].slots) == 2
    assert plan.compiled[0].of_row(1) is None
    assert isinstance(plan.hooks()[0], LayerHook)
    assert SteeringPlan([None, None], probes).layers == ()
