"""Laws of generation: on the cache as without it, in a batch as alone, every token shown once."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from interp_steer.conformance.forward_laws import LENGTHS, logits_of
from interp_steer.conformance.subject import LOGPROB_NOISE, Law, Readings, Subject, hold
from interp_steer.generation import SampledTokens, StopRule, sample_responses
from interp_steer.model import PAD_ID
from interp_steer.sampling import Generation, GenerationSettings

SAMPLED = GenerationSettings(max_new_tokens=16, temperature=0.9, top_p=0.95)
SAMPLED_WHOLE = GenerationSettings(max_new_tokens=16, temperature=0.9, top_p=1.0)
GREEDY = GenerationSettings(max_new_tokens=12, temperature=0.0)
LONGEST_CONTEXT = 512
"""Running into the end of a longer context takes too long for a test."""


def generate(
    subject: Subject, settings: GenerationSettings, *, times: int = 1, share: bool = False
) -> list[Generation]:
    """Sample after prompts of several lengths, each some times, with keys of its own."""
    prompts = subject.sequences(LENGTHS) * times
    return subject.lm.generate(
        prompts,
        settings,
        sample_keys=[str(row) for row in range(len(prompts))],
        share_prefixes=share,
    )


def hold_scored(what: str, subject: Subject, made: Sequence[Generation]) -> None:
    """Raise where log-probabilities are not those of one uncached pass over the whole text."""
    for row, one in enumerate(made):
        if not one.token_ids:
            continue
        logits = logits_of(subject, [one.sequence])[0].double().cpu().log_softmax(dim=-1)
        chosen = torch.tensor(one.token_ids)[:, None]
        expected = logits[len(one.prompt) - 1 : -1].gather(1, chosen)[:, 0]
        error = float((torch.tensor(one.logprobs).double() - expected).abs().max())
        hold(
            error <= LOGPROB_NOISE,
            f"{what}, row {row}: log-probabilities on the cache differ from those without it by "
            f"{error:.2g} nats, more than {LOGPROB_NOISE:.1g}",
        )


def cached_generation_is_uncached(subject: Subject) -> None:
    """Sampled on the cache, each token has the log-probability of one pass without a cache."""
    for chunk in (None, 7):
        settings = replace(SAMPLED_WHOLE, prefill_chunk=chunk)
        hold_scored(f"sampled, prefill in pieces of {chunk}", subject, generate(subject, settings))


def greedy_tokens_are_the_likeliest(subject: Subject) -> None:
    """At temperature 0 every token is the likeliest of the independent forward pass."""
    for row, one in enumerate(generate(subject, GREEDY)):
        if not one.token_ids:
            continue
        logits = subject.expected(one.sequence.token_ids).logits.double().cpu().log_softmax(dim=-1)
        logits = logits[len(one.prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
        gap = float((logits.max(dim=-1).values - chosen).max())
        hold(gap <= LOGPROB_NOISE, f"row {row}: a token is {gap:.2g} nats below the likeliest")


def batched_generation_is_single(subject: Subject) -> None:
    """A row's text does not depend on what it is batched with, nor on its place."""
    prompts, keys = subject.sequences(LENGTHS), "abcde"
    alone = [
        subject.lm.generate([prompt], SAMPLED, sample_keys=[key])[0].token_ids
        for prompt, key in zip(prompts, keys, strict=True)
    ]
    for order in (range(5), range(4, -1, -1)):
        made = subject.lm.generate(
            [prompts[row] for row in order], SAMPLED, sample_keys=[keys[row] for row in order]
        )
        hold(
            [one.token_ids for one in made] == [alone[row] for row in order],
            f"batched as {list(order)}, rows say something else than alone",
        )
    hold(len(set(alone)) == 5, "five prompts are all answered alike: nothing can be told apart")


