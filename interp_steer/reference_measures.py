"""How near a response is to what the unsteered, aligned model says: likelihood and meaning.

The model runs again, unsteered, over tokens that are already there (teacher forcing). A low
cross-entropy says that it would likely have said the same, not that the response is good: a short
platitude is likely, too. Hence the matched reference, the aligned baseline's own response cut to
the same length.

Logits are taken at response positions only and in micro-batches, because at a vocabulary of 100,000
they outgrow everything else. The many responses to one aligned prompt share its key-value cache:
measured on the bundled model (prompts of 25 tokens, responses of 41, two CPU cores) that takes 1.4
times less than running prompt and response together, and the values agree to 5e-6 nats summed over
a response.

Source: arXiv 2604.08169v2, sections C.3 and C.5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_steer.embedders import Embedder, cosine_to_reference
from interp_steer.measures import MeasureArrays, MeasureError
from interp_steer.model import PAD_ID, HookedLM
from interp_steer.runners import ModelRunner
from interp_steer.tokens import PaddedBatch, Segment, TokenChunk, TokenizedPrompt, left_pad

N_TOKENS = 50
"""Response tokens whose cross-entropy counts (section C.3)."""
MAX_LOGITS = 2**26
"""Logits held at once: 256 MiB in float32, about three times that at the peak."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A response beside the aligned baseline's response to the same scenario."""

    prompt: TokenizedPrompt
    """Aligned prompt that the response is scored after; with the prefill, where it had one."""
    token_ids: tuple[int, ...]
    """The response's tokens, without a stop token."""
    reference_prompt: TokenizedPrompt
    """Aligned prompt of the baseline."""
    reference_ids: tuple[int, ...]
    """The aligned baseline's response."""


def measure_references(
    lm: HookedLM,
    comparisons: Sequence[Comparison],
    *,
    embedder: Embedder | None = None,
    n_tokens: int = N_TOKENS,
    batch_size: int = 256,
) -> MeasureArrays:
    """Return `measures.REFERENCE_COLUMNS` of every row.

    With n = min(n_tokens, length of the response, length of the reference), both cross-entropies
    are means over the first n tokens; NaN where n = 0.

    Args:
        lm: the model, nothing attached to it.
        comparisons: one per row.
        embedder: for embedding_cosine; without one that column is NaN.
        n_tokens: most tokens that count.
        batch_size: rows run together.
    """
    lengths = [min(n_tokens, len(c.token_ids), len(c.reference_ids)) for c in comparisons]
    sums = response_cross_entropy(
        lm,
        [c.prompt for c in comparisons] + [c.reference_prompt for c in comparisons],
        [c.token_ids[:n] for c, n in zip(comparisons, lengths, strict=True)]
        + [c.reference_ids for c in comparisons],
        n_tokens=n_tokens,
        batch_size=batch_size,
    )
    own, reference = sums[: len(comparisons)], sums[len(comparisons) :]
    matched = [min(len(a), len(b)) for a, b in zip(own, reference, strict=True)]
    cosine = np.full(len(comparisons), np.nan)
    if embedder is not None:
        texts = [lm.decode(c.token_ids) for c in comparisons]
        cosine = cosine_to_reference(
            embedder, texts, [lm.decode(c.reference_ids) for c in comparisons]
        )
    return {
        "cross_entropy": _means(own, matched),
        "cross_entropy_reference": _means(reference, matched),
        "embedding_cosine": cosine,
    }


