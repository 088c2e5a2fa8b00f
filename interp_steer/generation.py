"""Sampling responses for a batch of prompts on a key-value cache.

The loop of its own, instead of the bridge's `generate`, because every hook must be told which
tokens it sees, finished rows should stop costing time, and a row's text must not depend on what it
is batched with (see `sampling`). All rows start their response at the same step, so a decoding
step has one response index for the whole batch and differs between rows only in the position.

A sweep asks the same prompt many times. Rows that are not steered in their prompt may share its run
(`share_prompts`): its cache is copied to each of them before the first step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.forwarding import ChunkRunner
from interp_steer.sampling import (
    GenerationSettings,
    GenerationStep,
    StepCallback,
    StopReason,
    choose_tokens,
    row_uniforms,
)
from interp_steer.thinking import ThinkingMarks
from interp_steer.tokens import PaddedBatch, Segment, TokenChunk, TokenizedPrompt, left_pad

COMPACT_FRACTION = 8
"""Finished rows stay as padding until they are one in this many, then leave the batch: copying the
cache costs about as much as carrying so many rows for a step or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """Sampled tokens of one row, not decoded yet."""

    token_ids: tuple[int, ...]
    """Sampled tokens, without the stop token."""
    logprobs: tuple[float, ...]
    """Natural-log probability of each at temperature 1."""
    stop_reason: StopReason
    """Why sampling ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When a row ends."""

    stop_ids: frozenset[int]
    """Token ids that end a response and are not part of it."""
    n_ctx: int
    """Longest sequence, prompt included, that the model takes."""

    def limits(self, prompts: Sequence[TokenizedPrompt], settings: GenerationSettings) -> list[int]:
        """Return the most tokens that each row may get.

        Raises:
            ModelError: a prompt that leaves no room in the context.
        """
        for row, prompt in enumerate(prompts):
            if len(prompt) >= self.n_ctx:
                raise ModelError(
                    f"prompt {row} has {len(prompt)} tokens and the model's context is "
                    f"{self.n_ctx}; a prompt must leave room for at least one token, shorten it"
                )
        return [min(settings.max_new_tokens, self.n_ctx - len(prompt)) for prompt in prompts]


def check_prompts(prompts: Sequence[TokenizedPrompt], sample_keys: Sequence[str]) -> None:
    """Refuse what `sample_responses` cannot continue.

    Raises:
        ModelError: no prompts, keys that are not one a prompt, a prompt with RESPONSE tokens.
    """
    if len(prompts) != len(sample_keys):
        raise ModelError(
            f"generate needs one sample key per prompt, got {len(prompts)} prompts and "
            f"{len(sample_keys)} keys"
        )
    for row, prompt in enumerate(prompts):
        if prompt.n_prompt != len(prompt):
            raise ModelError(
                f"prompt {row} already ends in RESPONSE tokens (or THINKING); give what precedes "
                "the response, and a fixed start of it through TokenizedPrompt.with_prefill"
            )


