"""Sampling responses for a batch of prompts on a key-value cache.

The loop of its own, instead of the bridge's `generate`, because every hook must be told which
tokens it sees, finished rows should stop costing time, and a row's text must not depend on what it
is batched with (see `sampling`). All rows start their response at the same step, so a decoding
step has one response index for the whole batch and differs between rows only in the position.

A sweep asks the same prompt many times, with the same random numbers: rows may share what they have
in common (`share_prefixes`), the run of a prompt as well as that of equal sampled tokens.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp_steer.errors import ModelError
from interp_steer.live_rows import LiveRows, RowThinking
from interp_steer.runners import ModelRunner
from interp_steer.sampling import (
    GenerationSettings,
    GenerationStep,
    StepCallback,
    StopReason,
    row_uniforms,
)
from interp_steer.token_choice import choose_tokens
from interp_steer.tokens import TokenizedPrompt, left_pad


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
    runner: ModelRunner,
    prompts: Sequence[TokenizedPrompt],
    settings: GenerationSettings,
    *,
    sample_keys: Sequence[str],
    rule: StopRule,
    pad_id: int,
    share_prefixes: bool = False,
    on_step: StepCallback | None = None,
) -> list[SampledTokens]:
    """Sample one response per prompt, in the order of `prompts`.

    Hooks attached to `runner` see the prompt (in chunks of `settings.prefill_chunk`), then every
    sampled token once: the last token before a length limit too, whose logits nobody needs, because
    its residual counts (pooling, traces), unless every hook only edits. A stop token is never run.

    With `share_prefixes`, rows with equal tokens run as one up to the first hook that looks at them
    (`prefix_sharing`); hooks meet each row that they look at, and one of those that still share.

    `on_step` is called when a step's tokens are chosen and before they are run: hooks have seen
    everything up to the step before. If it returns True the step is the last, as if every row's
    limit were there: with hooks on, its tokens are run too. What it raises comes through.

    Raises:
        ModelError: see `check_prompts`, `StopRule.limits` and `AttachedHooks.sharing_prompts`.
    """
    check_prompts(prompts, sample_keys)
    limits = rule.limits(prompts, settings)
    n_steps = most = max(limits, default=0)
    least = min(limits, default=0)
    device = next(runner.model.parameters()).device
    record = _Record(len(prompts), n_steps, device)
    limit = torch.tensor(limits, device=device)
    stop_ids = torch.tensor(sorted(rule.stop_ids), device=device, dtype=torch.long)
    uniforms = torch.from_numpy(row_uniforms(settings, sample_keys, n_steps)).float()
    uniforms = uniforms.T.contiguous().to(device)
    with runner.prepared(), ExitStack() as stack:
        rows = LiveRows(runner, left_pad(prompts, pad_id=pad_id, device=device), n_steps)
        rows.thinking = RowThinking.of(prompts, device)
        logits = rows.prefill(settings.prefill_chunk, sharing=stack if share_prefixes else None)
        for step in range(n_steps):
            chosen = choose_tokens(logits, uniforms[step].index_select(0, rows.rows), settings)
            is_stop = torch.isin(chosen, stop_ids)
            record.add(_Sampled.of(rows.rows, chosen, logits, rows.is_open & ~is_stop))
            if on_step is not None and on_step(record.last_step()):
                record.stopped_after = least = most = step + 1
                limit = limit.clamp(max=step + 1)
            if step + 1 < least:  # of no row it is the last
                rows.close(is_stop)
                if not rows.compact():
                    break
                logits = rows.step(rows.carry(chosen), step)
                continue
            is_last = step + 1 >= limit[rows.rows]
            rows.close(is_stop if runner.hooks.reads_last_token else is_stop | is_last)
            if not rows.compact():
                break
            chosen, is_last = rows.carry(chosen), rows.carry(is_last)
            if step + 1 >= most:  # of all rows it is
                rows.end(chosen, step)
                break
            logits = rows.step(chosen, step)
            rows.close(is_last)
            if not rows.compact():
                break
            logits = rows.carry(logits)
    return record.results(limits, settings.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """What one step gave the rows that were live."""

    rows: Int[Tensor, "live"]
    """Index of each in the call."""
    token_ids: Int[Tensor, "live"]
    """The token chosen for each, a stop token too."""
    logprobs: Float[Tensor, "live"]
    """Its natural-log probability at temperature 1."""
    is_kept: Bool[Tensor, "live"]
    """Whether it is part of the response."""

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, "live"],
        chosen: Int[Tensor, "live"],
        logits: Float[Tensor, "live d_vocab"],
        is_kept: Bool[Tensor, "live"],
    ) -> "_Sampled":
        """Take what was chosen."""
        surprisal = cross_entropy(logits, chosen, reduction="none")  # of all ways the fewest passes
        return cls(rows=rows, token_ids=chosen, logprobs=-surprisal, is_kept=is_kept)


@dataclass(slots=True)
class _Record:
    """What was sampled so far, on the device; put together and read back once at the end."""

    n_rows: int
    n_steps: int
    device: torch.device
    stopped_after: int | None = None
    """Steps after which the caller ended it."""
    _steps: list[_Sampled] = field(default_factory=list)

    def add(self, step: _Sampled) -> None:
        """Take the next step."""
        self._steps.append(step)

    def last_step(self) -> GenerationStep:
        """Return what the last step gave; waits for the device."""
        step = self._steps[-1]
        return GenerationStep(
            step=len(self._steps) - 1,
            rows=tuple(step.rows[step.is_kept].tolist()),
            token_ids=tuple(step.token_ids[step.is_kept].tolist()),
            logprobs=tuple(step.logprobs[step.is_kept].tolist()),
        )

    def results(self, limits: Sequence[int], max_new_tokens: int) -> list[SampledTokens]:
        """Return what each row got."""
        shape = (self.n_rows, self.n_steps)
        token_ids = torch.zeros(shape, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(shape, dtype=torch.float32, device=self.device)
        n_tokens = torch.zeros(self.n_rows, dtype=torch.long, device=self.device)
        if self._steps:
            live = torch.cat([step.rows for step in self._steps])
            at = live, torch.cat([torch.full_like(s.rows, i) for i, s in enumerate(self._steps)])
            token_ids[at] = torch.cat([step.token_ids for step in self._steps])
            logprobs[at] = torch.cat([step.logprobs for step in self._steps])
            n_tokens.index_add_(0, live, torch.cat([s.is_kept for s in self._steps]).long())
        rows = zip(token_ids.tolist(), logprobs.tolist(), n_tokens.tolist(), limits, strict=True)
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
