"""Every architecture class through the path of users, against plain Hugging Face and PyTorch hooks.

Left padding, batches, chunks and caches must change nothing, hooks must see and edit what a plain
hook on the block sees and edits, and greedy text must be Hugging Face's own. The two with traps of
their own (recurrent state; two windows in one model) are in the default tests; the whole matrix, in
float32 and bfloat16, is slow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from architectures import CONFIGS, N_CTX, random_model, save_random
from conftest import tiny_tokenizer
from interp_steer.errors import ModelError
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from interp_steer.tokens import Segment, TokenChunk, TokenizedPrompt
from reference import plain_forward, random_sequences
from steering_cases import make_probe, probe_set

LENGTHS = (30, 3, 19, 1, 40)
# Relative to the largest size. Measured: 2e-6 in float32, 0.027 in bfloat16 (8 bits are kept, and
# fused attention rounds otherwise with a mask than without). A wrong position or window, or a
# padding token that leaks, moves logits by more than 1e-2 in float32.
NOISE = {torch.float32: 2e-5, torch.bfloat16: 0.04}
# Gated linear attention subtracts sums of decays over up to 64 positions, padding included (1000
# and more, of which float32 keeps 6e-5): measured 1.4e-4 and 1e-2.
RECURRENT_NOISE = {torch.float32: 5e-4, torch.bfloat16: 0.04}
DEFAULT = ("qwen3_5", "gemma3")
LAYER = 1
N_GREEDY = 12


@dataclass(frozen=True)
class Case:
    """A model as this library loads it, and the same weights in plain Hugging Face."""

    name: str
    lm: HookedLM
    plain: Any
    dtype: torch.dtype

    @property
    def noise(self) -> float:
        return (RECURRENT_NOISE if self.is_recurrent else NOISE)[self.dtype]

    @property
    def is_recurrent(self) -> bool:
        return self.name == "qwen3_5"


def cases() -> Iterator[Any]:
    for name in CONFIGS:
        for dtype in NOISE:
            light = name in DEFAULT and dtype == torch.float32
            marks = [] if light else [pytest.mark.slow]
            yield pytest.param((name, dtype), id=f"{name}-{str(dtype)[6:]}", marks=marks)


@pytest.fixture(scope="module", params=list(cases()))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, dtype = request.param
    directory = save_random(tmp_path_factory.mktemp("architectures") / name, name)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    return Case(name=name, lm=HookedLM.load(directory, dtype=dtype), plain=plain, dtype=dtype)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def probes_of(lm: HookedLM, spread: float) -> ProbeSet:
    """A random direction whose statistics fit residuals that spread so far along it."""
    numbers = {"boundary": 0.0, "mu_pos": 0.5, "mu_neg": -0.5, "delta_mu": 1.0, "sigma_pos": 0.2}
    scaled = {name: value * spread for name, value in numbers.items()}
    return probe_set((make_probe(5, layer=LAYER, d_model=lm.d_model, **scaled),))


def chunks_of(case: Case) -> tuple[int | None, ...]:
    return (None, 7) if case.is_recurrent else (None, 7, 1)


class TestUnsteered:
    def test_residuals_and_logits_are_those_of_a_plain_hook(self, case: Case) -> None:
        sequences = random_sequences(case.lm.d_vocab, LENGTHS)
        plain = [plain_forward(case.plain, s.token_ids) for s in sequences]
        for chunk in chunks_of(case):
            seen: dict[int, list[tuple[Tensor, TokenChunk]]] = {}
            hooks = {layer: _reader(seen, layer) for layer in range(case.lm.n_layers)}
            with case.lm.hooks(hooks):
                logits = case.lm.forward(sequences, chunk=chunk)
            assert logits is not None and logits.dtype == case.dtype
            for row, (expected, resid) in enumerate(plain):
                found = logits[row, -len(sequences[row]) :]
                assert relative_error(found, expected) < case.noise
                for layer in range(case.lm.n_layers):
                    parts = [r[row][piece.is_real[row]] for r, piece in seen[layer]]
                    assert relative_error(torch.cat(parts), resid[layer]) < case.noise

    def test_a_pass_for_hooks_sees_what_a_whole_one_sees(self, case: Case) -> None:
        """In pieces on a cache too, which then grows in the lower layers alone."""
        sequences = random_sequences(case.lm.d_vocab, LENGTHS)
        for layer in (0, case.lm.n_layers - 1):
            for chunk in chunks_of(case):
                found: list[Tensor] = []
                for return_logits in (True, False):
                    seen: dict[int, list[tuple[Tensor, TokenChunk]]] = {}
                    with case.lm.hooks({layer: _reader(seen, layer)}):
                        case.lm.forward(sequences, return_logits=return_logits, chunk=chunk)
                    found.append(torch.cat([r[piece.is_real] for r, piece in seen[layer]]))
                assert torch.equal(*found)

    def test_greedy_text_is_hugging_faces_own(self, case: Case) -> None:
        """In a padded batch, with prompts shared and not."""
        prompts = random_sequences(case.lm.d_vocab, (21, 4, 33))
        prompts = [*prompts, prompts[0]]
        settings = GenerationSettings(max_new_tokens=N_GREEDY, temperature=0.0)
        keys = [str(row) for row in range(len(prompts))]
        ours, shared = (
            case.lm.generate(prompts, settings, sample_keys=keys, share_prefixes=share)
            for share in (False, True)
        )
        for made in ours[:3]:
            assert_greedy(case, made.prompt.token_ids, made.token_ids)
        assert_greedy(case, prompts[3].token_ids, shared[3].token_ids)

    def test_logprobs_on_the_cache_are_those_of_one_plain_forward(self, case: Case) -> None:
        prompts = random_sequences(case.lm.d_vocab, (21, 4, 33, 20, 20, 7, 11, 12))
        settings = GenerationSettings(max_new_tokens=40, temperature=3.0, top_p=1.0, seed=3)
        made = case.lm.generate(prompts, settings, sample_keys=list("abcdefgh"))
        assert len({len(one.token_ids) for one in made}) > 1, "rows should leave the batch early"
        for one in made:
            logits, _ = plain_forward(case.plain, one.sequence.token_ids)
            expected = logits.float().log_softmax(-1)[len(one.prompt) - 1 : -1]
            at = torch.tensor(one.token_ids)[:, None]
            if len(at):
                off = (expected.gather(-1, at)[:, 0] - torch.tensor(one.logprobs)).abs().max()
                assert float(off) < 50 * case.noise


class TestSteered:
    @pytest.mark.parametrize("method", ["swfc", "sttp", "stmp"])
    def test_steering_is_that_of_a_plain_hook_with_the_same_formula(
        self, case: Case, method: str
    ) -> None:
        lm, sequences = case.lm, random_sequences(case.lm.d_vocab, (30, 21, 35), n_response=9)
        _, resid = plain_forward(case.plain, sequences[0].token_ids)
        spread = float(resid[LAYER].float().std())
        probes = probes_of(lm, spread)
        probe = probes.probe(LAYER)
        spec = SteeringSpec(method=method, layer=LAYER, alpha=1.5, scope="response")
        for chunk in chunks_of(case)[:2]:
            with steer(lm, spec, probes):
                logits = lm.forward(sequences, chunk=chunk)
            assert logits is not None
            for row, sequence in enumerate(sequences):
                edit = plain_edit(method, probe, sequence.n_prompt)
                expected, _ = plain_forward(case.plain, sequence.token_ids, {LAYER: edit})
                unsteered, _ = plain_forward(case.plain, sequence.token_ids)
                assert relative_error(expected, unsteered) > 3 * case.noise
                found = logits[row, -len(sequence) :]
                assert relative_error(found, expected) < case.noise

    def test_tokens_outside_the_gate_keep_their_bits_and_others_their_orthogonal_part(
        self, case: Case
    ) -> None:
        lm, sequences = case.lm, random_sequences(case.lm.d_vocab, LENGTHS)
        _, resid = plain_forward(case.plain, sequences[4].token_ids)
        probes = probes_of(lm, float(resid[LAYER].float().std()))
        probe, before, after = probes.probe(LAYER), {}, {}
        spec = SteeringSpec(method="sttp", layer=LAYER, alpha=1.0, scope="all")
        with (
            lm.hooks({LAYER: _reader(before, LAYER)}),
            steer(lm, spec, probes),
            lm.hooks({LAYER: _reader(after, LAYER)}),
        ):
            lm.forward(sequences)
        ((h, chunk),), ((edited, _),) = before[LAYER], after[LAYER]
        rho = h.float() @ probe.v_hat
        is_near = (rho - probe.boundary).abs() < 1e-3 * float(rho.abs().max())
        fired = (rho < probe.boundary) & chunk.is_real
        assert fired.any() and (~fired & chunk.is_real).any()
        untouched = ~fired & ~is_near
        assert torch.equal(edited[untouched], h[untouched])
        moved = edited[fired & ~is_near].float() - h[fired & ~is_near].float()
        across = moved - (moved @ probe.v_hat)[:, None] * probe.v_hat
        rounding = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7}[case.dtype]
        assert float(across.abs().max()) < rounding * float(h.float().abs().max())

    def test_generating_and_teacher_forcing_steer_alike(self, case: Case) -> None:
        """Cached = uncached: the logits that chose each steered token, from one forward."""
        lm, prompts = case.lm, random_sequences(case.lm.d_vocab, (21, 4, 33))
        _, resid = plain_forward(case.plain, prompts[0].token_ids)
        probes = probes_of(lm, float(resid[LAYER].float().std()))
        spec = SteeringSpec(method="swfc", layer=LAYER, alpha=1.0, scope="all")
        settings = GenerationSettings(max_new_tokens=12, temperature=1.0, seed=4)
        with steer(lm, spec, probes):
            made = lm.generate(prompts, settings, sample_keys=list("abc"))
            for one in made:
                logits = lm.forward([one.sequence])
                assert logits is not None
                log_p = logits[0].float().log_softmax(-1)[len(one.prompt) - 1 : -1]
                at = torch.tensor(one.token_ids)[:, None]
                if len(at):
                    off = (log_p.gather(-1, at)[:, 0] - torch.tensor(one.logprobs)).abs().max()
                    assert float(off) < 50 * case.noise

    def test_shared_prefixes_change_no_log_probability(self, case: Case) -> None:
        """Rows that differ in layer, scope and strength, with prompts and random numbers alike."""
        lm, (one, other) = case.lm, random_sequences(case.lm.d_vocab, (21, 30))
        _, resid = plain_forward(case.plain, one.token_ids)
        probes = probes_of(lm, float(resid[LAYER].float().std()))
        specs = [None] + [
            SteeringSpec(method="swfc", layer=LAYER, alpha=alpha, scope=scope)
            for scope in ("all", "response", "prompt")
            for alpha in (0.01, 1.0)
        ]
        settings = GenerationSettings(max_new_tokens=12, temperature=1.0, seed=4)
        plan, prompts = SteeringPlan(specs * 2, probes), [one] * len(specs) + [other] * len(specs)
        made = []
        for share in (False, True):
            with steer(lm, plan):
                made.append(
                    lm.generate(prompts, settings, sample_keys=["a"] * 14, share_prefixes=share)
                )
        for apart, shared in zip(*made, strict=True):
            n_same = _n_same(apart.token_ids, shared.token_ids)
            off = np.subtract(apart.logprobs[:n_same], shared.logprobs[:n_same])
            assert np.abs(off).max(initial=0) < 50 * case.noise
            assert case.dtype == torch.bfloat16 or apart.token_ids == shared.token_ids


def _n_same(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens before the first that differs."""
    differ = [a != b for a, b in zip(one, other, strict=False)]
    return differ.index(True) if True in differ else len(differ)


