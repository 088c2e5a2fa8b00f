"""Contrasts: one scenario's two prompts and two responses, and the log-odds between the responses.

A contrast asks what a prompt makes of the model: how much likelier is the aligned response than the
malicious one, LO = log p(aligned response) - log p(malicious response), teacher-forced. Both
prompts are laid out from the right, so that the tokens they share (the user's message, the
template after it, the response) stand in the same columns and get the same position ids. LO says
what the model would write, not that it would write it well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.model import HookedLM
from interp_steer.tokens import Segment, TokenChunk, TokenizedPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One scenario under its two prompts, with a response of each side."""

    scenario: str
    """Scenario id: the cluster of every interval."""
    aligned: TokenizedPrompt
    """The aligned prompt, without a response."""
    malicious: TokenizedPrompt
    """The malicious prompt, without a response."""
    aligned_response: tuple[int, ...]
    """Tokens that the model wrote under the aligned prompt; at least one."""
    malicious_response: tuple[int, ...]
    """Tokens that the model wrote under the malicious prompt; at least one."""

    def __post_init__(self) -> None:
        if not self.aligned_response or not self.malicious_response:
            raise ModelError(
                f"scenario {self.scenario!r} has an empty response, whose likelihood says nothing; "
                "leave it out"
            )

    @property
    def n_shared(self) -> int:
        """Tokens at the end of both prompts that are the same ones, after the system prompt.

        Those after the last SYSTEM token of either prompt, as far as both agree from the end; for
        raw prompts all tokens on which they agree from the end.
        """
        after = min(_after_system(self.aligned), _after_system(self.malicious))
        pairs = zip(reversed(_named(self.aligned)), reversed(_named(self.malicious)), strict=False)
        agreeing = 0
        for one, other in pairs:
            if one != other or agreeing == after:
                break
            agreeing += 1
        return agreeing


def _named(prompt: TokenizedPrompt) -> list[tuple[int, int]]:
    return list(zip(prompt.token_ids, prompt.segments, strict=True))


def _after_system(prompt: TokenizedPrompt) -> int:
    """Tokens after the last SYSTEM token; all of them where there is none."""
    reverse = prompt.segments[::-1]
    return reverse.index(Segment.SYSTEM) if Segment.SYSTEM in reverse else len(reverse)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOdds:
    """log p(aligned response) - log p(malicious response) of each contrast, in nats."""

    summed: Float[Tensor, "contrast"]
    """Over all tokens of each response (its end-of-turn left out)."""
    per_token: Float[Tensor, "contrast"]
    """Of the mean log-probabilities, which a longer response does not win."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastBatch:
    """Contrasts as the rows of two forward passes: all aligned responses, then all malicious ones.

    Row i + n of a batch of n contrasts answers contrast i with its malicious response.
    """

    contrasts: tuple[Contrast, ...]
    """What the rows are about."""
    under_aligned: tuple[TokenizedPrompt, ...]
    """Both responses after the aligned prompts."""
    under_malicious: tuple[TokenizedPrompt, ...]
    """The same responses after the malicious prompts."""
    aligned_positions: tuple[int, ...]
    """Position id of each row's first token under the aligned prompt."""
    malicious_positions: tuple[int, ...]
    """Likewise under the malicious prompt: the end of both prompts gets the same ids."""
    n_shared: tuple[int, ...]
    """`Contrast.n_shared` of each row."""

    @classmethod
    def of(cls, contrasts: Sequence[Contrast]) -> "ContrastBatch":
        """Lay out `contrasts`.

        Raises:
            ModelError: there are none.
        """
        if not contrasts:
            raise ModelError("a batch of contrasts needs at least one, got none")
        rows = [(c, c.aligned_response) for c in contrasts]
        rows += [(c, c.malicious_response) for c in contrasts]
        longest = [max(len(c.aligned), len(c.malicious)) for c, _ in rows]
        return cls(
            contrasts=tuple(contrasts),
            under_aligned=tuple(c.aligned.with_response(r) for c, r in rows),
            under_malicious=tuple(c.malicious.with_response(r) for c, r in rows),
            aligned_positions=tuple(
                n - len(c.aligned) for n, (c, _) in zip(longest, rows, strict=True)
            ),
            malicious_positions=tuple(
                n - len(c.malicious) for n, (c, _) in zip(longest, rows, strict=True)
            ),
            n_shared=tuple(c.n_shared for c, _ in rows),
        )

    def log_odds(self, lm: HookedLM, *, prompt: str, equal_positions: bool = True) -> LogOdds:
        """Teacher-force the batch under one side's prompts, with whatever hooks are on.

        Args:
            lm: the model.
            prompt: aligned or malicious.
            equal_positions: whether shared tokens get equal position ids (`first_positions`).
        """
        sequences, positions = self.side(prompt)
        logits = lm.forward(sequences, first_positions=positions if equal_positions else None)
        if logits is None:
            raise ModelError("the model returned no logits")
        return _odds(logits, sequences)

    def side(self, prompt: str) -> tuple[tuple[TokenizedPrompt, ...], tuple[int, ...]]:
        """The rows under one side's prompts, and their first position ids."""
        if prompt == "aligned":
            return self.under_aligned, self.aligned_positions
        if prompt == "malicious":
            return self.under_malicious, self.malicious_positions
        raise ModelError(f"prompt must be aligned or malicious, got {prompt!r}")


def _odds(
    logits: Float[Tensor, "batch pos d_vocab"], sequences: Sequence[TokenizedPrompt]
) -> LogOdds:
    lengths = [len(s) - s.n_prompt for s in sequences]
    longest = max(lengths)
    ids = torch.tensor(
        [(0,) * (longest - n) + s.token_ids[-n:] for s, n in zip(sequences, lengths, strict=True)],
        device=logits.device,
    )
    # Right-aligned: the logits that choose the last token stand one column before it.
    before = logits[:, -longest - 1 : -1].float()
    chosen = before.gather(2, ids[:, :, None])[:, :, 0] - before.logsumexp(dim=2)
    counts = torch.tensor(lengths, device=logits.device)
    columns = torch.arange(longest, device=logits.device)
    is_response = columns[None] >= longest - counts[:, None]
    summed = torch.where(is_response, chosen, 0.0).double().sum(dim=1)
    n = len(sequences) // 2
    per_token = summed / counts
    return LogOdds(
        summed=(summed[:n] - summed[n:]).cpu(), per_token=(per_token[:n] - per_token[n:]).cpu()
    )


def after_system(chunk: TokenChunk, n_shared: Int[Tensor, "batch"]) -> Bool[Tensor, "batch pos"]:
    """Tokens that both prompts share after the system prompt, and the response."""
    width = chunk.segments.shape[1]
    from_end = width - torch.arange(width, device=chunk.segments.device)
    n_response = (chunk.response_index >= 0).sum(dim=1)
    return (from_end[None] <= (n_shared + n_response)[:, None]) & chunk.is_real


def system_tokens(chunk: TokenChunk, n_shared: Int[Tensor, "batch"]) -> Bool[Tensor, "batch pos"]:
    """SYSTEM tokens; for a raw prompt, which has none, the tokens before the shared ones."""
    is_system = chunk.segments == Segment.SYSTEM
    before = ~after_system(chunk, n_shared) & chunk.is_real & (chunk.segments != Segment.TEMPLATE)
    return torch.where(is_system.any(dim=1, keepdim=True), is_system, before)
