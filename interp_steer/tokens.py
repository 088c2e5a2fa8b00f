"""Tokens with their segments, and the view of them that a hook gets in one forward call.

A hook sees a slice of the sequences: one token per row while the KV cache is in use, a piece of the
prompt when prefill is chunked, rows that start with padding. Whatever decides about a token (scope,
pooling, traces) must therefore be told where that token stands in its *sequence*, never in the
slice; `TokenChunk` is that statement. Nothing here knows what the tokens mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.thinking import ThinkingMarks, ThinkingPhase


class Segment(IntEnum):
    """What a token belongs to; the lower-case name is what tables show."""

    PAD = -1
    """Left padding: never edited, never counted."""
    TEMPLATE = 0
    """BOS, role headers, end-of-turn marks and other text that the chat template adds."""
    SYSTEM = 1
    """Text of a system message."""
    USER = 2
    """Text of a user message, or the whole of a raw prompt except its BOS."""
    PREFILL = 3
    """Start of the response that was put there, not sampled (threat `prefill:K`)."""
    RESPONSE = 4
    """Sampled tokens, or the continuation that is being scored."""
    ASSISTANT = 5
    """Text of an earlier assistant turn in the prompt."""
    THINKING = 6
    """Sampled tokens of a thinking model before its answer, marks included. They are generated, so
    they count as response where a scope asks; pooled embeddings and judges leave them out."""


GENERATED = (Segment.RESPONSE, Segment.THINKING)
"""Segments of the tokens that follow a prompt."""
SPOKEN = (Segment.SYSTEM, Segment.USER, Segment.ASSISTANT)
"""Segments of the texts of messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedPrompt:
    """A token sequence and, token by token, the segment it belongs to."""

    token_ids: tuple[int, ...]
    """Token ids, BOS (where the model has one) exactly once."""
    segments: tuple[int, ...]
    """`Segment` values, one per token; RESPONSE and THINKING only as an unbroken run at the end."""
    thinking: ThinkingMarks | None = None
    """How what follows says where its thinking ends; None for models that do not think."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.segments):
            raise ModelError(
                f"a TokenizedPrompt needs one segment per token, got {len(self.token_ids)} tokens "
                f"and {len(self.segments)} segments"
            )
        if int(Segment.PAD) in self.segments:
            raise ModelError(
                "a TokenizedPrompt holds real tokens only, got segment PAD; batches are padded by "
                "HookedLM.forward and HookedLM.generate"
            )
        if any(segment in GENERATED for segment in self.segments[: self.n_prompt]):
            raise ModelError(
                "RESPONSE and THINKING tokens must be one unbroken run at the end of the sequence; "
                "earlier turns of the assistant are Segment.ASSISTANT"
            )

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def n_prompt(self) -> int:
        """Number of tokens before the first RESPONSE or THINKING token."""
        n = len(self.segments)
        while n and self.segments[n - 1] in GENERATED:
            n -= 1
        return n

    @property
    def phase(self) -> ThinkingPhase:
        """Where the sequence leaves a thinking model: a template or a prefill may open a block."""
        phase = ThinkingPhase.ANSWERING
        if self.thinking is None or not self.segments:
            return phase
        for token_id, segment in zip(self.token_ids, self.segments, strict=True):
            if segment not in SPOKEN:  # a message may quote the marks
                phase, _ = self.thinking.step(phase, token_id)
        # A template that closed the block wrote the white space after it too.
        is_done = self.segments[-1] == Segment.TEMPLATE and phase == ThinkingPhase.CLOSED
        return ThinkingPhase.ANSWERING if is_done else phase

    def with_prefill(self, token_ids: Sequence[int]) -> "TokenizedPrompt":
        """Return the prompt with `token_ids` appended as PREFILL."""
        return self._extended(token_ids, Segment.PREFILL)

    def with_response(self, token_ids: Sequence[int]) -> "TokenizedPrompt":
        """Return the sequence with `token_ids` appended as RESPONSE (for teacher forcing).

        Tokens that are thinking, by the marks of `thinking`, are appended as THINKING.
        """
        if self.thinking is None:
            return self._extended(token_ids, Segment.RESPONSE)
        phase, segments = self.phase, []
        for token_id in token_ids:
            phase, is_thinking = self.thinking.step(phase, int(token_id))
            segments.append(int(Segment.THINKING if is_thinking else Segment.RESPONSE))
        return self._joined(token_ids, segments)

    def _extended(self, token_ids: Sequence[int], segment: Segment) -> "TokenizedPrompt":
        return self._joined(token_ids, (int(segment),) * len(token_ids))

    def _joined(self, token_ids: Sequence[int], segments: Sequence[int]) -> "TokenizedPrompt":
        added = tuple(int(token) for token in token_ids)
        return replace(
            self, token_ids=self.token_ids + added, segments=self.segments + tuple(segments)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChunk:
    """The tokens of one forward call, as a hook sees them; every index is sequence-relative.

    All tensors live on the model's device. The chunk of a decoding step has one position, that of
    a chunked prefill a slice of the prompt; rows that finished are no longer in the batch.
    """

    rows: Int[Tensor, "batch"]
    """Index of each batch row in the caller's sequences."""
    token_ids: Int[Tensor, "batch pos"]
    """Token ids; arbitrary at padding."""
    segments: Int[Tensor, "batch pos"]
    """`Segment` values; -1 at padding."""
    positions: Int[Tensor, "batch pos"]
    """Position from the row's first real token, from 0; -1 at padding."""
    response_index: Int[Tensor, "batch pos"]
    """Index among the row's generated tokens (RESPONSE, THINKING), from 0; -1 at every other."""
    is_last_prompt: Bool[Tensor, "batch pos"]
    """True at the last token before the response, whose logits choose response token 0."""
    has_padding: bool = True
    """False only where it is known that every token is real."""

    @property
    def is_real(self) -> Bool[Tensor, "batch pos"]:
        """True everywhere but at padding."""
        return self.segments >= 0

    def to(self, device: torch.device) -> "TokenChunk":
        """Return the chunk on `device`; itself where it is there already."""
        if self.rows.device == device:
            return self
        return self._mapped(lambda values: values.to(device))

    def take(self, rows: Int[Tensor, "chosen"]) -> "TokenChunk":
        """Return the chunk of some rows of the batch, by their places in it."""
        return self._mapped(lambda values: values.index_select(0, rows))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "TokenChunk":
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: change(x) for name, x in found.items() if isinstance(x, Tensor)}
        )


