"""The rows of a call that are still being sampled: their cache, mask and place in the text.

Apart from the sampling loop because rows come and go: finished ones leave the batch, and rows that
share a prefix (`prefix_sharing`) part when a token or an edit tells them apart. Both move rows of
the cache, which only this module does.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.prefix_sharing import PrefixSharing, RowMove
from interp_steer.runners import ModelRunner
from interp_steer.thinking import ThinkingMarks
from interp_steer.tokens import PaddedBatch, Segment, TokenChunk, TokenizedPrompt

COMPACT_FRACTION = 8
"""Finished rows stay as padding until they are one in this many, then leave the batch: copying the
cache costs about as much as carrying so many rows for a step or two."""


@dataclass(slots=True)
class RowThinking:
    """Where the rows of a thinking model are between thinking and answer."""

    marks: ThinkingMarks
    """The model's marks."""
    phases: Int[Tensor, "live"]
    """`ThinkingPhase` of each row."""

    @classmethod
    def of(cls, prompts: Sequence[TokenizedPrompt], device: torch.device) -> "RowThinking | None":
        """Start where the prompts end; None where no prompt can be followed by thinking."""
        marks = next((p.thinking for p in prompts if p.thinking is not None), None)
        if marks is None:
            return None
        return cls(marks=marks, phases=torch.tensor([int(p.phase) for p in prompts], device=device))

    def segments(self, token_ids: Int[Tensor, "live"]) -> Int[Tensor, "live"]:
        """Take the rows' next tokens; return whether they are RESPONSE or THINKING."""
        self.phases, is_thinking = self.marks.advance(self.phases, token_ids)
        return torch.where(is_thinking, int(Segment.THINKING), int(Segment.RESPONSE))


