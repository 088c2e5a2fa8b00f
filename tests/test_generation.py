"""Sampling: the same text however rows are batched, padded, chunked, dropped or hooked."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from conftest import Pair
from interp_steer.edit_meter import EditMeter
from interp_steer.errors import ModelError, SteeringError
from interp_steer.generation import StopRule, _Record, sample_responses
from interp_steer.model import HookedLM
from interp_steer.sampling import Generation, GenerationSettings, GenerationStep, StepCallback
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from interp_steer.tokens import ResidHook, Segment, TokenChunk, TokenizedPrompt
from interp_steer.traces import TraceRecorder
from reference import plain_forward, random_sequences
from steering_cases import make_probes

LENGTHS = (24, 2, 17, 9, 30, 30, 1, 12, 5)
KEYS = tuple(f"row {row}" for row in range(len(LENGTHS)))
SAMPLED = GenerationSettings(max_new_tokens=25, temperature=0.9, top_p=0.95)
GREEDY = GenerationSettings(max_new_tokens=25, temperature=0.0)
# Float32 noise of a log-probability, measured below 1e-5; a wrong position or window: above 0.1.
LOGPROB_NOISE = 2e-4


def generate(
    lm: HookedLM,
    settings: GenerationSettings = SAMPLED,
    rows: Sequence[int] = range(len(LENGTHS)),
) -> list[Generation]:
    """Responses to some of the random prompts."""
    prompts = random_sequences(lm.d_vocab, LENGTHS)
    keys = [KEYS[row] for row in rows]
    return lm.generate([prompts[row] for row in rows], settings, sample_keys=keys)


def texts(generations: Sequence[Generation]) -> list[tuple[int, ...]]:
    """Their tokens."""
    return [generation.token_ids for generation in generations]


class Witness:
    """A hook that notes the tokens it sees, row by row."""

    def __init__(self) -> None:
        self.seen: dict[int, list[tuple[int, int, int, int, bool]]] = {}

    def __call__(self, _resid: Tensor, chunk: TokenChunk) -> None:
        for b, p in chunk.is_real.nonzero().tolist():
            fields = (chunk.token_ids, chunk.segments, chunk.positions, chunk.response_index)
            token = tuple(int(field[b, p]) for field in fields)
            row = self.seen.setdefault(int(chunk.rows[b]), [])
            row.append((*token, bool(chunk.is_last_prompt[b, p])))


@pytest.mark.parametrize("settings", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_texts_do_not_depend_on_the_batch(pair: Pair, settings: GenerationSettings) -> None:
    together = generate(pair.lm, settings)
    alone = [generate(pair.lm, settings, [row])[0] for row in range(len(LENGTHS))]
    backwards = generate(pair.lm, settings, range(len(LENGTHS))[::-1])[::-1]
    chunked = GenerationSettings(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        prefill_chunk=7,
    )
    assert texts(together) == texts(alone) == texts(backwards)
    assert texts(together) == texts(generate(pair.lm, chunked))


def test_seed_and_key_choose_the_text(tiny_lm: HookedLM) -> None:
    """Controls for the law above: what should change a text does."""
    other_seed = GenerationSettings(max_new_tokens=25, temperature=0.9, top_p=0.95, seed=43)
    first = texts(generate(tiny_lm))
    assert first != texts(generate(tiny_lm, other_seed))
    prompt = random_sequences(tiny_lm.d_vocab, (9,))
    a, b = tiny_lm.generate(prompt * 2, SAMPLED, sample_keys=["a", "b"])
    assert a.token_ids != b.token_ids


def test_greedy_equals_hugging_face(pair: Pair) -> None:
    prompts = random_sequences(pair.lm.d_vocab, LENGTHS)
    for prompt, ours in zip(prompts, generate(pair.lm, GREEDY), strict=True):
        with torch.no_grad():
            theirs = pair.plain.generate(
                torch.tensor([prompt.token_ids]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=25,
                eos_token_id=sorted(pair.lm.stop_ids),
                pad_token_id=0,
            )[0, len(prompt) :].tolist()
        if ours.stop_reason == "stop_token":
            assert theirs[-1] in pair.lm.stop_ids
            theirs = theirs[:-1]
        assert list(ours.token_ids) == theirs


def test_logprobs_are_those_of_a_plain_forward_at_temperature_one(pair: Pair) -> None:
    checked = 0
    for generation in generate(pair.lm):
        logits, _ = plain_forward(pair.plain, generation.sequence.token_ids)
        n_prompt = len(generation.prompt)
        for index, (token_id, logprob) in enumerate(
            zip(generation.token_ids, generation.logprobs, strict=True)
        ):
            expected = logits[n_prompt + index - 1].double().log_softmax(-1)[token_id]
            assert logprob == pytest.approx(float(expected), abs=LOGPROB_NOISE)
            checked += 1
    assert checked > 50


def test_hooked_generation_equals_hooked_teacher_forcing(pair: Pair) -> None:
    """An edit of response tokens acts at every step of the cache, not only where a call begins."""
    vector = torch.randn(pair.lm.d_model, generator=torch.Generator().manual_seed(1))

    def edit(resid: Tensor, chunk: TokenChunk) -> Tensor:
        is_late = (chunk.segments == Segment.RESPONSE) & (chunk.response_index >= 2)
        return torch.where(is_late[..., None], resid + vector, resid)

    with pair.lm.hooks({1: edit}):
        steered = generate(pair.lm)
    plain = generate(pair.lm)
    assert [t[:3] for t in texts(steered)] == [t[:3] for t in texts(plain)]
    assert texts(steered) != texts(plain)
    for generation in steered:
        start = len(generation.prompt) + 2

        def plain_edit(resid: Tensor, start: int = start) -> Tensor:
            return torch.cat([resid[:start], resid[start:] + vector])

        logits, _ = plain_forward(pair.plain, generation.sequence.token_ids, {1: plain_edit})
        logprobs = logits.double().log_softmax(-1)[len(generation.prompt) - 1 : -1]
        expected = logprobs.gather(1, torch.tensor(generation.token_ids)[:, None])[:, 0]
        logprobs = torch.tensor(generation.logprobs).double()
        assert torch.allclose(logprobs, expected, rtol=0, atol=LOGPROB_NOISE)
    assert sum(len(generation.token_ids) > 5 for generation in steered) > 3


@pytest.mark.parametrize("prefill_chunk", [None, 4])
def test_hooks_see_every_token_once_and_the_stop_token_never(
    tiny_lm: HookedLM, prefill_chunk: int | None
) -> None:
    """Two dozen rows that end one by one: some while others still wait to leave the batch."""
    settings = GenerationSettings(max_new_tokens=25, temperature=0.9, prefill_chunk=prefill_chunk)
    prompts = random_sequences(tiny_lm.d_vocab, LENGTHS * 3)
    keys = [str(row) for row in range(len(prompts))]
    witness = Witness()
    with tiny_lm.hooks({2: witness}):
        generations = tiny_lm.generate(prompts, settings, sample_keys=keys)
    plain = tiny_lm.generate(prompts, settings, sample_keys=keys)
    assert texts(generations) == texts(plain)  # watching changes nothing
    assert len({len(generation.token_ids) for generation in generations}) > 5
    assert {g.stop_reason for g in generations} == {"stop_token", "length"}
    for row, generation in enumerate(generations):
        sequence = generation.sequence
        token_ids, segments, positions, response_index, is_last_prompt = zip(
            *witness.seen[row], strict=True
        )
        assert token_ids == sequence.token_ids
        assert segments == sequence.segments
        assert positions == tuple(range(len(sequence)))
        n_prompt, n_response = len(generation.prompt), len(generation.token_ids)
        assert response_index == (-1,) * n_prompt + tuple(range(n_response))
        assert [i for i, last in enumerate(is_last_prompt) if last] == [n_prompt - 1]


def test_rows_that_stop_leave_the_others_alone(tiny_lm: HookedLM) -> None:
    """A stop id that some rows meet early: they end there, nothing else changes."""
    settings = GenerationSettings(max_new_tokens=20, temperature=0.9)
    prompts = random_sequences(tiny_lm.d_vocab, (8,) * 24)
    keys = [str(row) for row in range(24)]

    def sample(stop_ids: set[int]) -> list[tuple[int, ...]]:
        rule = StopRule(stop_ids=frozenset(stop_ids), n_ctx=tiny_lm.n_ctx)
        rows = sample_responses(
            tiny_lm._runner, prompts, settings, sample_keys=keys, rule=rule, pad_id=0
        )
        return [row.token_ids for row in rows]

    unstopped = sample(set())
    assert {len(row) for row in unstopped} == {20}
    stop_ids = {unstopped[0][3], unstopped[5][1], unstopped[9][0]}
    expected = []
    for row in unstopped:
        ends = [index for index, token_id in enumerate(row) if token_id in stop_ids]
        expected.append(row[: ends[0]] if ends else row)
    assert len({len(row) for row in expected}) > 5
    assert sample(stop_ids) == expected


def test_generation_ends_at_the_context(tiny_lm: HookedLM) -> None:
    prompts = random_sequences(tiny_lm.d_vocab, (92, 10, 95))
    witness = Witness()
    settings = GenerationSettings(max_new_tokens=8, temperature=0.0)
    rule = StopRule(stop_ids=frozenset(), n_ctx=tiny_lm.n_ctx)
    with tiny_lm.hooks({0: witness}):
        rows = sample_responses(
            tiny_lm._runner, prompts, settings, sample_keys="abc", rule=rule, pad_id=0
        )
    assert [len(row.token_ids) for row in rows] == [4, 8, 1]
    assert [row.stop_reason for row in rows] == ["context", "length", "context"]
    assert [len(witness.seen[row]) for row in range(3)] == [96, 18, 96]
    with pytest.raises(ModelError, match="prompt 1 has 96 tokens and the model's context is 96"):
        tiny_lm.generate(
            random_sequences(tiny_lm.d_vocab, (5, 96)), settings, sample_keys=["a", "b"]
        )


def test_a_prefill_is_continued_not_repeated(tiny_lm: HookedLM) -> None:
    (prompt,) = random_sequences(tiny_lm.d_vocab, (9,))
    (whole,) = tiny_lm.generate([prompt], GREEDY, sample_keys=["a"])
    prefilled = prompt.with_prefill(whole.token_ids[:4])
    (rest,) = tiny_lm.generate([prefilled], GREEDY, sample_keys=["b"])
    n = min(len(whole.token_ids) - 4, len(rest.token_ids))
    assert n > 3
    assert rest.token_ids[:n] == whole.token_ids[4 : 4 + n]
    assert rest.sequence.segments[9:13] == (Segment.PREFILL,) * 4


def test_bfloat16_generates_and_agrees_with_itself(tiny_lm_bf16: HookedLM) -> None:
    """bfloat16 rounds differently for other batch shapes, so only the first tokens must agree."""
    together = texts(generate(tiny_lm_bf16, GREEDY))
    alone = texts([generate(tiny_lm_bf16, GREEDY, [row])[0] for row in range(len(LENGTHS))])
    agree = [a[:3] == b[:3] for a, b in zip(together, alone, strict=True)]
    assert np.mean(agree) > 0.7


def test_generate_refuses_what_does_not_fit(tiny_lm: HookedLM) -> None:
    prompts = random_sequences(tiny_lm.d_vocab, (5, 6))
    with pytest.raises(ModelError, match="got 2 prompts and 1 keys"):
        tiny_lm.generate(prompts, SAMPLED, sample_keys=["a"])
    answered = prompts[0].with_response([9])
    with pytest.raises(ModelError, match="prompt 0 already ends in RESPONSE tokens"):
        tiny_lm.generate([answered], SAMPLED, sample_keys=["a"])
    with pytest.raises(ModelError, match="at least one sequence"):
        tiny_lm.generate([], SAMPLED, sample_keys=[])


def test_cleanup_when_a_hook_fails_while_decoding(tiny_lm: HookedLM) -> None:
    """The autouse check sees what is left on; here only that the error comes through."""

    def failing(_resid: Tensor, chunk: TokenChunk) -> None:
        if bool((chunk.response_index == 3).any()):
            raise ZeroDivisionError

    hook: ResidHook = failing
    with pytest.raises(ZeroDivisionError), tiny_lm.hooks({0: hook}):
        generate(tiny_lm)
    assert texts(generate(tiny_lm)) == texts(generate(tiny_lm))


def test_text_is_decoded_without_special_tokens(tiny_lm: HookedLM) -> None:
    (prompt,) = random_sequences(tiny_lm.d_vocab, (4,))
    (generation,) = tiny_lm.generate([prompt], SAMPLED, sample_keys=["a"])
    words = [tiny_lm.tokenizer.convert_ids_to_tokens(i) for i in generation.token_ids]
    assert generation.text.split() == [w for w in words if not w.startswith("<|")]


def test_a_generation_checks_itself(tiny_lm: HookedLM) -> None:
    prompt = TokenizedPrompt(token_ids=(1, 8), segments=(0, 2))
    with pytest.raises(ModelError, match="one logprob per token"):
        Generation(prompt=prompt, token_ids=(9,), stop_reason="length", logprobs=(), text="")


# --- watching and ending a generation ------------------------------------------------------------


class Listener:
    """Notes every step; ends the generation after step `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.steps: list[GenerationStep] = []

    def __call__(self, step: GenerationStep) -> bool:
        self.steps.append(step)
        return step.step == self.last

    def row(self, row: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Tokens and log-probabilities that one row was said to get."""
        found = [
            (token_id, logprob)
            for step in self.steps
            for r, token_id, logprob in zip(step.rows, step.token_ids, step.logprobs, strict=True)
            if r == row
        ]
        return tuple(t for t, _ in found), tuple(logprob for _, logprob in found)


def watched(
    lm: HookedLM, on_step: StepCallback | None, settings: GenerationSettings = SAMPLED
) -> list[Generation]:
    """Two dozen rows, so that some leave the batch while others go on."""
    prompts = random_sequences(lm.d_vocab, LENGTHS * 3)
    keys = [str(row) for row in range(len(prompts))]
    return lm.generate(prompts, settings, sample_keys=keys, on_step=on_step)


@pytest.mark.parametrize("settings", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("hooked", [False, True], ids=["bare", "hooked"])
def test_a_callback_is_told_every_kept_token_once_and_changes_nothing(
    tiny_lm: HookedLM, settings: GenerationSettings, hooked: bool
) -> None:
    listener, silent = Listener(), list[GenerationStep]()
    with tiny_lm.hooks({1: Witness()} if hooked else {}):
        plain = watched(tiny_lm, None, settings)
        made = watched(tiny_lm, listener, settings)
        again = watched(tiny_lm, silent.append, settings)  # returns None
    assert made == plain == again
    assert [(listener.row(row)) for row in range(len(made))] == [
        (g.token_ids, g.logprobs) for g in made
    ]
    assert [step.step for step in listener.steps] == list(range(len(listener.steps)))
    assert len(listener.steps) == 25
    assert listener.steps == silent
    assert all(list(step.rows) == sorted(step.rows) for step in listener.steps)
    assert len({len(g.token_ids) for g in made}) > 5  # rows do end at different steps


def test_a_chunk_without_padding_has_none(tiny_lm: HookedLM) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def look(_resid: Tensor, chunk: TokenChunk) -> None:
        is_step = chunk.token_ids.shape[1] == 1
        seen.append((is_step, chunk.has_padding, bool((~chunk.is_real).any())))

    with tiny_lm.hooks({0: look}):
        watched(tiny_lm, None)
    assert not any(has_any and not may_have for _, may_have, has_any in seen)
    # Both kinds of decoding steps were met, and where all rows are open it is known.
    assert {may_have for is_step, may_have, _ in seen if is_step} == {True, False}
    assert all(may_have == has_any for is_step, may_have, has_any in seen if is_step)


@pytest.mark.parametrize("last", [0, 7, 24])
def test_a_stopped_generation_keeps_what_it_has(tiny_lm: HookedLM, last: int) -> None:
    witness = Witness()
    whole = watched(tiny_lm, None)
    stopped = watched(tiny_lm, Listener(last))
    with tiny_lm.hooks({2: witness}):
        hooked = watched(tiny_lm, Listener(last))
    assert texts(hooked) == texts(stopped) == [ids[: last + 1] for ids in texts(whole)]
    for row, (before, after) in enumerate(zip(whole, stopped, strict=True)):
        is_cut = len(before.token_ids) > last + 1 or (
            len(before.token_ids) == last + 1 and before.stop_reason == "stop_token"
        )
        assert after.stop_reason == ("stopped" if is_cut else before.stop_reason)
        assert after.logprobs == before.logprobs[: last + 1]
        # Hooks see every token that is kept once, the last one too.
        assert tuple(t for t, *_ in witness.seen[row]) == after.sequence.token_ids
    assert {g.stop_reason for g in stopped} >= ({"stopped"} if last < 24 else {"length"})
    assert "stop_token" in {g.stop_reason for g in stopped} or last == 0


def test_a_failing_callback_comes_through_and_leaves_nothing_behind(tiny_lm: HookedLM) -> None:
    """The autouse check sees hooks that are left on; here that the next call is as ever."""

    def fail(step: GenerationStep) -> None:
        if step.step == 3:
            raise ZeroDivisionError("the listener's own")

    before = watched(tiny_lm, None)
    with pytest.raises(ZeroDivisionError, match="own"), tiny_lm.hooks({0: Witness()}):
        watched(tiny_lm, fail)
    assert watched(tiny_lm, None) == before


def test_without_a_callback_no_step_is_read_from_the_device(
    tiny_lm: HookedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = _Record.last_step

    def counted(self: _Record) -> GenerationStep:
        reads.append(read(self).step)
        return read(self)

    monkeypatch.setattr(_Record, "last_step", counted)
    watched(tiny_lm, None)
    assert reads == []
    watched(tiny_lm, Listener(2))
    assert reads == [0, 1, 2]


# --- prompts that rows share ---------------------------------------------------------------------

SCOPES = ("all", "response", "prompt", "first:2", "response+last_prompt", "first:3+last_prompt")


def mixed_specs(n_rows: int, seed: int) -> list[SteeringSpec | None]:
    """Every scope and method, two layers, and rows left alone, in an order that `seed` draws."""
    generator = np.random.default_rng(seed)
    specs = [None, None] + [
        SteeringSpec(method=method, layer=layer, alpha=2.0, scope=scope)
        for scope in SCOPES
        for method in ("swfc", "sttp")
        for layer in (0, 1, (0, 1))
    ]
    return [specs[place] for place in generator.integers(len(specs), size=n_rows)]


def repeated_prompts(lm: HookedLM, n_rows: int, seed: int) -> list[TokenizedPrompt]:
    """A few prompts, some longer than the sliding window, one also prefilled, in random order."""
    few = random_sequences(lm.d_vocab, (3, 24, 9, 40, 24), seed=seed)
    few.append(few[1].with_prefill(few[2].token_ids[:3]))
    generator = np.random.default_rng(seed)
    return [few[place] for place in generator.integers(len(few), size=n_rows)]


@given(seed=st.integers(0, 1000), n_rows=st.integers(1, 24), chunk=st.sampled_from([None, 7]))
@examples(max_examples=12)
def test_shared_prompts_change_neither_texts_nor_meter(
    tiny_lm: HookedLM, seed: int, n_rows: int, chunk: int | None
) -> None:
    sampling = GenerationSettings(
        max_new_tokens=12, temperature=0.9, top_p=0.95, prefill_chunk=chunk
    )
    prompts, specs = repeated_prompts(tiny_lm, n_rows, seed), mixed_specs(n_rows, seed)
    plan = SteeringPlan(specs, make_probes(3, layers=(0, 1), d_model=tiny_lm.d_model))
    keys = [str(row % 5) for row in range(n_rows)]
    made, meters = [], []
    for share in (False, True):
        meter = EditMeter()
        with steer(tiny_lm, plan, recorder=meter):
            made.append(tiny_lm.generate(prompts, sampling, sample_keys=keys, share_prefixes=share))
        meters.append(meter.results(n_rows))
    assert texts(made[0]) == texts(made[1])
    for alone, shared in zip(*made, strict=True):
        assert np.allclose(alone.logprobs, shared.logprobs, rtol=0, atol=LOGPROB_NOISE)
    for name, values in meters[0].items():
        assert np.allclose(values, meters[1][name], rtol=1e-3, atol=1e-5, equal_nan=True), name


def test_shared_prompts_on_every_model(pair: Pair) -> None:
    """Unsteered rows on sliding windows, full attention and learned positions."""
    prompts = random_sequences(pair.lm.d_vocab, (24, 5, 30)) * 4
    keys = [str(row) for row in range(12)]
    alone = pair.lm.generate(prompts, SAMPLED, sample_keys=keys)
    shared = pair.lm.generate(prompts, SAMPLED, sample_keys=keys, share_prefixes=True)
    assert texts(alone) == texts(shared)
    assert len(set(texts(shared))) > 6


def test_sharing_refuses_hooks_and_recorders_that_need_every_prompt(tiny_lm: HookedLM) -> None:
    prompts = random_sequences(tiny_lm.d_vocab, (5,)) * 2
    probes = make_probes(3, layers=(1,), d_model=tiny_lm.d_model)
    spec = SteeringSpec(method="swfc", layer=1, alpha=2.0, scope="response")
    plan = SteeringPlan([spec, None], probes)

    def generate_shared(keys: str = "ab") -> None:
        tiny_lm.generate(
            prompts[:1] * len(keys), GREEDY, sample_keys=list(keys), share_prefixes=True
        )

    with tiny_lm.hooks({0: Witness()}), pytest.raises(ModelError, match="attached Witness does"):
        generate_shared()
    with (
        steer(tiny_lm, plan, recorder=TraceRecorder()),
        pytest.raises(SteeringError, match="tokens in scope only, got TraceRecorder"),
    ):
        generate_shared()
    with steer(tiny_lm, plan), pytest.raises(SteeringError, match="expected a call with 2"):
        generate_shared("abc")
    with steer(tiny_lm, spec, probes, recorder=EditMeter()):  # a uniform plan: nothing is shared
        generate_shared()
