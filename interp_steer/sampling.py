"""What is sampled, so that a row's text does not depend on what it is batched with.

Ordinary sampling draws from one stream of random numbers per batch: repacking a sweep, resuming it
or dropping finished rows would change every text. Here the uniform number behind a token is a
function of (seed, the row's key, the step) alone, and `token_choice` says which token it picks.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

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
