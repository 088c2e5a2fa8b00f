"""One generation that is watched while it runs: start, look, stop.

A session generates all its rows in one batch in a thread of its own, with the run's sampling, so
that a row of the sweep, asked again, says the same (up to the float noise of another batch).
Whatever goes wrong in the thread is shown as the state "failed".
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import pyarrow as pa

from interp_steer.errors import InterpSteerError
from interp_steer.explorer.live_recording import LiveRecording, LiveRow, Recorded
from interp_steer.explorer.live_turns import Turns
from interp_steer.model import GenerationStep
from interp_steer.probes import ProbeSet
from interp_steer.projections import projection_batches
from interp_steer.sampling import Generation, GenerationSettings
from interp_steer.steering import SteeringPlan, steer
from interp_steer.study import Study

_log = logging.getLogger(__name__)

LoadStudy = Callable[[], tuple[Study, ProbeSet]]
"""Loads the model and the probes; called in the thread of a session."""
LiveState = Literal["waiting", "running", "done", "stopped", "failed"]

_MAP_TIMEOUT = 60.0
"""Seconds that `layer_projections` waits for the model: somebody looks at a page meanwhile."""


class LiveError(InterpSteerError):
    """A live generation that cannot be started, found or looked into."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveSnapshot:
    """A session at one moment; what one shows, every later one shows too."""

    state: LiveState
    """waiting (for the model, or not started), running; done, stopped or failed for good."""
    n_tokens: tuple[int, ...]
    """Tokens sampled so far, one number a row."""
    texts: tuple[str, ...]
    """The responses so far (untrusted)."""
    tables: tuple[pa.Table, ...]
    """One a row, empty before the first token, with the columns of `TRACE_SCHEMA`: every token of
    prompt and response whose projection is known. The token sampled last has no row until it has
    been run, a step later. A row of the session without spec has method, direction and scope
    "none", alpha 0, no threshold, target and cap, and nothing in scope or fired."""
    error: str | None
    """What went wrong; None unless failed."""
    seconds: float
    """Since it began to generate."""


