"""Steering on models: every path through the model is steered alike, and like an independent hook.

Paths: KV cache or teacher-forced, batched or single, left-padded or not, packed or alone, prefill
whole or in pieces. Residuals are compared at every layer and token. A token whose projection lies
within `GATE_NOISE` of a threshold may gate either way; rows with one are counted apart.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import MistralForCausalLM

from interp_steer.errors import SteeringError
from interp_steer.model import GenerationSettings, HookedLM, Segment, TokenizedPrompt
from interp_steer.probes import LayerProbe, ProbeSet
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from interp_steer.tokens import TokenChunk
from steering_cases import make_probe, probe_set

# Measured largest difference between two paths: 2.7e-6 of the largest |h|. A scope that is wrong by
# one token, or a vector of another layer, differs by 1e-2 of it or more (see the controls).
NOISE = 2e-5
GATE_NOISE = 1e-3  # in units of sigma+
METHODS = {"swfc": 2.0, "sttp": 3.0, "stmp": 1.5}
GREEDY = GenerationSettings(max_new_tokens=6, temperature=0.0)


@pytest.fixture(params=["tiny_lm", "stories_lm"])
def any_lm(request: pytest.FixtureRequest) -> HookedLM:
    """A random model with a sliding window, and a trained one with full attention."""
    return request.getfixturevalue(request.param)


class Readings:
    """resid_post of every real token at every layer, by row and position, as hooks pass by."""

    def __init__(self, lm: HookedLM) -> None:
        self.values: dict[tuple[int, int], dict[int, Tensor]] = {}
        self.hooks = {layer: self._reader(layer) for layer in range(lm.n_layers)}

    def _reader(self, layer: int) -> Any:
        def read(resid: Tensor, chunk: TokenChunk) -> None:
            for i, row in enumerate(chunk.rows.tolist()):
                kept = self.values.setdefault((row, layer), {})
                for j, position in enumerate(chunk.positions[i].tolist()):
                    if position >= 0:
                        kept[position] = resid[i, j].clone()

        return read

    def of(self, row: int, layer: int) -> Tensor:
        found = self.values[(row, layer)]
        assert sorted(found) == list(range(len(found)))
        return torch.stack([found[position] for position in range(len(found))])


def sequences_of(
    lm: HookedLM, lengths: Sequence[int], n_response: int = 0
) -> list[TokenizedPrompt]:
    """Random tokens: BOS-like start, system, user, and a response of n_response tokens."""
    found = []
    for seed, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, lm.d_vocab, (length + n_response,), generator=generator).tolist()
        segments = [Segment.TEMPLATE] + [Segment.SYSTEM] * 2 + [Segment.USER] * (length - 3)
        prompt = TokenizedPrompt(token_ids=tuple(ids[:length]), segments=tuple(map(int, segments)))
        found.append(prompt.with_response(ids[length:]))
    return found


def teacher_forced(lm: HookedLM, sequences: Sequence[TokenizedPrompt], **options: Any) -> Readings:
    readings = Readings(lm)
    with lm.hooks(readings.hooks):
        lm.forward(sequences, return_logits=False, **options)
    return readings


@functools.cache
def fitted_probes(lm: HookedLM, *, seed: int = 0) -> ProbeSet:
    """Random directions; boundary between the middle tokens: both branches of a gate are used."""
    readings = teacher_forced(lm, sequences_of(lm, [5, 9, 12, 7], n_response=4))
    probes: list[LayerProbe] = []
    for layer in range(lm.n_layers):
        probe = make_probe(seed + layer, layer=layer, d_model=lm.d_model)
        rho = torch.cat([readings.of(row, layer) for row in range(4)]).float() @ probe.v_hat
        m, sigma = rho.sort().values[rho.numel() // 2 :][:2].mean().item(), rho.std().item() / 2
        numbers: dict[str, Any] = {"boundary": m, "mu_pos": m + sigma, "mu_neg": m - 0.8 * sigma}
        numbers |= {"sigma_pos": sigma / 3, "sigma_neg": sigma / 2, "delta_mu": 1.8 * sigma}
        probes.append(make_probe(seed + layer, layer=layer, d_model=lm.d_model, **numbers))
    return probe_set(tuple(probes))


def spec_of(method: str, layer: int | tuple[int, ...], **options: Any) -> SteeringSpec:
    values = {"method": method, "layer": layer, "alpha": METHODS[method]} | options
    return SteeringSpec(**values)


def is_near_gate(readings: Readings, row: int, layers: Sequence[int], probes: ProbeSet) -> bool:
    """Whether a token of the row stood so close to the boundary that noise decides (unsteered
    residuals stand in for the steered ones at the second layer; they differ where it matters)."""
    for layer in layers:
        probe = probes.probe(layer)
        gap = (readings.of(row, layer).float() @ probe.v_hat - probe.boundary).abs()
        if gap.min().item() < GATE_NOISE * probe.sigma_pos:
            return True
    return False


def assert_same(a: Tensor, b: Tensor, scale: Tensor | None = None) -> None:
    size = (b if scale is None else scale).abs().max().item()
    torch.testing.assert_close(a, b, atol=NOISE * size, rtol=0)


def differ(a: Tensor, b: Tensor) -> bool:
    return (a - b).abs().max().item() > 20 * NOISE * b.abs().max().item()


# --- one path like another -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("swfc", "all"),
        ("sttp", "all"),
        ("stmp", "all"),
        ("swfc", "response+last_prompt"),
        ("sttp", "response"),
        ("stmp", "response"),
        ("sttp", "prompt"),
        ("swfc", "first:2"),
    ],
)
def test_cached_generation_is_steered_like_teacher_forcing(
    any_lm: HookedLM, method: str, scope: str
) -> None:
    probes = fitted_probes(any_lm)
    prompts = sequences_of(any_lm, [5, 9, 12])
    layers = (0, any_lm.n_layers - 2)
    cached, forced = Readings(any_lm), Readings(any_lm)
    with steer(any_lm, spec_of(method, layers, scope=scope), probes):
        with any_lm.hooks(cached.hooks):
            made = any_lm.generate(prompts, GREEDY, sample_keys=["a", "b", "c"])
        with any_lm.hooks(forced.hooks):
            any_lm.forward([g.sequence for g in made], return_logits=False)
    free = teacher_forced(any_lm, [g.sequence for g in made])
    n_compared = n_changed = 0
    for row in range(3):
        if is_near_gate(cached, row, layers[:1], probes) or is_near_gate(
            free, row, layers[:1], probes
        ):
            continue
        n_compared += 1
        for layer in range(any_lm.n_layers):
            assert_same(cached.of(row, layer), forced.of(row, layer))
        n_changed += differ(forced.of(row, layers[0]), free.of(row, layers[0]))
    assert n_compared >= 2, "too many rows with a token at the gate to compare"
    assert n_changed  # control: the steering did something


@pytest.mark.parametrize("method", METHODS)
def test_batched_padded_packed_and_chunked_are_like_alone(any_lm: HookedLM, method: str) -> None:
    """Rows of different lengths and specs in one batch, against each row by itself."""
    probes = fitted_probes(any_lm)
    sequences = sequences_of(any_lm, [4, 11, 7, 9, 5], n_response=5)
    last = any_lm.n_layers - 2
    specs = [
        spec_of(method, 0),
        spec_of(method, (0, last), scope="response"),
        None,
        spec_of(method, last, direction="reversed"),
        spec_of("sttp", 0, scope="first:2+last_prompt"),
    ]
    plan = SteeringPlan(specs, probes)
    packed = []
    for size in (None, 3):
        readings = Readings(any_lm)
        with steer(any_lm, plan), any_lm.hooks(readings.hooks):
            any_lm.forward(sequences, return_logits=False, chunk=size)
        packed.append(readings)
    for row, spec in enumerate(specs):
        alone = Readings(any_lm)
        if spec is None:
            alone = teacher_forced(any_lm, [sequences[row]])
        else:
            with steer(any_lm, spec, probes), any_lm.hooks(alone.hooks):
                any_lm.forward([sequences[row]], return_logits=False)
        assert not is_near_gate(teacher_forced(any_lm, [sequences[row]]), 0, (0, last), probes)
        for layer in range(any_lm.n_layers):
            for readings in packed:
                assert_same(readings.of(row, layer), alone.of(0, layer))
        # control: another row's spec would have been seen
        other = Readings(any_lm)
        with steer(any_lm, spec_of("swfc", 0, alpha=3.0), probes), any_lm.hooks(other.hooks):
            any_lm.forward([sequences[row]], return_logits=False)
        assert differ(other.of(0, 0), alone.of(0, 0))


@pytest.mark.parametrize("method", METHODS)
def test_generation_in_a_packed_batch_is_the_one_alone(tiny_lm: HookedLM, method: str) -> None:
    probes = fitted_probes(tiny_lm)
    prompts = sequences_of(tiny_lm, [4, 11, 7, 9])
    settings = GenerationSettings(max_new_tokens=8, seed=3)
    chunked = GenerationSettings(max_new_tokens=8, seed=3, prefill_chunk=4)
    keys = ["a", "b", "c", "d"]
    specs = [
        spec_of(method, 0),
        spec_of(method, 1, scope="response"),
        None,
        spec_of(method, (0, 1), direction="reversed"),
    ]
    plan = SteeringPlan(specs, probes)
    with steer(tiny_lm, plan):
        together = tiny_lm.generate(prompts, settings, sample_keys=keys)
    with steer(tiny_lm, plan):
        in_pieces = tiny_lm.generate(prompts, chunked, sample_keys=keys)
    for row, spec in enumerate(specs):
        with steer(tiny_lm, SteeringPlan([spec], probes)):
            [alone] = tiny_lm.generate([prompts[row]], settings, sample_keys=[keys[row]])
        for made in (together[row], in_pieces[row]):
            assert made.token_ids == alone.token_ids
            np.testing.assert_allclose(made.logprobs, alone.logprobs, atol=1e-4)
    free = tiny_lm.generate(prompts, settings, sample_keys=keys)
    assert free[2].token_ids == together[2].token_ids
    changed = [free[i].logprobs != together[i].logprobs for i in (0, 1, 3)]
    assert all(changed)


# --- the right tokens, by the right amount ---------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("all", "######"),
        ("prompt", "####.."),
        ("response", "....##"),
        ("first:1", "....#."),
        ("response+last_prompt", "...###"),
    ],
)
@pytest.mark.parametrize("method", ["swfc", "sttp"])
def test_scopes_change_exactly_their_tokens(
    any_lm: HookedLM, method: str, scope: str, expected: str
) -> None:
    """A prefilled token belongs to the prompt; the short row is padded; others keep their bits."""
    probes = fitted_probes(any_lm)
    layer = 1
    prompt = sequences_of(any_lm, [3])[0].with_prefill([5])
    pair = [prompt.with_response([6, 7]), sequences_of(any_lm, [9])[0]]
    free = teacher_forced(any_lm, pair)
    steered = Readings(any_lm)
    far_below = ("value", 1e6) if method == "sttp" else "boundary"  # every token in scope fires
    spec = spec_of(method, layer, scope=scope, threshold=far_below)
    with steer(any_lm, spec, probes), any_lm.hooks(steered.hooks):
        any_lm.forward(pair, return_logits=False)
    hit = (steered.of(0, layer) != free.of(0, layer)).any(-1)
    assert "".join("#" if changed else "." for changed in hit.tolist()) == expected
    assert torch.equal(steered.of(0, layer - 1), free.of(0, layer - 1))  # an untouched layer


@pytest.mark.parametrize("direction", ["aligned", "reversed"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_against_a_plain_hook_on_the_hugging_face_module(
    tiny_lm: HookedLM, tiny_dir: Path, method: str, direction: str, layer: int
) -> None:
    """Independent: transformers alone, a forward hook in float64, equations 3-5 spelled out."""
    probes = fitted_probes(tiny_lm)
    plain = MistralForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()
    sequence = sequences_of(tiny_lm, [8], n_response=9)[0]
    ids = torch.tensor([sequence.token_ids])
    options: dict[str, Any] = {"direction": direction, "cap_sigmas": 8.0}
    handle = plain.model.layers[layer].register_forward_hook(
        plain_hook(method, METHODS[method], probes.probe(layer), direction, cap_sigmas=8.0)
    )
    with torch.no_grad():
        expected = plain(ids).logits[0]
        handle.remove()
        unsteered = plain(ids).logits[0]
    with steer(tiny_lm, spec_of(method, layer, **options), probes):
        logits = tiny_lm.forward([sequence])
    assert logits is not None
    assert_same(logits[0], expected)
    assert differ(unsteered, expected)


def plain_hook(
    method: str, alpha: float, probe: LayerProbe, direction: str, *, cap_sigmas: float
) -> Any:
    v = probe.v_hat.double()
    up = direction == "aligned"

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        h = (output[0] if isinstance(output, tuple) else output).double()
        rho = h @ v
        if method == "swfc":
            new = rho + (alpha if up else -alpha) * probe.delta_mu
        elif method == "sttp" and up:
            new = torch.where(rho < probe.boundary, probe.mu_pos + alpha * probe.sigma_pos, rho)
        elif method == "sttp":
            new = torch.where(rho > probe.boundary, probe.mu_neg - alpha * probe.sigma_neg, rho)
        else:
            mirrored = rho + 2 * alpha * (probe.boundary - rho)
            ceiling = probe.mu_pos + cap_sigmas * probe.sigma_pos
            floor = probe.mu_neg - cap_sigmas * probe.sigma_neg
            if up:
                new = torch.where(rho < probe.boundary, mirrored.clamp(max=ceiling), rho)
            else:
                new = torch.where(rho > probe.boundary, mirrored.clamp(min=floor), rho)
        edited = (h + (new - rho)[..., None] * v).float()
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    return hook


@pytest.mark.parametrize("scope", ["all", "response"])
def test_greedy_text_is_that_of_transformers_with_a_plain_hook(
    tiny_lm: HookedLM, tiny_dir: Path, scope: str
) -> None:
    probes = fitted_probes(tiny_lm)
    plain = MistralForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()
    [prompt] = sequences_of(tiny_lm, [8])
    inner = plain_hook("sttp", METHODS["sttp"], probes.probe(1), "aligned", cap_sigmas=40)

    def response_only(module: Any, inputs: Any, output: Any) -> Any:
        is_prompt = (output[0] if isinstance(output, tuple) else output).shape[1] > 1
        return output if is_prompt else inner(module, inputs, output)

    plain.model.layers[1].register_forward_hook(inner if scope == "all" else response_only)
    ids = torch.tensor([prompt.token_ids])
    with torch.no_grad():
        out = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
    expected = [t for t in out[0, len(prompt) :].tolist() if t not in tiny_lm.stop_ids]
    with steer(tiny_lm, spec_of("sttp", 1, scope=scope), probes):
        settings = GenerationSettings(max_new_tokens=12, temperature=0.0)
        [made] = tiny_lm.generate([prompt], settings, sample_keys=["a"])
    assert list(made.token_ids) == expected


def test_the_control_direction_moves_as_far_but_elsewhere(any_lm: HookedLM) -> None:
    probes, layer = fitted_probes(any_lm), 1
    u = make_probe(99, d_model=any_lm.d_model).v_hat
    sequences = sequences_of(any_lm, [8], n_response=3)
    free = teacher_forced(any_lm, sequences).of(0, layer)
    moved = []
    for direction in (None, u):
        readings = Readings(any_lm)
        spec = spec_of("stmp", layer, edit_direction=direction)
        with steer(any_lm, spec, probes), any_lm.hooks(readings.hooks):
            any_lm.forward(sequences, return_logits=False)
        moved.append(readings.of(0, layer) - free)
    assert_same(moved[1].norm(dim=-1), moved[0].norm(dim=-1), scale=free)
    shift = moved[0] @ probes.probe(layer).v_hat
    assert_same(moved[1], shift[:, None] * u, scale=free)
    assert (shift != 0).any() and (shift == 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_model_keeps_bits_and_lands_within_rounding(
    tiny_lm_bf16: HookedLM, method: str
) -> None:
    """Rounding h' to bfloat16 moves <h', v> by at most 2**-8 |h'| (unit roundoff, |v| = 1)."""
    lm, layer = tiny_lm_bf16, 1
    probes = fitted_probes(lm)
    probe = probes.probe(layer)
    sequences = sequences_of(lm, [8, 12], n_response=3)
    free, steered = teacher_forced(lm, sequences), Readings(lm)
    with steer(lm, spec_of(method, layer), probes), lm.hooks(steered.hooks):
        lm.forward(sequences, return_logits=False)
    for row in range(2):
        before, after = free.of(row, layer), steered.of(row, layer)
        assert after.dtype == torch.bfloat16
        rho = before.double() @ probe.v_hat.double()
        target = probe.mu_pos + METHODS[method] * probe.sigma_pos
        want = {
            "swfc": rho + METHODS[method] * probe.delta_mu,
            "sttp": torch.full_like(rho, target),
            "stmp": rho + 2 * METHODS[method] * (probe.boundary - rho),
        }[method]
        fires = (rho < probe.boundary) | (method == "swfc")
        assert torch.equal(after[~fires], before[~fires])
        error = (after.double() @ probe.v_hat.double() - want)[fires].abs()
        assert bool((error <= 2**-8 * after[fires].double().norm(dim=-1)).all())
        assert fires.any()


