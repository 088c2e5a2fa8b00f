"""Cross-entropy and divergence against plain Hugging Face forwards and numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch.nn.functional import cross_entropy

from conftest import Pair
from interp_steer.divergence import next_token_kl
from interp_steer.errors import ModelError, SteeringError
from interp_steer.measures import REFERENCE_COLUMNS, MeasureError
from interp_steer.model import HookedLM, Segment, TokenizedPrompt
from interp_steer.reference_measures import (
    Comparison,
    measure_references,
    response_cross_entropy,
)
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from steering_cases import make_probe, make_probes, probe_set

# Measured largest difference from the plain forward: 4e-6 nats a token. One token misplaced, or a
# position off by one, moves a surprisal by 1e-1 or more (see the controls).
NOISE = 5e-5


def tokens(seed: int, n: int, lm: HookedLM) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, lm.d_vocab, (n,), generator=generator).tolist())


def prompt_of(ids: Sequence[int]) -> TokenizedPrompt:
    segments = [int(Segment.TEMPLATE)] + [int(Segment.USER)] * (len(ids) - 1)
    return TokenizedPrompt(token_ids=tuple(ids), segments=tuple(segments))


def plain_sums(plain: Any, prompt: Sequence[int], response: Sequence[int]) -> np.ndarray:
    """Cumulated surprisals from transformers alone, in float64 after the logits."""
    with torch.no_grad():
        logits = plain(torch.tensor([[*prompt, *response]])).logits[0].double()
    chosen = logits[len(prompt) - 1 : -1]
    return cross_entropy(chosen, torch.tensor(response), reduction="none").cumsum(0).numpy()


@pytest.fixture
def cases(pair: Pair) -> list[tuple[TokenizedPrompt, tuple[int, ...]]]:
    """Many responses to few prompts of unequal length, some pairs twice, one response empty."""
    prompts = [prompt_of(tokens(seed, n, pair.lm)) for seed, n in ((1, 5), (2, 20), (3, 9))]
    lengths = [12, 1, 30, 7, 0, 3, 30, 25]
    found = [(prompts[i % 3], tokens(10 + i, n, pair.lm)) for i, n in enumerate(lengths)]
    return [*found, found[2], found[0], (prompts[1], found[0][1])]


@pytest.mark.parametrize("limits", [{}, {"batch_size": 3}, {"max_logits": 1}])
def test_cross_entropy_is_that_of_a_plain_forward(
    pair: Pair, cases: list[tuple[TokenizedPrompt, tuple[int, ...]]], limits: dict[str, int]
) -> None:
    prompts, responses = (list(part) for part in zip(*cases, strict=True))
    found = response_cross_entropy(pair.lm, prompts, responses, **limits)
    for sums, (prompt, response) in zip(found, cases, strict=True):
        assert sums.dtype == np.float64
        if not response:
            assert sums.shape == (0,)
            continue
        expected = plain_sums(pair.plain, prompt.token_ids, response)
        np.testing.assert_allclose(sums, expected, atol=NOISE * len(response), rtol=0)
        wrong = plain_sums(pair.plain, prompt.token_ids[1:], response)  # control: another prompt
        assert abs(wrong - expected).max() > 20 * NOISE * len(response)


def test_a_response_is_cut_at_fifty_tokens_and_where_the_context_ends(tiny_lm: HookedLM) -> None:
    short, long = prompt_of(tokens(1, 6, tiny_lm)), prompt_of(tokens(2, 90, tiny_lm))
    full = prompt_of(tokens(3, 96, tiny_lm))
    response = tokens(4, 60, tiny_lm)
    found = response_cross_entropy(tiny_lm, [short, long, full], [response] * 3)
    assert [len(sums) for sums in found] == [50, 6, 0]
    cut = response_cross_entropy(tiny_lm, [short], [response], n_tokens=8)[0]
    np.testing.assert_allclose(cut, found[0][:8], atol=8 * NOISE)


def test_identical_pairs_run_once(tiny_lm: HookedLM) -> None:
    prompt, response = prompt_of(tokens(1, 6, tiny_lm)), tokens(2, 9, tiny_lm)
    n_tokens: list[int] = []
    model = tiny_lm.bridge.original_model

    def count(_module: Any, _inputs: Any, options: dict[str, Any]) -> None:
        n_tokens.append(options["input_ids"].numel())

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        response_cross_entropy(tiny_lm, [prompt] * 5, [response] * 5)
        response_cross_entropy(tiny_lm, [prompt] * 2, [response, (*response[:-1], 3)])
    finally:
        handle.remove()
    assert n_tokens == [6, 8, 6, 2 * 8]  # the prompt once, the response but for its last token


def test_cross_entropy_of_the_sampled_response_is_its_logprob(tiny_lm: HookedLM) -> None:
    """Unsteered under the same prompt: what sampling recorded, negated and cumulated."""
    from interp_steer.sampling import GenerationSettings

    prompts = [prompt_of(tokens(seed, 4 + seed, tiny_lm)) for seed in range(3)]
    settings = GenerationSettings(max_new_tokens=20)
    made = tiny_lm.generate(prompts, settings, sample_keys=["a", "b", "c"])
    found = response_cross_entropy(tiny_lm, prompts, [g.token_ids for g in made])
    for sums, generation in zip(found, made, strict=True):
        expected = -np.cumsum(generation.logprobs, dtype=np.float64)
        np.testing.assert_allclose(sums, expected, atol=1e-3, rtol=0)


def test_what_cannot_be_scored_is_refused(tiny_lm: HookedLM) -> None:
    prompt = prompt_of(tokens(1, 6, tiny_lm))
    with pytest.raises(MeasureError, match="one prompt per response, got 1 prompts and 2 resp"):
        response_cross_entropy(tiny_lm, [prompt], [(3,), (4,)])
    with pytest.raises(MeasureError, match="prompt 0 has RESPONSE tokens already; give the prompt"):
        response_cross_entropy(tiny_lm, [prompt.with_response([3])], [(4,)])
    spec, probes = SteeringSpec(method="swfc", layer=0, alpha=1), probes_of(tiny_lm)
    with steer(tiny_lm, spec, probes), pytest.raises(ModelError, match="ran outside"):
        response_cross_entropy(tiny_lm, [prompt], [(3,)])
    assert response_cross_entropy(tiny_lm, [], []) == []


def test_in_bfloat16_values_stay_near_those_of_float32(
    tiny_lm: HookedLM, tiny_lm_bf16: HookedLM
) -> None:
    prompts = [prompt_of(tokens(seed, 9, tiny_lm)) for seed in range(6)]
    responses = [tokens(50 + seed, 20, tiny_lm) for seed in range(6)]
    exact, rough = (
        np.array([sums[-1] / 20 for sums in response_cross_entropy(lm, prompts, responses)])
        for lm in (tiny_lm, tiny_lm_bf16)
    )
    # Eight bits of mantissa on peaked random logits: measured 0.06 nats a token at most.
    np.testing.assert_allclose(rough, exact, atol=0.3)
    assert exact.std() > 0.3  # control: another row would be seen


# --- beside the aligned baseline ----------------------------------------------------------------


class LetterCounts:
    """An embedder of two letters, whose cosines can be worked out by hand."""

    name = "letters"

    def identity(self) -> dict[str, str]:
        return {"embedder": self.name}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count("a"), text.count("e")] for text in texts], dtype=float)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_both_responses_are_cut_to_the_shorter(pair: Pair) -> None:
    prompt = prompt_of(tokens(1, 8, pair.lm))
    prefilled = prompt.with_prefill(tokens(2, 3, pair.lm))
    own, reference = tokens(3, 20, pair.lm), tokens(4, 6, pair.lm)
    lengths = [(20, 6), (4, 6), (20, 0), (0, 6)]
    found = measure_references(
        pair.lm,
        [
            Comparison(
                prompt=prefilled if row == 0 else prompt,
                token_ids=own[:n],
                reference_prompt=prompt,
                reference_ids=reference[:m],
            )
            for row, (n, m) in enumerate(lengths)
        ],
    )
    assert tuple(found) == REFERENCE_COLUMNS
    after = [prefilled.token_ids, prompt.token_ids]
    for row, n in ((0, 6), (1, 4)):
        one = plain_sums(pair.plain, after[row], own[:n])[-1] / n
        other = plain_sums(pair.plain, prompt.token_ids, reference[:n])[-1] / n
        assert found["cross_entropy"][row] == pytest.approx(one, abs=NOISE)
        assert found["cross_entropy_reference"][row] == pytest.approx(other, abs=NOISE)
    for row in (2, 3):
        assert np.isnan(found["cross_entropy"][row])
        assert np.isnan(found["cross_entropy_reference"][row])
    assert np.isnan(found["embedding_cosine"]).all()


def test_the_baseline_is_its_own_reference(tiny_lm: HookedLM) -> None:
    prompt, response = prompt_of(tokens(1, 8, tiny_lm)), tokens(3, 20, tiny_lm)
    [a, e] = [tiny_lm.tokenizer.convert_tokens_to_ids(word) for word in ("a", "tell")]
    same, other = (
        Comparison(
            prompt=prompt, token_ids=ids, reference_prompt=prompt, reference_ids=(*response, a, e)
        )
        for ids in ((*response, a, e), (a,))
    )
    found = measure_references(tiny_lm, [same, other], embedder=LetterCounts())
    assert found["cross_entropy"][0] == found["cross_entropy_reference"][0]
    assert found["embedding_cosine"][0] == pytest.approx(1)
    text = tiny_lm.decode((*response, a, e))
    n_a, n_e = text.count("a"), text.count("e")
    assert found["embedding_cosine"][1] == pytest.approx(n_a / np.hypot(n_a, n_e))
    assert found["embedding_cosine"][1] < 0.99


# --- KL divergence ------------------------------------------------------------------------------


def probes_of(lm: HookedLM) -> Any:
    """Gates in the middle of an ordinary residual stream, strengths that show."""
    numbers: dict[str, Any] = {"boundary": 0.0, "delta_mu": 2.0}
    return probe_set(
        tuple(
            make_probe(layer, layer=layer, d_model=lm.d_model, **numbers)
            for layer in range(lm.n_layers)
        )
    )


def sequences_of(lm: HookedLM) -> list[TokenizedPrompt]:
    """Prompts and responses of unequal length; rows 1 and 4 are the same sequence."""
    lengths = [(5, 9), (12, 4), (7, 1), (5, 17)]
    found = [
        prompt_of(tokens(i, n, lm)).with_response(tokens(20 + i, m, lm))
        for i, (n, m) in enumerate(lengths)
    ]
    return [*found, found[1], prompt_of(tokens(9, 6, lm))]


SPECS = [
    SteeringSpec(method="swfc", layer=0, alpha=2),
    SteeringSpec(method="sttp", layer=1, alpha=4, scope="response"),
    None,
    SteeringSpec(method="stmp", layer=(0, 2), alpha=1.5, direction="reversed"),
    SteeringSpec(method="swfc", layer=2, alpha=3, scope="prompt"),
    SteeringSpec(method="swfc", layer=1, alpha=1),
]


@pytest.mark.parametrize("limits", [{}, {"batch_size": 2}, {"max_logits": 1}])
def test_kl_is_that_of_two_plain_runs(tiny_lm: HookedLM, limits: dict[str, int]) -> None:
    """Each row alone, whole logits, steered and not; the divergence by scipy in float64."""
    sequences, probes = sequences_of(tiny_lm), probes_of(tiny_lm)
    found = next_token_kl(tiny_lm, sequences, SteeringPlan(SPECS, probes), **limits)
    for row, (sequence, spec) in enumerate(zip(sequences, SPECS, strict=True)):
        n = len(sequence) - sequence.n_prompt
        if not n:
            assert np.isnan(found[row])
            continue
        free = tiny_lm.forward([sequence])
        with steer(tiny_lm, SteeringPlan([spec], probes)):
            steered = tiny_lm.forward([sequence])
        assert free is not None and steered is not None
        p, q = (softmax(x[0, -n - 1 : -1].double().numpy(), axis=-1) for x in (free, steered))
        expected = rel_entr(p, q).sum(axis=-1).mean()
        # Noise 3e-6; the swapped divergence, or one position more, differs by 1e-2 of it or more.
        assert found[row] == pytest.approx(expected, rel=1e-4, abs=1e-6), row
        if spec is not None:
            assert expected > 1e-3
            swapped = rel_entr(q, p).sum(axis=-1).mean()
            assert swapped != pytest.approx(expected, rel=1e-3)
    assert found[2] < 1e-9


def test_kl_against_a_plain_hook(pair: Pair) -> None:
    """Independent: transformers alone with a forward hook that adds the fixed vector."""
    lm = pair.lm
    sequence = prompt_of(tokens(1, 6, lm)).with_response(tokens(2, 11, lm))
    probes = make_probes(3, layers=(1,), d_model=lm.d_model)
    probe = probes.probe(1)
    plan = SteeringPlan([SteeringSpec(method="swfc", layer=1, alpha=1)], probes)
    [found] = next_token_kl(lm, [sequence], plan)
    blocks = pair.plain.get_decoder() if hasattr(pair.plain, "get_decoder") else pair.plain.model
    blocks = blocks.h if hasattr(blocks, "h") else blocks.layers

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        moved = first + probe.delta_mu * probe.v_hat
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    ids = torch.tensor([sequence.token_ids])
    with torch.no_grad():
        free = pair.plain(ids).logits[0, 5:-1].double().numpy()
        handle = blocks[1].register_forward_hook(add)
        steered = pair.plain(ids).logits[0, 5:-1].double().numpy()
        handle.remove()
    log_p, log_q = log_softmax(free, axis=-1), log_softmax(steered, axis=-1)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert expected > 1e-4


@pytest.mark.parametrize("method", ["swfc", "stmp"])
def test_no_strength_has_no_price_and_more_has_a_higher_one(tiny_lm: HookedLM, method: str) -> None:
    sequences, probes = sequences_of(tiny_lm)[:5], probes_of(tiny_lm)

    def price(alpha: float) -> np.ndarray:
        spec = SteeringSpec(method=method, layer=1, alpha=alpha)
        return next_token_kl(tiny_lm, sequences, SteeringPlan([spec] * 5, probes))

    assert (price(0.0) >= 0).all() and price(0.0).max() < 1e-9
    assert price(0.5).mean() > 1e-3
    assert price(2.0).mean() > price(0.5).mean()


def test_kl_by_a_uniform_plan_is_that_of_equal_rows(tiny_lm: HookedLM) -> None:
    sequences, probes = sequences_of(tiny_lm)[:5], probes_of(tiny_lm)
    spec = SteeringSpec(method="sttp", layer=1, alpha=2)
    uniform = next_token_kl(tiny_lm, sequences, SteeringPlan.uniform(spec, probes))
    packed = next_token_kl(tiny_lm, sequences, SteeringPlan([spec] * 5, probes), batch_size=2)
    np.testing.assert_allclose(uniform, packed, rtol=1e-4, atol=1e-7)


def test_kl_refuses_what_does_not_fit(tiny_lm: HookedLM) -> None:
    sequences, probes = sequences_of(tiny_lm), probes_of(tiny_lm)
    with pytest.raises(MeasureError, match="one spec for each of the 2 sequences, got 6 specs"):
        next_token_kl(tiny_lm, sequences[:2], SteeringPlan(SPECS, probes))
    spec = SteeringSpec(method="swfc", layer=0, alpha=1)
    narrow = SteeringPlan([spec], make_probes(0, layers=(0,)))
    with pytest.raises(SteeringError, match="d_model 32 like the model, got 12"):
        next_token_kl(tiny_lm, sequences[:1], narrow)
    alone = TokenizedPrompt(token_ids=(5, 6), segments=(int(Segment.RESPONSE),) * 2)
    with pytest.raises(MeasureError, match="got a sequence of response tokens alone"):
        next_token_kl(tiny_lm, [alone], SteeringPlan([spec], probes))
    with steer(tiny_lm, spec, probes), pytest.raises(ModelError, match="ran outside"):
        next_token_kl(tiny_lm, sequences[:1], SteeringPlan([spec], probes))


def test_a_model_that_others_trained_finds_a_story_likelier_than_its_words_reversed(
    stories_lm: HookedLM,
) -> None:
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside"
    ids = stories_lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = TokenizedPrompt(token_ids=(1,), segments=(int(Segment.TEMPLATE),))
    story, shuffled = response_cross_entropy(stories_lm, [prompt] * 2, [ids, ids[::-1]])
    assert story[-1] / len(ids) < 2 < 5 < shuffled[-1] / len(ids)