class LiveRows:
    """The rows still being sampled, their cache and attention mask."""

    def __init__(self, runner: ModelRunner, batch: PaddedBatch, n_steps: int) -> None:
        self.runner = runner
        self.batch = batch
        self.cache: Any = runner.new_cache()
        self.rows: Int[Tensor, live] = batch.chunk.rows
        self.is_open: Bool[Tensor, live] = torch.ones_like(self.rows, dtype=torch.bool)
        self._all_open = True
        self.lengths: Int[Tensor, "live 1"] = batch.lengths[:, None]
        self._response = torch.full_like(self.lengths, Segment.RESPONSE)
        self._no_prompt = torch.zeros_like(self.lengths, dtype=torch.bool)
        is_real = batch.chunk.is_real.long()
        self.mask = torch.nn.functional.pad(is_real, (0, n_steps), value=1)
        self.thinking: RowThinking | None = None
        self._sharing: PrefixSharing | None = None
        self._kept: Int[Tensor, live] | None = None

    def prefill(
        self, chunk_size: int | None, *, sharing: ExitStack | None = None
    ) -> Float[Tensor, "live d_vocab"]:
        """Run the prompts; return the float32 logits of the first response token.

        Args:
            chunk_size: positions of a piece; None runs them in one.
            sharing: rows share prefixes until it is left; None for no sharing.

        Raises:
            ModelError: see `AttachedHooks.sharing_prompts`.
        """
        if sharing is None:
            return self._prefill(chunk_size)
        n_rows = len(self.rows)
        with self.runner.hooks.sharing_prompts(n_rows) as first_in_prompt:
            self._sharing = PrefixSharing(
                self._prompt_keys(),
                first_in_prompt=first_in_prompt,
                first_after=self.runner.hooks.first_looked_at(n_rows),
                n_layers=self.runner.n_layers,
                shares_blocks=self.runner.shares_blocks,
            )
            sharing.enter_context(self.runner.widening(self._sharing))
            logits = self._prefill(chunk_size)
        self._move(self._sharing.end_prompt())
        return logits

    def _prompt_keys(self) -> Int[np.ndarray, "live"]:
        """Return numbers that are equal for rows with equal prompts."""
        whole = self.batch.chunk
        real = torch.where(whole.is_real, whole.token_ids, -1).cpu().numpy()
        return np.unique(real, axis=0, return_inverse=True)[1].reshape(-1)

    def _prefill(self, chunk_size: int | None) -> Float[Tensor, "live d_vocab"]:
        width, size = self.batch.width, chunk_size or self.batch.width
        self.runner.check_piece(self.batch, size)
        logits = None
        for start in range(0, width, size):
            stop = min(start + size, width)
            piece, mask = self.batch.piece(start, stop), self.mask[:, :stop]
            logits = self.runner.run(piece, mask, cache=self.cache, n_logits=1)
        if logits is None:
            raise ModelError("generate needs at least one prompt, got none")
        return logits[:, -1].float()

    def step(self, token_ids: Int[Tensor, "live"], index: int) -> Float[Tensor, "live d_vocab"]:
        """Run response token `index` of every row; closed rows are padding."""
        chunk, mask = self._next(token_ids, index)
        return self.runner.run(chunk, mask, cache=self.cache, n_logits=1)[:, -1].float()

    def end(self, token_ids: Int[Tensor, "live"], index: int) -> None:
        """Run response token `index`, the last of every row, for the hooks that look at it."""
        chunk, mask = self._next(token_ids, index)
        self.runner.run_for_hooks(chunk, mask, cache=self.cache)

    def _next(
        self, token_ids: Int[Tensor, "live"], index: int
    ) -> tuple[TokenChunk, Int[Tensor, "live kv_pos"]]:
        """Return the chunk of the rows' next tokens, and the mask of what they see."""
        segments = self._response
        if self.thinking is not None:
            segments = self.thinking.segments(token_ids)[:, None]
        if self._sharing is not None:
            tokens, is_open = token_ids.cpu().numpy(), self.is_open.cpu().numpy()
            self._move(self._sharing.split(tokens, is_open))
        positions, indices = self.lengths + index, torch.full_like(self.lengths, index)
        if not self._all_open:
            is_closed = ~self.is_open[:, None]
            segments = segments.masked_fill(is_closed, Segment.PAD)
            positions = positions.masked_fill(is_closed, -1)
            indices = indices.masked_fill(is_closed, -1)
        chunk = TokenChunk(
            rows=self.rows,
            token_ids=token_ids[:, None],
            segments=segments,
            positions=positions,
            response_index=indices,
            is_last_prompt=self._no_prompt,
            has_padding=not self._all_open,
        )
        return chunk, self.mask[:, : self.batch.width + index + 1]

    def close(self, is_done: Bool[Tensor, "live"]) -> None:
        """Mark rows as finished; until `compact` drops them they run as padding."""
        self.is_open = self.is_open & ~is_done

    def compact(self) -> bool:
        """Drop the finished rows once they are enough; return whether any row is left.

        Values of the dropped rows' neighbours, chosen before, are fetched with `carry`.
        """
        n_open, self._kept = int(self.is_open.sum()), None
        self._all_open = n_open == len(self.rows)
        if n_open and (len(self.rows) - n_open) * COMPACT_FRACTION >= len(self.rows):
            self._all_open = True
            self._kept = self.is_open.nonzero()[:, 0]
            self.rows, self.lengths = self.carry(self.rows), self.carry(self.lengths)
            self.mask, self.is_open = self.carry(self.mask), self.carry(self.is_open)
            self._response, self._no_prompt = self._response[:n_open], self._no_prompt[:n_open]
            if self.thinking is not None:
                self.thinking.phases = self.carry(self.thinking.phases)
            if self._sharing is None:
                self.runner.select_rows(self.cache, self._kept)
            else:
                self._move(self._sharing.keep(self._kept.cpu().numpy()))
        return n_open > 0

    def carry(self, values: Tensor) -> Tensor:
        """Return the part of per-row `values` that the last `compact` left in the batch."""
        return values if self._kept is None else values[self._kept]

    def _move(self, moves: Iterator[RowMove]) -> None:
        """Let the cache follow the rows that part or leave."""
        for move in moves:
            sources = torch.from_numpy(move.sources).to(self.rows.device)
            if move.n_kept:
                self.runner.append_rows(self.cache, sources, move.blocks, n_rows=move.n_kept)
            else:
                self.runner.select_rows(self.cache, sources, move.blocks)
