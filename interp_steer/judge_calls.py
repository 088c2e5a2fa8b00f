"""Questions to a judge: from the cache, or asked, read strictly, asked once more, or missing.

Every answer that arrives is kept at once, the malformed ones too: what a kill leaves behind is what
was paid for, and the verdict on a question follows from its kept answers alone, however often the
process was stopped in between. A call that failed leaves nothing behind and is asked again by the
next run.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from interp_steer.chat_client import ChatClient
from interp_steer.endpoints import Completion, Failure, Usage
from interp_steer.errors import JudgeError
from interp_steer.judge_cache import AnswerCache, StoredAnswer
from interp_steer.judge_prompts import Message
from interp_steer.judge_settings import JudgeSettings

_log = logging.getLogger(__name__)

N_ATTEMPTS = 2
"""Answers to a question that are read: a malformed one is asked for once more."""
CUT = ("length", "content_filter")
"""Endings after which an answer is not whole, so that "7" may have been "75"."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a judge is asked."""

    messages: tuple[Message, ...]
    """The chat."""
    repeat: int = 0
    """0; from 1 for asking the same again on purpose, to see whether the answer stays."""

    def key(self, identity: Mapping[str, object]) -> str:
        """SHA-256 of who is asked and what; the response that is judged is part of the chat."""
        text = json.dumps([identity, self.messages, self.repeat], sort_keys=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What asking has come to, in this process."""

    n_questions: int = 0
    """Questions put to the judge, each as often as it was put."""
    n_cached: int = 0
    """Of these, answered without a call."""
    n_malformed: int = 0
    """Of these, missing because no answer could be read."""
    n_failed: int = 0
    """Of these, missing because the call failed."""
    usage: Usage = field(default_factory=Usage)
    """Calls and tokens."""

    @property
    def n_missing(self) -> int:
        """Questions without a usable answer."""
        return self.n_malformed + self.n_failed

    def text(self, settings: JudgeSettings) -> str:
        """One line: questions, cache, gaps, tokens, and the cost where prices are given."""
        used = self.usage
        words = [
            f"{self.n_questions} questions to {settings.endpoint.model}: {self.n_cached} answered "
            f"from the cache, {used.calls} calls",
            f"{used.prompt_tokens} tokens read, {used.completion_tokens} made",
        ]
        if settings.prompt_price is not None or settings.completion_price is not None:
            cost = used.cost(
                prompt_price=settings.prompt_price or 0.0,
                completion_price=settings.completion_price or 0.0,
            )
            words.append(f"cost {cost:.4g}")
        if self.n_missing:
            words.append(
                f"{self.n_missing} MISSING ({self.n_malformed} malformed, {self.n_failed} failed)"
            )
        return "; ".join(words)


class JudgeCalls:
    """Puts questions to one judge."""

    def __init__(
        self, settings: JudgeSettings, *, identity: Mapping[str, object], first_delay_s: float = 1.0
    ) -> None:
        """Open the cache; nothing is asked.

        Args:
            settings: endpoint, cache and prices.
            identity: what changes an answer, beside the question.
            first_delay_s: see `ChatClient`.

        Raises:
            EndpointError: the `openai` package is not installed.
            JudgeError: the cache cannot be read.
        """
        self.settings = settings
        self._client = ChatClient(settings.endpoint, first_delay_s=first_delay_s)
        self._cache = AnswerCache(settings.cache)
        self._identity = dict(identity)
        self.tally = Tally()

    def ask(
        self, questions: Sequence[Question], read: Callable[[str], Value | None]
    ) -> list[Value | None]:
        """The answer to every question; None where there is no usable one.

        Args:
            questions: what is asked; one that comes twice is asked once.
            read: the value of an answer's text, None where it is malformed.

        Raises:
            JudgeError: every call failed as when the server is down, or refuses every request:
                going on would fill tables with gaps; or the cache cannot be written.
            EndpointError: no call can succeed.
        """
        self._cache.refresh()
        keys = [question.key(self._identity) for question in questions]
        unique = dict(zip(keys, questions, strict=True))
        known = {key for key in unique if self._is_settled(key, read)}
        failures: dict[str, Failure] = {}
        try:
            for attempt in range(N_ATTEMPTS):
                todo = {
                    key: question
                    for key, question in unique.items()
                    if key not in failures
                    and not self._is_settled(key, read)
                    and len(self._cache.answers(key)) == attempt
                }
                failures |= self._call(todo, attempt)
        finally:
            self._cache.close()
        values = [self._value(key, read) for key in keys]
        self._count(keys, values, known=known, failed=set(failures))
        return values

    def _is_settled(self, key: str, read: Callable[[str], Value | None]) -> bool:
        answers = self._cache.answers(key)
        return len(answers) >= N_ATTEMPTS or any(_read(a, read) is not None for a in answers)

    def _value(self, key: str, read: Callable[[str], Value | None]) -> Value | None:
        values = (_read(answer, read) for answer in self._cache.answers(key)[:N_ATTEMPTS])
        return next((value for value in values if value is not None), None)

    def _call(self, todo: Mapping[str, Question], attempt: int) -> dict[str, Failure]:
        """Ask, keeping every answer as it arrives; the calls that failed, by key."""
        keys, failures = list(todo), {}

        def keep(place: int, outcome: Completion | Failure) -> None:
            if isinstance(outcome, Failure):
                failures[keys[place]] = outcome
            else:
                self._cache.add(keys[place], _stored(outcome, attempt))

        chats = [question.messages for question in todo.values()]
        outcomes = self._client.complete_all(chats, on_done=keep)
        lost = [o for o in outcomes if isinstance(o, Failure)]
        never = self._client.usage.calls == 0
        is_down = never or all(failure.may_pass for failure in lost)
        if lost and len(lost) == len(outcomes) and is_down:
            raise JudgeError(
                f"the judge {self.settings.endpoint.model} answered none of {len(lost)} calls; the "
                f"last one: {lost[-1].reason}. Nothing was scored as missing: see to the endpoint "
                f"{self.settings.endpoint.base_url} and run the same command again, it goes on "
                "from here"
            )
        return failures

    def _count(
        self,
        keys: Sequence[str],
        values: Sequence[object],
        *,
        known: set[str],
        failed: set[str],
    ) -> None:
        missing = [key for key, value in zip(keys, values, strict=True) if value is None]
        n_failed = sum(key in failed for key in missing)
        old = self.tally
        self.tally = Tally(
            n_questions=old.n_questions + len(keys),
            n_cached=old.n_cached + sum(key in known for key in keys),
            n_malformed=old.n_malformed + len(missing) - n_failed,
            n_failed=old.n_failed + n_failed,
            usage=self._client.usage,
        )
        if missing:
            _log.warning(
                "the judge gave no usable answer to %d of %d questions (%d malformed, %d failed)",
                *(len(missing), len(keys), len(missing) - n_failed, n_failed),
            )


def _read(answer: StoredAnswer, read: Callable[[str], Value | None]) -> Value | None:
    return None if answer.finish_reason in CUT else read(answer.text)


def _stored(outcome: Completion, attempt: int) -> StoredAnswer:
    return StoredAnswer(
        attempt=attempt,
        text=outcome.text[:2000],
        finish_reason=outcome.finish_reason,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
    )
