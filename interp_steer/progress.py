"""How far a sweep is: cells done, rows a second and time left.

A bar on a terminal and in a notebook; in a log file, where a bar would be one endless line, a line
a minute.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable
from types import TracebackType

from tqdm.auto import tqdm

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0
"""Off a terminal."""


class SweepProgress:
    """Counts rows and whole cells; shows a bar, or logs a line a minute."""

    def __init__(
        self,
        description: str,
        wanted: Counter[Hashable],
        *,
        on_terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count.

        Args:
            description: what is done, e.g. "sweep honesty".
            wanted: rows to do, by cell.
            on_terminal: whether to draw a bar; by default, whether stderr is a terminal, or this
                process a notebook's kernel.
            clock: seconds, rising.
        """
        self._description, self._clock = description, clock
        self._left = Counter(wanted)
        self.n_rows, self.n_cells = wanted.total(), len(wanted)
        self.rows_done = self.cells_done = self._rows_said = 0
        is_bar = sys.stderr.isatty() or is_notebook() if on_terminal is None else on_terminal
        self._bar = self._new_bar() if is_bar and self.n_rows else None
        self._started = self._last_line = clock()

    def __enter__(self) -> "SweepProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.rows_done > self._rows_said:
            self._say()

    def add(self, rows: Counter[Hashable]) -> None:
        """Count finished rows, by cell."""
        for cell, count in rows.items():
            self._left[cell] -= count
            self.cells_done += self._left[cell] == 0
        self.rows_done += rows.total()
        if self._bar is not None:
            self._bar.set_postfix_str(self._cells(), refresh=False)
            self._bar.update(rows.total())
        elif self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._say()

    def line(self) -> str:
        """The state in one line."""
        elapsed = self._clock() - self._started
        rate = self.rows_done / elapsed if elapsed > 0 else 0.0
        left = tqdm.format_interval((self.n_rows - self.rows_done) / rate) if rate else "unknown"
        return (
            f"{self._description}: {self.rows_done} of {self.n_rows} rows, {self._cells()}, "
            f"{rate:.3g} rows/s, time left {left}"
        )

    def _say(self) -> None:
        self._last_line, self._rows_said = self._clock(), self.rows_done
        _log.info(self.line())

    def _cells(self) -> str:
        return f"{self.cells_done} of {self.n_cells} cells"

    def _new_bar(self) -> tqdm:
        return tqdm(total=self.n_rows, desc=self._description, unit="row")


def is_notebook() -> bool:
    """Whether this process is a notebook's kernel, whose cells draw bars."""
    shell = sys.modules.get("IPython")
    instance = None if shell is None else shell.get_ipython()
    return instance is not None and "IPKernelApp" in instance.config
