"""Which tokens of a sequence a method may touch.

Why apart: a scope that looks at the tokens of one forward call is right without a KV cache and
silently wrong with one. A `Scope` reads only the sequence-relative indices of a `TokenChunk`, so
that it says the same about a token however the sequence was cut into calls.

Source: arXiv 2604.08169v2, section 4.3 (`all`, `response`); `prompt`, `first:K` and the option to
add the last prompt position are this project's.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.tokens import TokenChunk

ScopeKind = Literal["all", "response", "prompt", "first"]

_CHOICES = "'all', 'response', 'prompt' or 'first:K' with K >= 1"
_LAST_PROMPT = "+last_prompt"
_NO_LIMIT = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeBounds:
    """A scope, or one scope per row, as the numbers a hook compares with."""

    has_prompt: Bool[Tensor, "row 1"]
    """Every real token before the response is in scope."""
    response_limit: Int[Tensor, "row 1"]
    """Response tokens with a smaller index are in scope."""
    has_last_prompt: Bool[Tensor, "row 1"]
    """The last token before the response is in scope."""

    def mask(self, chunk: TokenChunk) -> Bool[Tensor, "batch pos"]:
        """Return which tokens of `chunk` are in scope; padding never is."""
        index = chunk.response_index
        in_response = (index >= 0) & (index < self.response_limit)
        in_prompt = (index < 0) & (self.has_prompt | (self.has_last_prompt & chunk.is_last_prompt))
        return chunk.is_real & (in_response | in_prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A set of tokens, defined by their place in the sequence."""

    kind: ScopeKind
    """all: every real token, BOS and template included. response: generated (or scored) tokens.
    prompt: everything before the response, a prefilled start included. first: see `k`."""
    k: int | None = None
    """For kind `first`: the number of response tokens, counted from the first sampled one."""
    include_last_prompt: bool = False
    """Add the last token before the response, whose logits choose response token 0."""

    def __post_init__(self) -> None:
        if self.kind not in ("all", "response", "prompt", "first"):
            raise SteeringError(f"expected a scope {_CHOICES}, got {self.kind!r}")
        if (self.kind == "first") != (self.k is not None):
            raise SteeringError(
                f"expected k for the scope 'first' and for no other, got kind {self.kind!r} with "
                f"k={self.k}; write Scope.parse('first:8')"
            )
        if self.k is not None and self.k < 1:
            raise SteeringError(
                f"expected 'first:K' with K >= 1 response tokens, got K={self.k}; to steer no "
                "response token use the scope 'prompt'"
            )
        if self.include_last_prompt and self.kind in ("all", "prompt"):
            raise SteeringError(
                f"the scope {self.kind!r} contains the last prompt position already; drop "
                "include_last_prompt, or use it with 'response' or 'first:K'"
            )

    @classmethod
    def parse(cls, text: str, *, include_last_prompt: bool = False) -> "Scope":
        """Return the scope that `text` names; `str(scope)` is parsed back to an equal scope.

        Args:
            text: 'all', 'response', 'prompt' or 'first:K'; '+last_prompt' may follow the second
                and the last.
            include_last_prompt: same as that suffix.

        Raises:
            SteeringError: for any other text, K < 1, or an option that changes nothing.

        Examples:
            >>> Scope.parse("first:8").k, str(Scope.parse("response+last_prompt"))
            (8, 'response+last_prompt')
        """
        name = text.removesuffix(_LAST_PROMPT)
        last = include_last_prompt or name != text
        if name in ("all", "response", "prompt"):
            return cls(kind=name, include_last_prompt=last)
        head, _, count = name.partition(":")
        if head == "first" and count.isascii() and count.removeprefix("-").isdigit():
            return cls(kind="first", k=int(count), include_last_prompt=last)
        raise SteeringError(f"expected a scope {_CHOICES}, got {text!r}")

    def __str__(self) -> str:
        name = self.kind if self.k is None else f"{self.kind}:{self.k}"
        return name + _LAST_PROMPT * self.include_last_prompt

    def bounds(self) -> ScopeBounds:
        """Return the scope as the numbers a hook compares with (one row)."""
        limit = {"all": _NO_LIMIT, "response": _NO_LIMIT, "prompt": 0, "first": self.k or 0}
        return ScopeBounds(
            has_prompt=torch.tensor([[self.kind in ("all", "prompt")]]),
            response_limit=torch.tensor([[limit[self.kind]]]),
            has_last_prompt=torch.tensor([[self.include_last_prompt]]),
        )

    def mask(self, chunk: TokenChunk) -> Bool[Tensor, "batch pos"]:
        """Return which tokens of `chunk` are in scope; padding never is."""
        bounds, device = self.bounds(), chunk.segments.device
        return ScopeBounds(
            has_prompt=bounds.has_prompt.to(device),
            response_limit=bounds.response_limit.to(device),
            has_last_prompt=bounds.has_last_prompt.to(device),
        ).mask(chunk)
