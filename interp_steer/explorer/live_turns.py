"""One model, used by one at a time in the order of asking.

Two generations at once on one model would meet each other's hooks. Whoever waits can be told to
give up, so that a page whose generation was stopped does not wait for its turn.
"""

import threading


class Turns:
    """A queue of those that want to use the model; the first one may.

    Each is known by its own event, which says that it has given up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[threading.Event] = []

    def join(self, given_up: threading.Event) -> None:
        """Stand at the end of the queue; `leave` must follow."""
        with self._changed:
            self._queue.append(given_up)

    def wait(self, given_up: threading.Event, *, timeout: float | None = None) -> bool:
        """Wait until it is one's turn; return whether it is, False after `timeout` seconds.

        Also False, at once, when `given_up` is set.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: given_up.is_set() or self._queue[0] is given_up, timeout=timeout
            )
            return not given_up.is_set() and self._queue[0] is given_up

    def give_up(self, given_up: threading.Event) -> None:
        """Set `given_up` and wake whoever waits with it."""
        with self._changed:
            given_up.set()
            self._changed.notify_all()

    def leave(self, given_up: threading.Event) -> None:
        """Leave the queue, from wherever one stands."""
        with self._changed:
            self._queue.remove(given_up)
            self._changed.notify_all()
