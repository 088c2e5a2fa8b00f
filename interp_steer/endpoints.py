"""Chat models behind any OpenAI-compatible endpoint: judges, simulated users, drafts of scenarios.

A call ends in a `Completion` or, after the last retry, in a `Failure` that says why: nothing is
made up in place of an answer. What would fail for every call (no such model, a refused key) is
raised at once. The key comes from an environment variable and is put into requests alone; it is in
no field, no message and no file. What a server does with a text is the server's affair: whoever
names an endpoint sends the prompts there.
"""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from interp_steer.errors import InterpSteerError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class EndpointError(InterpSteerError):
    """An endpoint that is described wrongly, cannot be used at all, or needs a missing package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEndpoint:
    """A chat model behind an OpenAI-compatible endpoint, and how it is asked."""

    model: str
    """Name that the server knows the model by."""
    base_url: str = "http://localhost:8000/v1"
    """Root of the API; the default is a server on this machine."""
    temperature: float = 1.0
    """Sampling temperature, 0 to 2."""
    top_p: float = 1.0
    """Nucleus mass, in (0, 1]."""
    reasoning_effort: str | None = None
    """low, medium, high, or what else the server knows; None leaves it out of the request."""
    max_tokens: int | None = None
    """Limit on the answer, reasoning included; None leaves it to the server."""
    timeout_s: float = 300.0
    """A whole answer has to be there within so many seconds."""
    max_retries: int = 6
    """Tries after the first one, for what may pass: time-outs, 408, 409, 429, 5xx, lost
    connections, answers that are no JSON."""
    requests_per_minute: float | None = None
    """Limit of this process; None sets none."""
    concurrency: int = 16
    """Requests under way at the same time, at most."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the key; servers without a key need none."""

    def __post_init__(self) -> None:
        problem = next((said for wrong, said in self._checks() if wrong), None)
        if problem is not None:
            raise EndpointError(problem)

    def identity(self) -> dict[str, object]:
        """What changes an answer. Where the server stands, and how often it is asked, does not."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "reasoning_effort": self.reasoning_effort,
            "max_tokens": self.max_tokens,
        }

    def api_key(self) -> str | None:
        """The key, read from the environment at this moment; None where it is not set."""
        return os.environ.get(self.api_key_env) or None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return urlsplit(self.base_url).hostname in LOOPBACK

    def _checks(self) -> list[tuple[bool, str]]:
        return [
            (not self.model.strip(), "an endpoint needs the name of its model, got none"),
            *self._address_checks(),
            *(
                (not holds, f"{name} of an endpoint must be {wanted}, got {getattr(self, name)}")
                for name, wanted, holds in (
                    ("temperature", "from 0 to 2", 0 <= self.temperature <= 2),
                    ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
                    ("max_tokens", "at least 1", self.max_tokens is None or self.max_tokens >= 1),
                    ("timeout_s", "above 0", self.timeout_s > 0),
                    ("max_retries", "at least 0", self.max_retries >= 0),
                    (
                        "requests_per_minute",
                        "above 0",
                        self.requests_per_minute is None or self.requests_per_minute > 0,
                    ),
                    ("concurrency", "at least 1", self.concurrency >= 1),
                )
            ),
            # Never echoed: people paste the key itself where its variable's name belongs.
            (
                not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env),
                "api_key_env must be the name of an environment variable (capital letters, digits, "
                "_), not the key itself",
            ),
        ]

    def _address_checks(self) -> list[tuple[bool, str]]:
        try:
            url = urlsplit(self.base_url)
        except ValueError:  # half of the brackets of an IPv6 address
            url = urlsplit("")
        return [
            # Not echoed either: it may hold a password, and it goes into manifests.
            (
                "@" in url.netloc or bool(url.query or url.fragment),
                "base_url may hold neither a user, a password nor a query; put the key into the "
                f"environment variable {self.api_key_env}",
            ),
            (
                url.scheme not in ("http", "https") or not url.hostname,
                f"base_url must be like http://localhost:8000/v1, got {self.base_url!r:.80}",
            ),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model answered."""

    text: str
    """The answer without its reasoning; may be empty."""
    finish_reason: str
    """stop, length, content_filter, or what else the server says."""
    prompt_tokens: int = 0
    """Tokens read; 0 where the server does not count."""
    completion_tokens: int = 0
    """Tokens made, reasoning included."""
    reasoning_tokens: int = 0
    """Of these, reasoning, where the server says so."""
    reasoning: str = ""
    """The reasoning's text, where the server gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call that no retry could save."""

    reason: str
    """What happened last; holds no key."""
    attempts: int
    """Tries made."""
    may_pass: bool = True
    """Whether the same call may work another time; false where the server refused this text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Calls and tokens, to be added up."""

    calls: int = 0
    """Answered calls."""
    failures: int = 0
    """Calls that failed for good."""
    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens made, reasoning included."""

    @classmethod
    def of(cls, outcome: Completion | Failure) -> "Usage":
        """That of one call."""
        if isinstance(outcome, Failure):
            return cls(failures=1)
        return cls(
            calls=1,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
        )

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            calls=self.calls + other.calls,
            failures=self.failures + other.failures,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )

    def cost(self, *, prompt_price: float, completion_price: float) -> float:
        """What it costs, given prices per million tokens, in the currency of the prices."""
        read = self.prompt_tokens * prompt_price
        return (read + self.completion_tokens * completion_price) / 1e6