class LiveSession:
    """One batch of rows, generated in a thread.

    Args:
        load: gives study and probes, for instance `lambda: (study, probes)`.
        rows: what is generated, at least one row.
        max_new_tokens: most new tokens; the run's own limit by default.
        turns: shared with other sessions on the same model.

    Raises:
        LiveError: no rows.
    """

    def __init__(
        self,
        load: LoadStudy,
        rows: Sequence[LiveRow],
        *,
        max_new_tokens: int | None = None,
        turns: Turns | None = None,
    ) -> None:
        if not rows:
            raise LiveError("a live generation needs at least one row, got none")
        self.rows = tuple(rows)
        self._load, self._max_new_tokens = load, max_new_tokens
        self._turns = turns or Turns()
        self._stop, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._state: LiveState = "waiting"
        self._error: str | None = None
        self._began: float | None = None
        self._seconds: float | None = None
        self._recording: LiveRecording | None = None

    def start(self) -> None:
        """Begin, or wait for the model; returns at once.

        Raises:
            LiveError: it was started before.
        """
        with self._lock:
            if self._thread is not None:
                raise LiveError("this generation was started already; make another session")
            self._turns.join(self._stop)
            self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it after the step in progress; what is there stays. Does nothing when it is over."""
        self._turns.give_up(self._stop)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; return whether it is, False after `timeout` seconds."""
        return self._over.wait(timeout)

    @property
    def is_over(self) -> bool:
        """Whether it is done, stopped or failed."""
        return self._over.is_set()

    def snapshot(self) -> LiveSnapshot:
        """What there is now; any thread may ask at any time."""
        with self._lock:
            state, error, recording = self._state, self._error, self._recording
            seconds = self._seconds
            if seconds is None:
                seconds = 0.0 if self._began is None else time.monotonic() - self._began
        found = Recorded.nothing(len(self.rows)) if recording is None else recording.so_far()
        return LiveSnapshot(
            state=state,
            n_tokens=found.n_tokens,
            texts=found.texts,
            tables=found.tables,
            error=error,
            seconds=seconds,
        )

    def layer_projections(self) -> list[tuple[str, pd.DataFrame]]:
        """Projections of every token at every probed layer, for a layer x token map.

        Prompt and response are run once more, each under its own spec, and read as they leave each
        block: at the layers that are steered, after the edit.

        Returns:
            Label and, a row a layer and token, the columns of `PROJECTION_SCHEMA`; one pair a row.

        Raises:
            LiveError: it is not over, nothing was generated, or the model stays in use.
        """
        if not self.is_over:
            raise LiveError("the generation is still going on; wait for its end, or stop it")
        if self._recording is None:
            raise LiveError("nothing was generated, so there is nothing to map; generate again")
        ticket = threading.Event()
        self._turns.join(ticket)
        try:
            if not self._turns.wait(ticket, timeout=_MAP_TIMEOUT):
                raise LiveError("another generation is running; stop it, or try again when it ends")
            table = self._project(self._recording)
        finally:
            self._turns.leave(ticket)
        frame = table.to_pandas()
        return [
            (row.label, frame[frame["response_index"] == place].reset_index(drop=True))
            for place, row in enumerate(self.rows)
        ]

    def _project(self, recording: LiveRecording) -> pa.Table:
        """All rows in one batch; `response_index` is the row's place."""
        study, probes = self._load()
        plan = SteeringPlan([row.spec for row in self.rows], probes)
        with steer(study.lm, plan):
            batches = projection_batches(
                study.lm,
                recording.sequences,
                probes,
                scenario_ids=[row.scenario for row in self.rows],
                sides=[row.side for row in self.rows],
                response_indices=range(len(self.rows)),
                batch_size=len(self.rows),
            )
            return pa.Table.from_batches(list(batches))

    def _run(self) -> None:
        """The thread: wait, generate, say how it ended."""
        try:
            is_whole = self._turns.wait(self._stop) and self._generate()
            self._end("done" if is_whole else "stopped")
        except InterpSteerError as error:
            self._end("failed", str(error))
        except Exception as error:  # noqa: BLE001  # a page must show it: nobody sees a dead thread
            _log.exception("a live generation failed")
            self._end("failed", f"{type(error).__name__}: {error}")
        finally:
            self._turns.leave(self._stop)

    def _generate(self) -> bool:
        """Generate all rows; return whether none of them was stopped."""
        study, probes = self._load()
        if self._stop.is_set():
            return False
        with self._lock:
            self._state, self._began = "running", time.monotonic()
        prompts = [study.lm.tokenize(row.prompt) for row in self.rows]
        recording = LiveRecording(study.lm, self.rows, prompts)
        with self._lock:
            self._recording = recording

        def on_step(step: GenerationStep) -> bool:
            recording.add(step)
            return self._stop.is_set()

        # Two plans, so that what steered rows go through does not depend on who else is read.
        plan = SteeringPlan([row.spec for row in self.rows], probes)
        reading = SteeringPlan([row.reading for row in self.rows], probes)
        recorder = recording.recorder
        with (
            steer(study.lm, plan, recorder=recorder),
            steer(study.lm, reading, recorder=recorder),
        ):
            made: list[Generation] = study.lm.generate(
                prompts,
                self._settings(study),
                sample_keys=[row.sample_key for row in self.rows],
                on_step=on_step,
            )
        recording.finish()
        return all(generation.stop_reason != "stopped" for generation in made)

    def _settings(self, study: Study) -> GenerationSettings:
        if self._max_new_tokens is None:
            return study.settings
        return replace(study.settings, max_new_tokens=self._max_new_tokens)

    def _end(self, state: LiveState, error: str | None = None) -> None:
        with self._lock:
            self._state, self._error = state, error
            self._seconds = 0.0 if self._began is None else time.monotonic() - self._began
        self._over.set()