def response_cross_entropy(
    lm: HookedLM,
    prompts: Sequence[TokenizedPrompt],
    responses: Sequence[Sequence[int]],
    *,
    n_tokens: int = N_TOKENS,
    batch_size: int = 256,
    max_logits: int = MAX_LOGITS,
) -> list[Float[np.ndarray, "_"]]:
    """Return, per response, sum_{i <= t} -log p(x_i | prompt, x_<i) for its first tokens t.

    The mean over the first n tokens is the n-th entry divided by n, for any n at no further cost.
    Nats, at temperature 1, float32 from the logits on, summed in float64. End-of-turn is not among
    the tokens and so never counted. A response is cut at `n_tokens`, and where the model's context
    ends; an empty one gives an empty array. Identical pairs of prompt and response run once.

    Args:
        lm: the model, nothing attached to it.
        prompts: what each response is scored after.
        responses: token ids, without a stop token.
        n_tokens: most tokens per response.
        batch_size: rows run together at most.
        max_logits: logits held at once at most (one row is always run).

    Raises:
        MeasureError: prompts and responses that are not one to one, or a prompt that has response
            tokens already.
        ModelError: hooks are attached to `lm`, so it is not the unsteered model.
    """
    _check_pairs(prompts, responses)
    pairs = [
        _Pair(prompt=prompt, response=tuple(map(int, response[: _room(lm, prompt, n_tokens)])))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    todo = sorted({p.key: p for p in pairs if p.response}.values(), key=lambda p: p.order)
    known = {p.key: np.empty(0) for p in pairs if not p.response}
    runner = lm.fresh_runner()
    longest = max((len(p.response) for p in todo), default=0)
    size = rows_at_once(batch_size, max_logits=max_logits, logits_per_row=longest * lm.d_vocab)
    for part in micro_batches(todo, size):
        surprisals = _surprisals(runner, lm.device, part).double().cumsum(dim=1).cpu().numpy()
        known |= {p.key: row[: len(p.response)] for p, row in zip(part, surprisals, strict=True)}
    return [known[p.key] for p in pairs]


def rows_at_once(batch_size: int, *, max_logits: int, logits_per_row: int) -> int:
    """Return how many rows to run together: at most `batch_size`, at least one."""
    return max(1, min(batch_size, max_logits // max(1, logits_per_row)))


def micro_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A response to score."""

    prompt: TokenizedPrompt
    response: tuple[int, ...]

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.prompt.token_ids, self.response

    @property
    def order(self) -> tuple[int, tuple[int, ...], int]:
        """By prompt length (little padding), prompt (shared caches), response length."""
        return len(self.prompt), self.prompt.token_ids, len(self.response)


def _surprisals(
    runner: ModelRunner, device: torch.device, pairs: Sequence[_Pair]
) -> Float[Tensor, "row token"]:
    """Return -log p of every response token; what follows a row's last token means nothing."""
    prompts = {p.prompt.token_ids: p.prompt for p in pairs}
    place = {ids: row for row, ids in enumerate(prompts)}
    prompt_of = torch.tensor([place[p.prompt.token_ids] for p in pairs], device=device)
    batch = left_pad(list(prompts.values()), pad_id=PAD_ID, device=device)
    mask, cache = batch.chunk.is_real.long(), runner.new_cache()
    chunk = _response_chunk([p.response for p in pairs], batch.lengths[prompt_of])
    with runner.prepared():
        first = runner.run(batch.chunk, mask, cache=cache, n_logits=1)[prompt_of]
        found = [_negative_log_p(first, chunk.token_ids[:, :1])]
        if chunk.token_ids.shape[1] > 1:
            runner.select_rows(cache, prompt_of)
            read = PaddedBatch(chunk=chunk, lengths=batch.lengths).piece(0, -1)
            rest = runner.run(
                read, torch.cat([mask[prompt_of], read.is_real.long()], dim=1), cache=cache
            )
            found.append(_negative_log_p(rest, chunk.token_ids[:, 1:]))
    return torch.cat(found, dim=1)


def _response_chunk(
    responses: Sequence[tuple[int, ...]], n_before: Int[Tensor, "row"]
) -> TokenChunk:
    """Return the responses, padded on the right, as they follow prompts of `n_before` tokens."""
    device, width = n_before.device, max(map(len, responses))
    padded = [ids + (PAD_ID,) * (width - len(ids)) for ids in responses]
    lengths = torch.tensor([len(ids) for ids in responses], device=device)
    index = torch.arange(width, device=device).expand(len(responses), -1)
    is_pad = index >= lengths[:, None]
    return TokenChunk(
        rows=torch.arange(len(responses), device=device),
        token_ids=torch.tensor(padded, device=device),
        segments=torch.full_like(index, Segment.RESPONSE).masked_fill(is_pad, Segment.PAD),
        positions=(n_before[:, None] + index).masked_fill(is_pad, -1),
        response_index=index.masked_fill(is_pad, -1),
        is_last_prompt=torch.zeros_like(is_pad),
    )


def _negative_log_p(
    logits: Float[Tensor, "row pos d_vocab"], token_ids: Int[Tensor, "row pos"]
) -> Float[Tensor, "row pos"]:
    wide = logits.float()
    return wide.logsumexp(dim=-1) - wide.gather(-1, token_ids[..., None])[..., 0]


def _check_pairs(prompts: Sequence[TokenizedPrompt], responses: Sequence[Sequence[int]]) -> None:
    if len(prompts) != len(responses):
        raise MeasureError(
            f"expected one prompt per response, got {len(prompts)} prompts and {len(responses)} "
            "responses"
        )
    for row, prompt in enumerate(prompts):
        if prompt.n_prompt != len(prompt):
            raise MeasureError(
                f"prompt {row} has RESPONSE tokens already; give the prompt, and the response's "
                "tokens apart"
            )


def _room(lm: HookedLM, prompt: TokenizedPrompt, n_tokens: int) -> int:
    return max(0, min(n_tokens, lm.n_ctx - len(prompt)))


def _means(
    sums: Sequence[Float[np.ndarray, "_"]], lengths: Sequence[int]
) -> Float[np.ndarray, "row"]:
    return np.array(
        [total[n - 1] / n if n else np.nan for total, n in zip(sums, lengths, strict=True)],
        dtype=np.float64,
    )