# --- the context ---------------------------------------------------------------------------------


def test_nested_contexts_act_one_after_the_other(tiny_lm: HookedLM) -> None:
    probes = fitted_probes(tiny_lm)
    sequences = sequences_of(tiny_lm, [6])
    once, twice = Readings(tiny_lm), Readings(tiny_lm)
    one = spec_of("swfc", 0, alpha=1.0)
    with steer(tiny_lm, one, probes), steer(tiny_lm, one, probes), tiny_lm.hooks(twice.hooks):
        tiny_lm.forward(sequences, return_logits=False)
    with steer(tiny_lm, spec_of("swfc", 0), probes), tiny_lm.hooks(once.hooks):
        tiny_lm.forward(sequences, return_logits=False)
    assert_same(twice.of(0, 0), once.of(0, 0))


def test_nothing_stays_after_the_context_or_an_error_in_it(tiny_lm: HookedLM) -> None:
    probes = fitted_probes(tiny_lm)
    sequences = sequences_of(tiny_lm, [6])
    before = tiny_lm.forward(sequences)
    assert before is not None
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        steer(tiny_lm, spec_of("swfc", 0), probes),
    ):
        inside = tiny_lm.forward(sequences)
        raise RuntimeError("on purpose")
    after = tiny_lm.forward(sequences)
    assert after is not None and inside is not None
    assert torch.equal(before, after)
    assert differ(inside, before)


