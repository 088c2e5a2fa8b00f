"""When the next request to a server may start: an even rate, pauses a server asks for, back-off.

One `Pacer` is shared by all requests of a client, whatever thread or event loop they run in. It
knows of one process alone: two processes with the same limit together reach twice of it.
"""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

LONGEST_DELAY_S = 60.0
"""A back-off grows no longer than this."""


class Pacer:
    """Hands out starting times, `requests_per_minute` of them a minute and evenly spaced."""

    def __init__(
        self,
        requests_per_minute: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with a free slot.

        Args:
            requests_per_minute: None sets no limit.
            clock: seconds, rising.
        """
        self._spacing = 0.0 if requests_per_minute is None else 60.0 / requests_per_minute
        self._clock, self._lock = clock, threading.Lock()
        self._next = clock()

    def reserve(self) -> float:
        """Take the next slot; return the seconds until it begins."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._spacing
            return start - now

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long (a server said that it is overloaded)."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def backoff_s(attempt: int, *, first_s: float, draw: Callable[[], float] = random.random) -> float:
    """Seconds before the next try: doubling, with half of it drawn at random.

        d = min(first_s 2^attempt, LONGEST_DELAY_S),   seconds uniform in [d / 2, d]

    Without the random half, clients that failed together would come back together.

    Args:
        attempt: tries made before the one that just failed.
        first_s: d after the first failure.
        draw: a number from 0 to 1.
    """
    whole = min(first_s * 2.0 ** min(attempt, 30), LONGEST_DELAY_S)
    return whole * (0.5 + 0.5 * draw())


def retry_after_s(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or a date); None where it says nothing.

    Source: RFC 9110, section 10.2.3.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _until(value, now or datetime.now(UTC))
    return max(0.0, seconds) if seconds is not None and isfinite(seconds) else None


def _until(date: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(date)
    except ValueError:
        return None
    aware = then if then.tzinfo is not None else then.replace(tzinfo=UTC)
    return (aware - now).total_seconds()