def _reader(into: dict[int, list[tuple[Tensor, TokenChunk]]], layer: int) -> Callable[..., None]:
    def read(resid: Tensor, chunk: TokenChunk) -> None:
        into.setdefault(layer, []).append((resid.clone(), chunk))

    return read


def plain_edit(method: str, probe: Any, n_prompt: int) -> Callable[[Tensor], Tensor]:
    """The three interventions written out once more, on response tokens, in float32."""

    def edit(resid: Tensor) -> Tensor:
        h = resid.float()
        rho = h @ probe.v_hat
        fires = torch.arange(len(h)) >= n_prompt
        if method == "swfc":
            shift = torch.full_like(rho, 1.5 * probe.delta_mu)
        elif method == "sttp":
            fires &= rho < probe.boundary
            shift = probe.mu_pos + 1.5 * probe.sigma_pos - rho
        else:
            fires &= rho < probe.boundary
            mirrored = rho + 2 * 1.5 * (probe.boundary - rho)
            shift = mirrored.clamp(max=probe.mu_pos + 40 * probe.sigma_pos) - rho
        edited = (h + shift[:, None] * probe.v_hat).to(resid.dtype)
        return torch.where(fires[:, None], edited, resid)

    return edit


def assert_greedy(case: Case, prompt: tuple[int, ...], response: tuple[int, ...]) -> None:
    """Hugging Face's greedy text; from where two tokens are equally likely it may be another."""
    theirs = case.plain.generate(
        torch.tensor([prompt]), max_new_tokens=N_GREEDY, do_sample=False, use_cache=True
    )[0, len(prompt) :].tolist()
    theirs = theirs[: theirs.index(2)] if 2 in theirs else theirs
    for step, (one, other) in enumerate(zip(response, theirs, strict=False)):
        if one != other:
            logits, _ = plain_forward(case.plain, (*prompt, *response[:step]))
            gap = (logits[-1, one] - logits[-1, other]).abs() / logits[-1].abs().max()
            assert float(gap) < case.noise
            return
    assert len(response) == len(theirs)


