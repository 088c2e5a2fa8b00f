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

from interp_steer.errors import ModelError
from interp_steer.live_rows import LiveRows, RowThinking
from interp_steer.runners import ModelRunner
from interp_steer.sampling import (
    GenerationSettings,
    GenerationStep,
    StepCallback,
    StopReason,
    choose_tokens,
    row_uniforms,
)
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
    n_steps = max(limits, default=0)
    device = next(runner.model.parameters()).device
    record = _Record(len(prompts), n_steps, device)
    limit = torch.tensor(limits, device=device)
    stop_ids = torch.tensor(sorted(rule.stop_ids), device=device, dtype=torch.long)
    uniforms = torch.from_numpy(row_uniforms(settings, sample_keys, n_steps)).float()
    uniforms = uniforms.to(device)
    with runner.prepared(), ExitStack() as stack:
        rows = LiveRows(runner, left_pad(prompts, pad_id=pad_id, device=device), n_steps)
        rows.thinking = RowThinking.of(prompts, device)
        logits = rows.prefill(settings.prefill_chunk, sharing=stack if share_prefixes else None)
        for step in range(n_steps):
            chosen = choose_tokens(logits, uniforms[rows.rows, step], settings)
            is_stop = torch.isin(chosen, stop_ids)
            is_kept = rows.is_open & ~is_stop
            record.add(rows.rows, step, chosen, logits, is_kept)
            if on_step is not None and on_step(record.of_step(rows.rows[is_kept], step)):
                record.stopped_after = step + 1
                limit = limit.clamp(max=step + 1)
            is_last = step + 1 >= limit[rows.rows]
            rows.close(is_stop if runner.hooks.reads_last_token else is_stop | is_last)
            if not rows.compact():
                break
            chosen, is_last = rows.carry(chosen), rows.carry(is_last)
            logits = rows.step(chosen, step)
            rows.close(is_last)
            if not rows.compact():
                break
            logits = rows.carry(logits)
    return record.results(limits, settings.max_new_tokens)


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