def sample_responses(
    runner: ChunkRunner,
    prompts: Sequence[TokenizedPrompt],
    settings: GenerationSettings,
    *,
    sample_keys: Sequence[str],
    rule: StopRule,
    pad_id: int,
    share_prompts: bool = False,
    on_step: StepCallback | None = None,
) -> list[SampledTokens]:
    """Sample one response per prompt, in the order of `prompts`.

    Hooks attached to `runner` see the prompt (in chunks of `settings.prefill_chunk`), then every
    sampled token once: with hooks on, the last token before a length limit too, whose logits
    nobody needs, because its residual counts (pooling, traces). A stop token is never run.

    With `share_prompts`, rows with equal prompt tokens that no hook looks at there run them once;
    hooks meet one of these rows in the prompt, and all from the first sampled token on.

    `on_step` is called when a step's tokens are chosen and before they are run: hooks have seen
    everything up to the step before. If it returns True the step is the last, as if every row's
    limit were there: with hooks on, its tokens are run too. What it raises comes through.

    Raises:
        ModelError: see `check_prompts`, `StopRule.limits` and `ChunkRunner.sharing_prompts`.
    """
    check_prompts(prompts, sample_keys)
    limits = rule.limits(prompts, settings)
    n_steps = max(limits, default=0)
    device = next(runner.model.parameters()).device
    record = _Record(len(prompts), n_steps, device)
    limit = torch.tensor(limits, device=device)
    stop_ids = torch.tensor(sorted(rule.stop_ids), device=device, dtype=torch.long)
    uniforms = torch.from_numpy(row_uniforms(settings, sample_keys, n_steps)).float()
    uniforms = uniforms.to(device)
    with runner.prepared():
        if share_prompts:
            with runner.sharing_prompts(len(prompts)) as needs_own:
                shared = SharedPrompts.find(prompts, needs_own.tolist())
                rows = _LiveRows(runner, shared.batch(prompts, pad_id, device), n_steps)
                logits = rows.prefill(settings.prefill_chunk)
            logits = rows.spread(logits, shared.place)
            rows.thinking = _RowThinking.of(prompts, device)
        else:
            batch = left_pad(prompts, pad_id=pad_id, device=device)
            rows = _LiveRows(runner, batch, n_steps)
            rows.thinking = _RowThinking.of(prompts, device)
            logits = rows.prefill(settings.prefill_chunk)
        for step in range(n_steps):
            chosen = choose_tokens(logits, uniforms[rows.rows, step], settings)
            is_stop = torch.isin(chosen, stop_ids)
            is_kept = rows.is_open & ~is_stop
            record.add(rows.rows, step, chosen, logits, is_kept)
            if on_step is not None and on_step(record.of_step(rows.rows[is_kept], step)):
                record.stopped_after = step + 1
                limit = limit.clamp(max=step + 1)
            is_last = step + 1 >= limit[rows.rows]
            rows.close(is_stop if runner.has_hooks else is_stop | is_last)
            if not rows.compact():
                break
            chosen, is_last = rows.carry(chosen), rows.carry(is_last)
            logits = rows.step(chosen, step)
            rows.close(is_last)
            if not rows.compact():
                break
            logits = rows.carry(logits)
    return record.results(limits, settings.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrompts:
    """Which prompts of a call are run, and for which rows."""

    run: tuple[int, ...]
    """Rows whose prompt is run, ascending."""
    place: tuple[int, ...]
    """For every row of the call, where in `run` the prompt is that it goes on from."""

    @classmethod
    def find(cls, prompts: Sequence[TokenizedPrompt], needs_own: Sequence[bool]) -> "SharedPrompts":
        """Group the rows with equal tokens, except those that need their own run.

        Args:
            prompts: one per row.
            needs_own: one per row: something is done to it, or noted of it, in the prompt.
        """
        run: list[int] = []
        place: list[int] = []
        known: dict[tuple[int, ...], int] = {}
        for row, (prompt, is_own) in enumerate(zip(prompts, needs_own, strict=True)):
            found = None if is_own else known.get(prompt.token_ids)
            if found is None:
                found = len(run)
                run.append(row)
                if not is_own:
                    known[prompt.token_ids] = found
            place.append(found)
        return cls(run=tuple(run), place=tuple(place))

    def batch(
        self, prompts: Sequence[TokenizedPrompt], pad_id: int, device: torch.device
    ) -> PaddedBatch:
        """Return the prompts that are run; hooks are told whose they are in the call."""
        padded = left_pad([prompts[row] for row in self.run], pad_id=pad_id, device=device)
        rows = torch.tensor(self.run, device=device)
        return replace(padded, chunk=replace(padded.chunk, rows=rows))


@dataclass(slots=True)
class _RowThinking:
    """Where the rows of a thinking model are between thinking and answer."""

    marks: ThinkingMarks
    """The model's marks."""
    phases: Int[Tensor, "live"]
    """`ThinkingPhase` of each row."""

    @classmethod
    def of(cls, prompts: Sequence[TokenizedPrompt], device: torch.device) -> "_RowThinking | None":
        """Start where the prompts end; None where no prompt can be followed by thinking."""
        marks = next((p.thinking for p in prompts if p.thinking is not None), None)
        if marks is None:
            return None
        return cls(marks=marks, phases=torch.tensor([int(p.phase) for p in prompts], device=device))

    def segments(self, token_ids: Int[Tensor, "live"]) -> Int[Tensor, "live"]:
        """Take the rows' next tokens; return whether they are RESPONSE or THINKING."""
        self.phases, is_thinking = self.marks.advance(self.phases, token_ids)
        return torch.where(is_thinking, int(Segment.THINKING), int(Segment.RESPONSE))


class _LiveRows:
    """The rows still being sampled, their cache and attention mask."""

    def __init__(self, runner: ChunkRunner, batch: PaddedBatch, n_steps: int) -> None:
        self.runner = runner
        self.batch = batch
        self.cache: Any = runner.new_cache()
        self.rows: Int[Tensor, live] = batch.chunk.rows
        self.is_open: Bool[Tensor, live] = torch.ones_like(self.rows, dtype=torch.bool)
        self.lengths = batch.lengths
        is_real = batch.chunk.is_real.long()
        self.mask = torch.nn.functional.pad(is_real, (0, n_steps), value=1)
        self.thinking: _RowThinking | None = None
        self._kept: Int[Tensor, live] | None = None

    def prefill(self, chunk_size: int | None) -> Float[Tensor, "live d_vocab"]:
        """Run the prompts; return the float32 logits of the first response token."""
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

    def spread(
        self, logits: Float[Tensor, "run d_vocab"], place: Sequence[int]
    ) -> Float[Tensor, "row d_vocab"]:
        """Give every row of the call the cache of the prompt it goes on from, and its logits."""
        source = torch.tensor(place, device=logits.device)
        self.rows = torch.arange(len(place), device=logits.device)
        self.lengths, self.mask = self.lengths[source], self.mask[source]
        self.is_open = self.is_open[source]
        if len(self.rows) > len(logits):  # else every row has run its own
            self.runner.select_rows(self.cache, source)
        return logits[source]

    def step(self, token_ids: Int[Tensor, "live"], index: int) -> Float[Tensor, "live d_vocab"]:
        """Run response token `index` of every row; closed rows are padding."""
        response = torch.full_like(token_ids, Segment.RESPONSE)
        if self.thinking is not None:
            response = self.thinking.segments(token_ids)
        token_ids, is_open, response = token_ids[:, None], self.is_open[:, None], response[:, None]
        chunk = TokenChunk(
            rows=self.rows,
            token_ids=token_ids,
            segments=response.masked_fill(~is_open, Segment.PAD),
            positions=(self.lengths[:, None] + index).masked_fill(~is_open, -1),
            response_index=torch.full_like(token_ids, index).masked_fill(~is_open, -1),
            is_last_prompt=torch.zeros_like(is_open),
        )
        mask = self.mask[:, : self.batch.width + index + 1]
        return self.runner.run(chunk, mask, cache=self.cache, n_logits=1)[:, -1].float()

    def close(self, is_done: Bool[Tensor, "live"]) -> None:
        """Mark rows as finished; until `compact` drops them they run as padding."""
        self.is_open = self.is_open & ~is_done

    def compact(self) -> bool:
        """Drop the finished rows once they are enough; return whether any row is left.

        Values of the dropped rows' neighbours, chosen before, are fetched with `carry`.
        """
        n_open, self._kept = int(self.is_open.sum()), None
        if n_open and (len(self.rows) - n_open) * COMPACT_FRACTION >= len(self.rows):
            self._kept = self.is_open.nonzero()[:, 0]
            self.rows, self.lengths = self.carry(self.rows), self.carry(self.lengths)
            self.mask, self.is_open = self.carry(self.mask), self.carry(self.is_open)
            if self.thinking is not None:
                self.thinking.phases = self.carry(self.thinking.phases)
            self.runner.select_rows(self.cache, self._kept)
        return n_open > 0

    def carry(self, values: Tensor) -> Tensor:
        """Return the part of per-row `values` that the last `compact` left in the batch."""
        return values if self._kept is None else values[self._kept]


@dataclass(slots=True)
class _Record:
    """What was sampled so far, on the device; read back once at the end."""

    n_rows: int
    n_steps: int
    device: torch.device
    token_ids: Tensor = field(init=False)
    logprobs: Tensor = field(init=False)
    n_tokens: Tensor = field(init=False)
    stopped_after: int | None = None
    """Steps after which the caller ended it."""

    def __post_init__(self) -> None:
        shape = (self.n_rows, self.n_steps)
        self.token_ids = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.logprobs = torch.zeros(shape, dtype=torch.float32, device=self.device)
        self.n_tokens = torch.zeros(self.n_rows, dtype=torch.long, device=self.device)

    def add(
        self,
        rows: Int[Tensor, "live"],
        step: int,
        chosen: Int[Tensor, "live"],
        logits: Float[Tensor, "live d_vocab"],
        is_kept: Bool[Tensor, "live"],
    ) -> None:
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1)
        self.token_ids[rows, step] = chosen
        self.logprobs[rows, step] = logprobs
        self.n_tokens[rows] += is_kept

    def of_step(self, rows: Int[Tensor, "kept"], step: int) -> GenerationStep:
        """Return what `rows` got in `step`; waits for the device."""
        return GenerationStep(
            step=step,
            rows=tuple(rows.tolist()),
            token_ids=tuple(self.token_ids[rows, step].tolist()),
            logprobs=tuple(self.logprobs[rows, step].tolist()),
        )

    def results(self, limits: Sequence[int], max_new_tokens: int) -> list[SampledTokens]:
        rows = zip(
            self.token_ids.tolist(),
            self.logprobs.tolist(),
            self.n_tokens.tolist(),
            limits,
            strict=True,
        )
        return [
            SampledTokens(
                token_ids=tuple(token_ids[:n]),
                logprobs=tuple(logprobs[:n]),
                stop_reason=self._stop_reason(n, limit, max_new_tokens),
            )
            for token_ids, logprobs, n, limit in rows
        ]

    def _stop_reason(self, n_tokens: int, limit: int, max_new_tokens: int) -> StopReason:
        if n_tokens < limit:
            return "stopped" if n_tokens == self.stopped_after else "stop_token"
        return "length" if limit == max_new_tokens else "context"