def hooks_meet_every_token_once(subject: Subject) -> None:
    """While generating, a hook meets every token of each row once, and the stop token never."""
    last = subject.lm.n_layers - 1
    for chunk in (None, 4):
        readings = Readings((0, last))
        settings = replace(SAMPLED_WHOLE, prefill_chunk=chunk)
        with subject.lm.hooks(readings.hooks):
            made = generate(subject, settings, times=3)
        hold(
            [one.token_ids for one in made]
            == [one.token_ids for one in generate(subject, settings, times=3)],
            "watching a generation changes it",
        )
        for row, one in enumerate(made):
            whole = one.sequence
            wanted = list(zip(whole.token_ids, whole.segments, range(len(whole)), strict=True))
            for layer in (0, last):
                met = [told[:3] for told in readings.told(row, layer)]
                hold(met == wanted, f"layer {layer} of row {row} met other tokens than its text's")


def rows_that_end_leave_the_others_alone(subject: Subject) -> None:
    """Rows end one by one at stop tokens; what the others say does not change."""
    unstopped = [row.token_ids for row in _sample(subject, set())]
    stop_ids = {unstopped[0][3], unstopped[7][1], unstopped[11][6]}
    expected = []
    for row in unstopped:
        ends = [place for place, token_id in enumerate(row) if token_id in stop_ids]
        expected.append(row[: ends[0]] if ends else row)
    hold(len({len(row) for row in expected}) > 2, "all rows end together: nothing can be told")
    found = [row.token_ids for row in _sample(subject, stop_ids)]
    hold(found == expected, "rows change when others leave the batch")


def generation_ends_at_the_context(subject: Subject) -> None:
    """A row ends where the context does, and goes on as padding without disturbing the others."""
    n_ctx = subject.lm.n_ctx
    # So many that the two that end stay in the batch, as padding, to the end.
    lengths = (n_ctx - 3, *(10,) * 20, n_ctx - 1)
    rows = _sample(subject, set(), lengths=lengths)
    found = [(len(row.token_ids), row.stop_reason) for row in rows]
    wanted = [(3, "context"), *[(16, "length")] * 20, (1, "context")]
    hold(found == wanted, f"rows of {lengths} tokens got (tokens, reason) {found}")
    for row in (1, 20):
        (alone,) = subject.lm.generate(
            subject.sequences(lengths)[row : row + 1], SAMPLED_WHOLE, sample_keys=[str(row)]
        )
        hold(
            rows[row].token_ids[: len(alone.token_ids)] == alone.token_ids,
            "rows at their context's end change what another one says",
        )


def _sample(
    subject: Subject, stop_ids: set[int], *, lengths: Sequence[int] = LENGTHS * 3
) -> list[SampledTokens]:
    """Sample with stop tokens of the law's own."""
    keys = [str(row) for row in range(len(lengths))]
    rule = StopRule(stop_ids=frozenset(stop_ids), n_ctx=subject.lm.n_ctx)
    prompts = subject.sequences(lengths)
    return sample_responses(
        subject.lm.fresh_runner(),
        prompts,
        SAMPLED_WHOLE,
        sample_keys=keys,
        rule=rule,
        pad_id=PAD_ID,
    )


def rows_that_share_say_the_same(subject: Subject) -> None:
    """Equal prompts run as one (`share_prefixes`): texts and log-probabilities stay."""
    for times in (1, 4):
        apart, shared = (
            generate(subject, SAMPLED, times=times, share=share) for share in (False, True)
        )
        hold(
            [one.token_ids for one in apart] == [one.token_ids for one in shared],
            "rows that share a prompt say something else than apart",
        )
        hold_scored("with shared prompts", subject, shared)


GENERATION_LAWS = (
    Law(check=cached_generation_is_uncached),
    Law(check=greedy_tokens_are_the_likeliest),
    Law(check=batched_generation_is_single),
    Law(check=hooks_meet_every_token_once),
    Law(check=rows_that_end_leave_the_others_alone),
    Law(
        check=generation_ends_at_the_context,
        inapplicable=lambda s: (
            f"the context is longer than {LONGEST_CONTEXT}"
            if s.lm.n_ctx > LONGEST_CONTEXT
            else None
        ),
    ),
    Law(check=rows_that_share_say_the_same),
)
