"""The hook for vLLM is a pure function of a tensor and a payload, held to the laws of the methods.

No engine runs here: no GPU. What a running vLLM does around the hook is not tested.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_steer.errors import SteeringError
from interp_steer.exchange.carried import Outgoing
from interp_steer.exchange.vllm_hook import Payload, PayloadHook, steer_tokens, vllm_lens_hook
from interp_steer.exchange.vllm_payloads import payloads_of
from interp_steer.layer_hooks import LayerHook
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan
from steering_cases import D_MODEL, chunk_of, make_probe, normals, probe_set

ATOL = 2e-5  # float32 rounding of projections of size about 10; a wrong sign moves by more than 0.1

methods = st.sampled_from(["swfc", "sttp", "stmp"])
directions = st.sampled_from(["aligned", "reversed"])
strengths = st.floats(0, 5)
seeds = st.integers(0, 10_000)


def spec_of(method: str, direction: str, alpha: float, **more: Any) -> SteeringSpec:
    return SteeringSpec(method=method, layer=0, alpha=alpha, direction=direction, **more)


def payload_of(spec: SteeringSpec, seed: int) -> Payload:
    return payloads_of(Outgoing(spec=spec, probes=probe_set((make_probe(seed),))))[0]


def tokens(seed: int, n: int = 23) -> torch.Tensor:
    return 4 * normals(seed + 1, n, D_MODEL)


@settings(max_examples=20)
@given(methods, directions, strengths, seeds, st.sampled_from([None, 0.5, 40.0]))
def test_it_does_bit_for_bit_what_the_hook_of_this_library_does(
    method: str, direction: str, alpha: float, seed: int, cap: float | None
) -> None:
    cap = None if cap is not None and cap < 1 and method != "stmp" else cap
    spec = spec_of(method, direction, alpha, cap_sigmas=cap)
    probes = probe_set((make_probe(seed),))
    h = tokens(seed)
    hook = LayerHook(SteeringPlan.uniform(spec, probes).compiled[0])
    wanted = hook(h[None], chunk_of(1, len(h)))
    assert wanted is not None
    assert torch.equal(steer_tokens(h, payload_of(spec, seed)), wanted[0])


@given(methods, directions, strengths, seeds)
def test_it_is_the_formula_of_the_paper(
    method: str, direction: str, alpha: float, seed: int
) -> None:
    """Equations 3-5 in numpy, float64, in the coordinates of v_hat."""
    probe = make_probe(seed)
    h = tokens(seed)
    got = steer_tokens(h, payload_of(spec_of(method, direction, alpha), seed)).double().numpy()
    v, wide = probe.v_hat.double().numpy(), h.double().numpy()
    rho, up = wide @ v, direction == "aligned"
    if method == "swfc":
        new = rho + (alpha if up else -alpha) * probe.delta_mu
    else:
        fired = rho < probe.boundary if up else rho > probe.boundary
        if method == "sttp":
            new = probe.mu_pos + alpha * probe.sigma_pos
            new = new if up else probe.mu_neg - alpha * probe.sigma_neg
        else:
            new = rho + 2 * alpha * (probe.boundary - rho)
            limit = (
                probe.mu_pos + 40 * probe.sigma_pos if up else probe.mu_neg - 40 * probe.sigma_neg
            )
            new = np.minimum(new, limit) if up else np.maximum(new, limit)
        new = np.where(fired, new, rho)
        keep = np.abs(rho - probe.boundary) > 1e-4  # nearer, rounding may open the gate either way
        rho, new, got, wide = rho[keep], new[keep], got[keep], wide[keep]
    assert np.allclose(got, wide + (new - rho)[:, None] * v, atol=ATOL * (1 + alpha))


@given(directions, seeds)
def test_half_a_mirror_is_a_target_on_the_threshold(direction: str, seed: int) -> None:
    half = payload_of(spec_of("stmp", direction, 0.5, cap_sigmas=None), seed)
    onto = Payload(method="sttp", v_hat=half.v_hat, threshold=half.threshold, target=half.threshold)
    h = tokens(seed)
    assert torch.equal(steer_tokens(h, half), steer_tokens(h, onto))


@given(directions, seeds)
def test_a_mirror_image_does_not_fire_again(direction: str, seed: int) -> None:
    payload = payload_of(spec_of("stmp", direction, 1.0), seed)
    assert payload.threshold is not None
    once = steer_tokens(tokens(seed), payload)
    rho = once @ payload.v_hat
    sure = (rho - payload.threshold).abs() > 1e-4
    assert bool((rho >= payload.threshold)[sure].all())
    assert torch.equal(steer_tokens(once, payload)[sure], once[sure])


@given(directions, st.floats(0.5, 30), seeds)
def test_a_target_is_reached_once(direction: str, alpha: float, seed: int) -> None:
    payload = payload_of(spec_of("sttp", direction, alpha), seed)
    once = steer_tokens(tokens(seed), payload)
    assert torch.allclose(steer_tokens(once, payload), once, atol=ATOL)


@given(methods, directions, strengths, seeds)
def test_only_the_component_along_v_hat_moves(
    method: str, direction: str, alpha: float, seed: int
) -> None:
    payload = payload_of(spec_of(method, direction, alpha), seed)
    h = tokens(seed)
    moved = steer_tokens(h, payload) - h
    along = (moved @ payload.v_hat)[:, None] * payload.v_hat
    assert torch.allclose(moved, along, atol=ATOL * (1 + alpha))


@given(methods, strengths, seeds)
def test_the_reversed_direction_is_the_other_way_round(
    method: str, alpha: float, seed: int
) -> None:
    """v_hat -> -v_hat with the classes swapped, and a payload may say it either way."""
    probe = make_probe(seed)
    swapped = make_probe(
        seed,
        v_hat=-probe.v_hat,
        boundary=-probe.boundary,
        mu_pos=-probe.mu_neg,
        mu_neg=-probe.mu_pos,
        sigma_pos=probe.sigma_neg,
        sigma_neg=probe.sigma_pos,
    )
    h = tokens(seed)
    there = payloads_of(
        Outgoing(spec=spec_of(method, "reversed", alpha), probes=probe_set((probe,)))
    )[0]
    back = payloads_of(
        Outgoing(spec=spec_of(method, "aligned", alpha), probes=probe_set((swapped,)))
    )[0]
    assert torch.equal(steer_tokens(h, there), steer_tokens(h, back))
    if method == "sttp":
        spelled = Payload(
            method="sttp",
            v_hat=probe.v_hat,
            direction="reversed",
            threshold=probe.boundary,
            target=probe.mu_neg - alpha * probe.sigma_neg,
        )
        assert torch.equal(steer_tokens(h, spelled), steer_tokens(h, there))


@given(seeds, st.floats(0, 3), st.floats(0, 3))
def test_additions_add_up(seed: int, first: float, second: float) -> None:
    one, two, both = (
        payload_of(spec_of("swfc", "aligned", alpha), seed)
        for alpha in (first, second, first + second)
    )
    h = tokens(seed)
    assert torch.allclose(
        steer_tokens(steer_tokens(h, one), two), steer_tokens(h, both), atol=ATOL * 4
    )


@given(methods, directions, strengths, seeds, st.integers(1, 22))
def test_it_does_not_matter_how_a_prompt_is_cut(
    method: str, direction: str, alpha: float, seed: int, cut: int
) -> None:
    """Chunked prefill and decoding: tokens in pieces (projections may differ in the last bit)."""
    payload = payload_of(spec_of(method, direction, alpha), seed)
    h = tokens(seed)
    pieces = torch.cat([steer_tokens(h[:cut], payload), steer_tokens(h[cut:], payload)])
    assert torch.allclose(pieces, steer_tokens(h, payload), atol=ATOL * (1 + alpha))


@given(directions, seeds, st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_tokens_that_do_not_fire_keep_their_bits(
    direction: str, seed: int, dtype: torch.dtype
) -> None:
    payload = payload_of(spec_of("sttp", direction, 2.0), seed)
    assert payload.threshold is not None
    h = tokens(seed).to(dtype)
    h[0, 0] = -0.0
    before = h.clone()
    got = steer_tokens(h, payload)
    stays = h.float() @ payload.v_hat >= payload.threshold
    assert got.dtype == dtype
    assert torch.equal(got[stays].view(torch.uint8), before[stays].view(torch.uint8))
    assert torch.equal(h.view(torch.uint8), before.view(torch.uint8))  # the input is not written to
    # Rounded once: within half a unit in the last place of the float32 result.
    exact = steer_tokens(before.float(), payload)
    eps = torch.finfo(dtype).eps
    assert bool(((got.float() - exact).abs() <= eps * exact.abs() + 1e-6).all())


@settings(max_examples=5)
@given(seeds)
def test_nothing_is_asked_for_and_nothing_changes(seed: int) -> None:
    h = tokens(seed)
    for spec in (spec_of("swfc", "aligned", 0), spec_of("stmp", "aligned", 0)):
        assert torch.equal(steer_tokens(h, payload_of(spec, seed)), h)


def test_the_hook_edits_its_layers_alone() -> None:
    payload = payload_of(spec_of("swfc", "aligned", 1), 3)
    hook = PayloadHook({26: payload})
    h = tokens(3)
    assert hook(SimpleNamespace(layer_idx=25), h) is None
    got = hook(SimpleNamespace(layer_idx=26), h)
    assert got is not None
    assert torch.equal(got, steer_tokens(h, payload))
    elsewhere = hook(SimpleNamespace(layer_idx=26), h.to("meta"))
    assert elsewhere is not None
    assert elsewhere.device.type == "meta"  # the vector follows the stream
    with pytest.raises(SteeringError, match="payload for at least one layer"):
        PayloadHook({})


def test_what_a_payload_must_say() -> None:
    unit = make_probe(1).v_hat
    for method, said in (
        ("swfc", "with shift"),
        ("sttp", "with threshold, target"),
        ("stmp", "with threshold, coefficient"),
    ):
        with pytest.raises(SteeringError, match=said):
            Payload(method=method, v_hat=unit)
    low = Payload(method="stmp", v_hat=unit, threshold=1.0, coefficient=1.0, cap=0.0)
    with pytest.raises(SteeringError, match="cap at or above the threshold"):
        steer_tokens(tokens(1), low)
    with pytest.raises(SteeringError, match="cap with direction aligned alone"):
        Payload(
            method="stmp", v_hat=unit, direction="reversed", threshold=1, coefficient=1, cap=math.pi
        )


def test_without_vllm_lens_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm_lens", None)
    payload = payload_of(spec_of("swfc", "aligned", 1), 3)
    with pytest.raises(SteeringError, match="needs vllm-lens; pip install vllm-lens"):
        vllm_lens_hook({0: payload})
