"""Choosing the next token so that a row's text does not depend on what it is batched with.

Ordinary sampling draws from one stream of random numbers per batch: repacking a sweep, resuming it
or dropping finished rows would change every text. Here the uniform number behind a token is a
function of (seed, the row's key, the step) alone, and the token is found by inverting the
cumulative distribution in a fixed order (probability descending, ties by token id). Two batches
then differ only through the float noise of their logits, which can move a draw across a boundary
between two tokens; that is rare and is not excluded.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.tokens import GENERATED, Segment, TokenizedPrompt

StopReason = Literal["stop_token", "length", "context", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How responses are sampled; the defaults are the paper's (table B.1 and sec. 3.2)."""

    max_new_tokens: int = 1024
    """Upper limit on response tokens; clamped to what the model's context leaves."""
    temperature: float = 0.6
    """Divides the logits before the softmax; 0 means greedy."""
    top_p: float = 0.9
    """Smallest set of most probable tokens whose mass reaches this is kept, in (0, 1]."""
    seed: int = 42
    """Together with a row's sample key it fixes every random number of the row."""
    prefill_chunk: int | None = None
    """Prompt positions per forward call; None runs the whole prompt in one."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ModelError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0.0 <= self.temperature < float("inf"):
            raise ModelError(
                f"temperature must be 0 (greedy) or a positive number, got {self.temperature}"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ModelError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.prefill_chunk is not None and self.prefill_chunk < 1:
            raise ModelError(
                f"prefill_chunk must be at least 1 or None (whole prompt), got {self.prefill_chunk}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One sampled response."""

    prompt: TokenizedPrompt
    """What it continues, a prefill included."""
    token_ids: tuple[int, ...]
    """Sampled tokens, without the stop token."""
    stop_reason: StopReason
    """"stop_token"; "length" at max_new_tokens; "context" where the context ended first; "stopped"
    where the caller ended it (`StepCallback`)."""
    logprobs: tuple[float, ...]
    """Natural-log probability of each sampled token under the (steered) model at temperature 1,
    top-p 1; the stop token's is left out."""
    text: str
    """Decoded answer, special tokens skipped; the thinking before it is left out."""

    def __post_init__(self) -> None:
        if len(self.logprobs) != len(self.token_ids):
            raise ModelError(
                f"a Generation needs one logprob per token, got {len(self.token_ids)} tokens and "
                f"{len(self.logprobs)} logprobs"
            )
        if any(segment in GENERATED for segment in self.prompt.segments):
            raise ModelError("a Generation's prompt must not hold RESPONSE or THINKING tokens")

    @property
    def sequence(self) -> TokenizedPrompt:
        """Prompt and response in one, for teacher forcing."""
        return self.prompt.with_response(self.token_ids)

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The sampled tokens without the model's thinking: what a judge reads."""
        return answer_ids(self.prompt, self.token_ids)


def answer_ids(prompt: TokenizedPrompt, token_ids: Sequence[int]) -> tuple[int, ...]:
    """Return those of the tokens sampled after `prompt` that are its answer, not thinking."""
    if prompt.thinking is None:
        return tuple(token_ids)
    segments = prompt.with_response(token_ids).segments[len(prompt) :]
    pairs = zip(token_ids, segments, strict=True)
    return tuple(token_id for token_id, segment in pairs if segment == Segment.RESPONSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStep:
    """What one step of sampling added to a batch."""

    step: int
    """Index of these tokens in their responses, from 0; the same for all rows."""
    rows: tuple[int, ...]
    """Rows of the call that got a token which is kept, ascending; a stop token is not kept."""
    token_ids: tuple[int, ...]
    """Their tokens."""
    logprobs: tuple[float, ...]
    """Natural-log probability of each, as in `Generation.logprobs`."""


StepCallback = Callable[[GenerationStep], bool | None]
"""Called after every sampled step; returning True ends the generation there."""


def row_uniforms(
    settings: GenerationSettings, sample_keys: Sequence[str], n_steps: int
) -> Float[np.ndarray, "row step"]:
    """Uniform numbers in [0, 1), a function of (seed, sample key, step) alone.

    Philox in counter mode, keyed with BLAKE2b(seed, sample key): the first `n` numbers of a row do
    not depend on `n_steps`.
    """
    uniforms = np.empty((len(sample_keys), n_steps), dtype=np.float64)
    for row, key in enumerate(sample_keys):
        digest = hashlib.blake2b(f"{settings.seed}\0{key}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        uniforms[row] = generator.random(n_steps)
    return uniforms


def choose_tokens(
    logits: Float[Tensor, "batch d_vocab"],
    uniforms: Float[Tensor, "batch"],
    settings: GenerationSettings,
) -> Int[Tensor, "batch"]:
    """Pick one token per row: greedy at temperature 0, else top-p sampling at `uniforms`.

    The kept set is the shortest prefix of the tokens, by falling probability, whose mass reaches
    `top_p`; the token chosen is the first whose cumulated mass exceeds u times the kept mass.

    Args:
        logits: float32, any shift.
        uniforms: one number in [0, 1) per row.
        settings: temperature and top_p.
    """
    if settings.temperature == 0.0:
        return logits.argmax(dim=-1)
    probabilities = (logits / settings.temperature).softmax(dim=-1)
    d_vocab = probabilities.shape[-1]
    first, *longer = [n for n in SHORTLISTS if n < d_vocab] + [d_vocab]
    chosen, is_exact = _invert(*_ordered(probabilities, first), uniforms, settings.top_p)
    for count in longer:
        rest = (~is_exact).nonzero()[:, 0]
        if not rest.numel():
            break
        ordered = _ordered(probabilities[rest], count)
        chosen[rest], is_exact[rest] = _invert(*ordered, uniforms[rest], settings.top_p)
    return chosen


SHORTLISTS = (16, 128)
"""Most probable tokens that are ordered first, and where the kept set is longer; a full sort of a
vocabulary is far dearer and comes last. The choice is the same either way."""


def _ordered(
    probabilities: Float[Tensor, "batch d_vocab"], count: int
) -> tuple[Float[Tensor, "batch count"], Int[Tensor, "batch count"]]:
    """Return the `count` largest probabilities, falling, ties by rising token id."""
    if count < probabilities.shape[-1]:
        token_ids = probabilities.topk(count, dim=-1).indices.sort(dim=-1).values
        shortlist = probabilities.gather(-1, token_ids)
        mass, order = shortlist.sort(dim=-1, descending=True, stable=True)
        return mass, token_ids.gather(-1, order)
    mass, token_ids = probabilities.sort(dim=-1, descending=True, stable=True)
    return mass, token_ids


def _invert(
    ordered: Float[Tensor, "batch count"],
    token_ids: Int[Tensor, "batch count"],
    uniforms: Float[Tensor, "batch"],
    top_p: float,
) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
    """Return the token at each uniform, and whether the list sufficed to say so.

    It suffices when the kept set ends before the list does and its last member is strictly more
    probable than the list's last: then no token outside the list, tied ones included, is kept.
    """
    mass = ordered.cumsum(dim=-1)
    last_kept = (mass < top_p).sum(dim=-1, keepdim=True).clamp(max=mass.shape[-1] - 1)
    threshold = uniforms.to(mass.dtype)[:, None] * mass.gather(-1, last_kept)
    rank = torch.minimum((mass <= threshold).sum(dim=-1, keepdim=True), last_kept)
    suffices = ordered.gather(-1, last_kept) > ordered[:, -1:]
    return token_ids.gather(-1, rank)[:, 0], suffices[:, 0]
