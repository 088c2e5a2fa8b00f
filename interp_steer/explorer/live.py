"""Live generations of one model, by id: start one, find it again, let old ones go.

They share a model, which the first that runs loads, and take turns on it.
"""

import threading
import uuid
from collections.abc import Sequence

from interp_steer.explorer.live_recording import LiveRow
from interp_steer.explorer.live_session import LiveError, LiveSession, LiveSnapshot, LoadStudy
from interp_steer.explorer.live_turns import Turns
from interp_steer.probes import ProbeSet
from interp_steer.study import Study

__all__ = ["LiveError", "LiveRow", "LiveSession", "LiveSessions", "LiveSnapshot", "LoadStudy"]


class LiveSessions:
    """The sessions on one model, by id; the oldest that are over make room for new ones.

    Args:
        load: called once, by the first session that runs; again by the next if it failed.
        limit: most sessions that are kept.
    """

    def __init__(self, load: LoadStudy, *, limit: int = 8) -> None:
        self.limit = limit
        self._load = load
        self._loaded: tuple[Study, ProbeSet] | None = None
        self._turns = Turns()
        self._lock = threading.Lock()
        self._sessions: dict[str, LiveSession] = {}

    def start(self, rows: Sequence[LiveRow], *, max_new_tokens: int | None = None) -> str:
        """Start a generation, or let it wait for those before it; return its id.

        Raises:
            LiveError: no rows, or as many sessions as are kept are waiting or running.
        """
        session = LiveSession(
            self._load_once, rows, max_new_tokens=max_new_tokens, turns=self._turns
        )
        with self._lock:
            self._make_room()
            live_id = uuid.uuid4().hex
            self._sessions[live_id] = session
            session.start()
        return live_id

    def get(self, live_id: str) -> LiveSession:
        """The session of an id.

        Raises:
            LiveError: there is none.
        """
        with self._lock:
            if live_id not in self._sessions:
                raise LiveError(
                    f"there is no live generation {live_id!r}: the last {self.limit} are kept, and "
                    "none outlives the process that made it; generate again"
                )
            return self._sessions[live_id]

    def close(self, timeout: float | None = None) -> None:
        """Stop all sessions and wait, at most `timeout` seconds for each, until they are over."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.stop()
        for session in sessions:
            session.wait(timeout)

    def _load_once(self) -> tuple[Study, ProbeSet]:
        # Whoever calls it has the turn, so no two load at once.
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _make_room(self) -> None:
        over = [live_id for live_id, session in self._sessions.items() if session.is_over]
        for live_id in over[: max(0, len(self._sessions) + 1 - self.limit)]:
            del self._sessions[live_id]
        if len(self._sessions) >= self.limit:
            raise LiveError(
                f"{len(self._sessions)} generations are waiting or running already, and no more "
                "are kept; stop one of them first"
            )
