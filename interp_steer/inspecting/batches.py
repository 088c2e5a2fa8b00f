"""Requests that arrive one by one, answered together.

Whoever gets the lock first takes what waits with it, in one batch; the others find their reply
there when their turn comes. While a batch runs, the next one gathers. A row's text does not depend
on what it is batched with, up to float noise (`sampling`). A batch that fails, for one prompt that
is too long or for want of memory, is answered again request by request.
"""

from dataclasses import dataclass

import anyio
import anyio.to_thread

from interp_steer.inspecting.steered_run import Reply, Request, SteeredRun
from interp_steer.model import GenerationSettings

GATHER_S = 0.05
"""Seconds that an incomplete batch waits for more requests."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request on its way."""

    request: Request
    settings: GenerationSettings
    reply: Reply | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None


class Batches:
    """Batches of one run's requests.

    Args:
        run: who answers.
        size: most rows of a batch.
    """

    def __init__(self, run: SteeredRun, size: int) -> None:
        self._run, self._size = run, size
        self._lock = anyio.Lock()
        self._waiting: list[_Waiting] = []

    async def answer(self, request: Request, settings: GenerationSettings) -> Reply:
        """The reply to one request.

        Raises:
            Exception: what this request raised when it was answered alone.
        """
        own = _Waiting(request=request, settings=settings)
        self._waiting.append(own)
        try:
            async with self._lock:
                if not own.is_done:
                    await self._answer_batch(own)
        finally:
            if own in self._waiting:
                self._waiting.remove(own)
        if own.error is not None:
            raise own.error
        if own.reply is None:
            raise RuntimeError("a batch left a request without a reply")
        return own.reply

    async def _answer_batch(self, own: _Waiting) -> None:
        if len(self._waiting) < self._size:
            await anyio.sleep(GATHER_S)
        alike = [w for w in self._waiting if w is not own and w.settings == own.settings]
        batch = [own, *alike][: self._size]
        self._waiting = [w for w in self._waiting if w not in batch]
        await anyio.to_thread.run_sync(self._answer_all, batch)

    def _answer_all(self, batch: list[_Waiting]) -> None:
        """Give every request its reply or its error; one that fails does not fail the others."""
        requests = [waiting.request for waiting in batch]
        try:
            replies = self._run.answer(requests, batch[0].settings)
        except Exception as error:  # noqa: BLE001  (raised again where the request came from)
            if len(batch) == 1:
                batch[0].error = error
                return
            for waiting in batch:
                self._answer_all([waiting])
            return
        for waiting, reply in zip(batch, replies, strict=True):
            waiting.reply = reply