ResidHook = Callable[
    [Float[Tensor, "batch pos d_model"], TokenChunk], Float[Tensor, "batch pos d_model"] | None
]
"""Reads the residual stream of one chunk; returns its replacement, or None for unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """Sequences of a batch, right-aligned (padding on the left), with everything a chunk says."""

    chunk: TokenChunk
    """The whole batch as one chunk."""
    lengths: Int[Tensor, "batch"]
    """Real tokens per row."""

    @property
    def width(self) -> int:
        """Padded length, that of the longest row."""
        return self.chunk.token_ids.shape[1]

    def piece(self, start: int, stop: int) -> TokenChunk:
        """Return columns [start, stop) as a chunk; indices stay sequence-relative."""
        whole = self.chunk
        return TokenChunk(
            rows=whole.rows,
            token_ids=whole.token_ids[:, start:stop],
            segments=whole.segments[:, start:stop],
            positions=whole.positions[:, start:stop],
            response_index=whole.response_index[:, start:stop],
            is_last_prompt=whole.is_last_prompt[:, start:stop],
        )


def left_pad(
    sequences: Sequence[TokenizedPrompt], *, pad_id: int, device: torch.device
) -> PaddedBatch:
    """Right-align `sequences` in one batch.

    Args:
        sequences: at least one; none of them empty.
        pad_id: token id written at padding (never read through the attention mask).
        device: where the tensors go.

    Raises:
        ModelError: without sequences, or with an empty one.
    """
    if not sequences:
        raise ModelError("a batch needs at least one sequence, got none")
    for row, sequence in enumerate(sequences):
        if not len(sequence):
            raise ModelError(f"sequence {row} is empty; a model needs at least one token")
    lengths = torch.tensor([len(s) for s in sequences])
    width = int(lengths.max())
    token_ids = torch.tensor(
        [(pad_id,) * (width - len(s)) + s.token_ids for s in sequences], dtype=torch.long
    )
    segments = torch.tensor(
        [(int(Segment.PAD),) * (width - len(s)) + s.segments for s in sequences], dtype=torch.long
    )
    positions = torch.arange(width)[None] - (width - lengths)[:, None]
    n_prompt = torch.tensor([s.n_prompt for s in sequences])
    from_response = positions - n_prompt[:, None]
    is_pad = positions < 0
    chunk = TokenChunk(
        rows=torch.arange(len(sequences)).to(device),
        token_ids=token_ids.to(device),
        segments=segments.to(device),
        positions=positions.masked_fill(is_pad, -1).to(device),
        response_index=from_response.clamp(min=-1).masked_fill(is_pad, -1).to(device),
        is_last_prompt=((from_response == -1) & ~is_pad).to(device),
    )
    return PaddedBatch(chunk=chunk, lengths=lengths.to(device))