def test_what_does_not_fit_the_model_is_refused(tiny_lm: HookedLM) -> None:
    probes = fitted_probes(tiny_lm)
    spec = spec_of("swfc", 0)
    with (
        pytest.raises(SteeringError, match="needs the probes it refers to; pass probes="),
        steer(tiny_lm, spec),
    ):
        pass
    with (
        pytest.raises(SteeringError, match="has its probes already; leave probes out"),
        steer(tiny_lm, SteeringPlan([spec], probes), probes),
    ):
        pass
    deep = probe_set((make_probe(0, layer=7, d_model=tiny_lm.d_model),))
    with (
        pytest.raises(SteeringError, match="layers 0 to 2 of this model, got layer 7"),
        steer(tiny_lm, spec_of("swfc", 7), deep),
    ):
        pass
    wide = probe_set((make_probe(0, d_model=64),))
    with (
        pytest.raises(SteeringError, match="d_model 32 like the model, got 64"),
        steer(tiny_lm, spec, wide),
    ):
        pass
    plan = SteeringPlan([spec, None], probes)
    with (
        steer(tiny_lm, plan),
        pytest.raises(SteeringError, match="a call with 2 sequences.*got 3; give SteeringPlan one"),
    ):
        tiny_lm.forward(sequences_of(tiny_lm, [5, 6, 7]))


def test_a_direction_of_unit_norm_is_what_steers(tiny_lm: HookedLM) -> None:
    """Random directions through the model differ from each other: the vector of a layer is used."""
    sequences = sequences_of(tiny_lm, [6])
    outs = []
    for seed in (0, 50):
        probes = fitted_probes(tiny_lm, seed=seed)
        for layer in (0, 1):
            with steer(tiny_lm, spec_of("swfc", layer), probes):
                outs.append(tiny_lm.forward(sequences))
    for i, a in enumerate(outs):
        assert all(differ(a, b) for b in outs[i + 1 :])
