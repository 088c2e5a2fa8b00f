"""The client of a chat endpoint: many calls at once, at a bounded rate, retried where that helps.

It stands on the `openai` package (the extra `judge`), whose own retries are off: here every try
counts against the rate limit, a whole answer has a deadline (not only each read from the socket),
and a 200 whose body is no answer is tried again, too.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from interp_steer.endpoints import ChatEndpoint, Completion, EndpointError, Failure, Usage
from interp_steer.request_pacing import Pacer, backoff_s, retry_after_s

_log = logging.getLogger(__name__)

LONGEST_RETRY_AFTER_S = 600.0
"""A server that wants to be left alone for longer than this is given up."""

Messages = Sequence[Mapping[str, str]]
"""Chat messages: `role` and `content`."""
Outcome = Completion | Failure


class _PassingError(Exception):
    """What may pass; the next try waits `wait_s` at least."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _LastingError(Exception):
    """What will not pass for this call, whereas others may well succeed."""


class ChatClient:
    """Asks one endpoint."""

    def __init__(self, endpoint: ChatEndpoint, *, first_delay_s: float = 1.0) -> None:
        """Keep the endpoint; nothing is sent.

        Args:
            endpoint: whom to ask and how.
            first_delay_s: back-off after a first failure; doubles from there.

        Raises:
            EndpointError: the `openai` package is not installed.
        """
        _openai()
        self.endpoint, self._first_delay_s = endpoint, first_delay_s
        self._pacer = Pacer(endpoint.requests_per_minute)
        self.usage = Usage()
        """Everything that this client has asked so far."""
        if endpoint.api_key() and endpoint.base_url.startswith("http:") and not endpoint.is_local:
            _log.warning(
                "the key in %s goes to %s unencrypted; use https, or unset the variable",
                *(endpoint.api_key_env, endpoint.base_url),
            )

    def complete(self, messages: Messages) -> Outcome:
        """Ask once.

        Raises:
            EndpointError: no call to this endpoint can succeed (key, model, address refused).
        """
        return self.complete_all([messages])[0]

    def complete_all(
        self,
        conversations: Sequence[Messages],
        *,
        on_done: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Ask for every conversation, `concurrency` at a time.

        Args:
            conversations: chat messages of each call.
            on_done: told the place of each call and its outcome as soon as it ends, one at a time;
                what it raises ends everything.

        Returns:
            Outcomes in the order of the conversations.

        Raises:
            EndpointError: no call to this endpoint can succeed; calls under way are dropped.
        """
        if not conversations:
            return []
        work = self._all(conversations, on_done)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        # Inside somebody's event loop (a notebook): a loop of our own in a thread of our own.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, work).result()

    async def _all(
        self,
        conversations: Sequence[Messages],
        on_done: Callable[[int, Outcome], None] | None,
    ) -> list[Outcome]:
        found: dict[int, Outcome] = {}

        async def work(numbered: Iterator[tuple[int, Messages]], client: Any) -> None:
            for place, messages in numbered:
                found[place] = outcome = await self._one(client, messages)
                self.usage += Usage.of(outcome)
                if on_done is not None:
                    on_done(place, outcome)

        numbered = iter(enumerate(conversations))
        n_workers = min(self.endpoint.concurrency, len(conversations))
        async with self._client() as client:
            tasks = [asyncio.create_task(work(numbered, client)) for _ in range(n_workers)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return [found[place] for place in range(len(conversations))]

    async def _one(self, client: Any, messages: Messages) -> Outcome:
        """Try until it works, cannot work, or has been tried often enough."""
        attempt = 0
        while True:
            await asyncio.sleep(self._pacer.reserve())
            try:
                return await self._try(client, messages)
            except _LastingError as error:
                reason = self._clean(error)
                return Failure(reason=reason, attempts=attempt + 1, may_pass=False)
            except _PassingError as error:
                too_long = (error.wait_s or 0.0) > LONGEST_RETRY_AFTER_S
                if too_long or attempt == self.endpoint.max_retries:
                    return Failure(reason=self._clean(error), attempts=attempt + 1)
                await self._wait(attempt, error)
            attempt += 1

    async def _wait(self, attempt: int, error: _PassingError) -> None:
        delay = backoff_s(attempt, first_s=self._first_delay_s)
        if error.wait_s is not None:
            self._pacer.hold(error.wait_s)  # for this call, too: it reserves a slot again
        said = max(delay, error.wait_s or 0.0)
        _log.info("%s; trying again in %.1f s", self._clean(error), said)
        await asyncio.sleep(delay)

    async def _try(self, client: Any, messages: Messages) -> Completion:
        openai = _openai()
        deadline = self.endpoint.timeout_s
        try:
            async with asyncio.timeout(deadline):
                answer = await client.chat.completions.create(**self._request(messages))
        except (TimeoutError, openai.APITimeoutError) as error:
            raise _PassingError(f"no whole answer within {deadline:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__
            raise _PassingError(f"the connection failed ({cause or error})") from error
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        # A body that is no JSON reaches us as the parser's own ValueError.
        except (openai.APIResponseValidationError, ValueError) as error:
            raise _PassingError(f"the body of the answer is no JSON ({error})") from error
        return _completion(answer)

    def _refusal(self, error: Any) -> Exception:
        """What an HTTP status means: try again, give this call up, or give everything up."""
        status, where = error.status_code, f"{self.endpoint.base_url} answered {error.status_code}"
        if status in (401, 403):  # the body may repeat parts of the key
            return EndpointError(
                f"{where}: the key was refused; the variable {self.endpoint.api_key_env} is "
                f"{'set' if self.endpoint.api_key() else 'not set'}"
            )
        said = self._clean(f"{error.message} {'' if error.body else error.response.text}")
        if status == 404:
            return EndpointError(
                f"{where} for the model {self.endpoint.model!r} ({said}); check model and base_url "
                "(it usually ends in /v1)"
            )
        if status in (408, 409, 429) or status >= 500:
            wait = retry_after_s(error.response.headers.get("retry-after"))
            return _PassingError(f"{where} ({said})", wait)
        return _LastingError(f"{where} ({said})")

    def _request(self, messages: Messages) -> dict[str, Any]:
        endpoint = self.endpoint
        # OpenAI's own models refuse `max_tokens`, several other servers know nothing else.
        limit = "max_completion_tokens" if "api.openai.com" in endpoint.base_url else "max_tokens"
        optional = {"reasoning_effort": endpoint.reasoning_effort, limit: endpoint.max_tokens}
        return {
            "model": endpoint.model,
            "messages": [dict(message) for message in messages],
            "temperature": endpoint.temperature,
            "top_p": endpoint.top_p,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _client(self) -> Any:
        endpoint = self.endpoint
        return _openai().AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key() or "none",
            max_retries=0,
            timeout=endpoint.timeout_s,
        )

    def _clean(self, said: object) -> str:
        """A server's words on one short line, without the key should it repeat it."""
        text, key = " ".join(str(said).split()), self.endpoint.api_key()
        return (text.replace(key, "[key]") if key else text)[:300]


def _completion(answer: Any) -> Completion:
    """The parts of an answer that are used; the package does not check what servers send."""
    try:
        choice = answer.choices[0]
        text, reason = choice.message.content, choice.finish_reason
    except (AttributeError, IndexError, TypeError) as error:
        raise _PassingError("the answer has no message") from error
    if not isinstance(text, str | None):
        raise _PassingError(f"the answer's content is {type(text).__name__}, expected text")
    usage = getattr(answer, "usage", None)
    details = getattr(usage, "completion_tokens_details", None)
    extras = (getattr(choice.message, name, None) for name in ("reasoning", "reasoning_content"))
    return Completion(
        text=text or "",
        finish_reason=str(reason),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        reasoning_tokens=_count(details, "reasoning_tokens"),
        reasoning=next((extra for extra in extras if isinstance(extra, str)), ""),
    )


def _count(usage: object, name: str) -> int:
    value = getattr(usage, name, 0)
    return value if isinstance(value, int) and value > 0 else 0


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise EndpointError(
            "asking a chat endpoint needs the package openai, which is not installed; run: "
            "pip install 'interp-steer[judge]'"
        ) from error
    return openai
