"""Where the thinking of a model ends and its answer starts, told token by token.

Some chat models write their reasoning between two marks before they answer. Who pools or judges a
response wants the answer alone; a hook meets one token at a time and cannot look ahead. What a
token is therefore follows from the tokens before it: a state of three phases, advanced by the same
rule for a Python sequence and for the rows of a batch.

Only marks that are single tokens are known. A model that thinks without them is not told apart.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

MARKS = ("<think>", "</think>")
"""Marks of Qwen3, DeepSeek-R1 and those that follow them."""
BLANKS = ("\n\n", "\n", " ", "\n\n\n")
"""White space that may stand between the closing mark and the answer."""


class ThinkingPhase(IntEnum):
    """What a model is at."""

    ANSWERING = 0
    """Writing its answer; the phase of every model that does not think."""
    INSIDE = 1
    """Between the marks."""
    CLOSED = 2
    """Right after the closing mark: white space still belongs to the thinking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingMarks:
    """Tokens by which a model brackets its thinking."""

    opens: int
    """Token that opens a block."""
    closes: int
    """Token that closes it; outside a block it is text like any other."""
    blanks: tuple[int, ...] = ()
    """White-space tokens; those right after the closing mark are thinking too."""

    @classmethod
    def of(cls, tokenizer: Any) -> "ThinkingMarks | None":
        """The marks of a tokenizer; None where it has no token for them."""
        opens, closes = tokenizer.convert_tokens_to_ids(list(MARKS))
        unknown = (None, tokenizer.unk_token_id)
        if opens in unknown or closes in unknown:
            return None
        blanks = (tokenizer.encode(text, add_special_tokens=False) for text in BLANKS)
        found = {ids[0] for ids in blanks if len(ids) == 1}
        return cls(opens=opens, closes=closes, blanks=tuple(sorted(found)))

    def step(self, phase: ThinkingPhase, token_id: int) -> tuple[ThinkingPhase, bool]:
        """Return the phase after a generated token, and whether the token is thinking."""
        if token_id == self.opens:
            return ThinkingPhase.INSIDE, True
        if phase == ThinkingPhase.INSIDE:
            closed = token_id == self.closes
            return (ThinkingPhase.CLOSED if closed else phase), True
        if phase == ThinkingPhase.CLOSED and token_id in self.blanks:
            return phase, True
        return ThinkingPhase.ANSWERING, False

    def advance(
        self, phases: Int[Tensor, "live"], token_ids: Int[Tensor, "live"]
    ) -> tuple[Int[Tensor, "live"], Bool[Tensor, "live"]]:
        """`step` for one token of every row of a batch."""
        opens, was_inside = token_ids == self.opens, phases == ThinkingPhase.INSIDE
        closes = was_inside & (token_ids == self.closes)
        blank = torch.isin(token_ids, torch.tensor(self.blanks, device=token_ids.device))
        stays_closed = (phases == ThinkingPhase.CLOSED) & blank
        is_inside = opens | (was_inside & ~closes)
        after = torch.where(is_inside, ThinkingPhase.INSIDE, ThinkingPhase.ANSWERING)
        after = torch.where(closes | stays_closed, ThinkingPhase.CLOSED, after)
        return after.to(phases.dtype), opens | was_inside | stays_closed