def test_linear_attention_refuses_padding_one_token_at_a_time(tmp_path: Path) -> None:
    """Hugging Face masks no padding in calls of one token; sequences of one length have none."""
    lm = HookedLM.load(save_random(tmp_path / "qwen", "qwen3_5"))
    sequences = random_sequences(lm.d_vocab, (9, 4))
    with pytest.raises(ModelError, match="linear attention, which takes padding for text"):
        lm.forward(sequences, chunk=1)
    settings = GenerationSettings(max_new_tokens=2, temperature=0.0, prefill_chunk=1)
    with pytest.raises(ModelError, match="a chunk of at least 2 positions"):
        lm.generate(sequences, settings, sample_keys=["a", "b"])
    whole = lm.forward(sequences[:1])
    single = lm.forward(sequences[:1], chunk=1)
    assert whole is not None and single is not None
    assert relative_error(single, whole) < RECURRENT_NOISE[torch.float32]


def test_a_vision_checkpoint_loads_its_language_model_alone(tmp_path: Path) -> None:
    """Qwen3.5 and 3.6 are published so; the weights are those of the language model inside."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = Qwen3_5Config(
        text_config=CONFIGS["qwen3_5"]().to_dict(), vision_config=vision | {"out_hidden_size": 32}
    )
    torch.manual_seed(0)
    whole = Qwen3_5ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    lm = HookedLM.load(tmp_path)
    assert type(lm.bridge.original_model).__name__ == "Qwen3_5ForCausalLM"
    sequence = random_sequences(lm.d_vocab, (12,))
    ids = torch.tensor([sequence[0].token_ids])
    with torch.no_grad():
        expected = whole(input_ids=ids).logits[0]
    found = lm.forward(sequence)
    assert found is not None
    assert relative_error(found[0], expected) < RECURRENT_NOISE[torch.float32]


def test_an_already_loaded_model_is_taken_as_it_is(tmp_path: Path) -> None:
    directory = save_random(tmp_path / "llama", "llama")
    given = random_model("llama")
    lm = HookedLM.load(directory, hf_model=given)
    assert lm.bridge.original_model is given
    assert lm.identity() == HookedLM.load(directory).identity()
    assert lm.n_ctx == N_CTX


@pytest.mark.parametrize(
    ("called", "said"),
    [(set(), "takes no key-value cache"), ({"cache"}, r"pip install 'transformers<5\.24'")],
)
def test_a_model_without_a_key_value_cache_does_not_generate(
    tiny_lm: HookedLM, monkeypatch: pytest.MonkeyPatch, called: set[str], said: str
) -> None:
    runner = tiny_lm._runner
    options = runner._forward_options - {"past_key_values"} | called
    monkeypatch.setattr(runner, "_forward_options", options)
    with pytest.raises(ModelError, match=said):
        tiny_lm.generate(
            [TokenizedPrompt(token_ids=(8, 9), segments=(int(Segment.USER),) * 2)],
            GenerationSettings(max_new_tokens=2),
            sample_keys=["a"],
        )
