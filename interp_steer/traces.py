"""Per-token diagnostics out of the hook: what was in scope, what fired, how far it moved.

Why: a steered text alone does not say which tokens the gate chose or how large the edit was. A
`TraceRecorder` reduces every hook's tensors to a few numbers per token on the device (nothing
waits for it, no object per token) and turns them into one Arrow table after the generation. Calls
of few tokens are reduced a block at a time: there an operation costs what it costs to launch. A
token that fired was below a threshold on one direction; the table does not show that it *caused*
anything.

All projections, thresholds, targets and caps are in the coordinates of v_hat, for the reversed
direction too: there a token fires above its threshold, and its cap is a floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch

from interp_steer.errors import SteeringError
from interp_steer.hook_records import CompiledLayer, HookRecord
from interp_steer.model import Generation, Segment, TokenizedPrompt
from interp_steer.trace_files import TRACE_SCHEMA, read_traces, write_traces
from interp_steer.trace_reduction import (
    BLOCK,
    PER_TOKEN,
    SMALL_CALL,
    RecordedCall,
    RecordedTokens,
    by_layer,
    gathered,
    reduced,
)

__all__ = ["TRACE_SCHEMA", "TokenNamer", "TraceRecorder", "read_traces", "write_traces"]


@runtime_checkable
class TokenNamer(Protocol):
    """Whatever gives one readable string per token; `HookedLM` does."""

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Return one string per token."""
        ...


class TraceRecorder:
    """Keeps what the hooks of one call recorded; `table` makes it readable.

    One recorder serves one `generate` or `forward`; `clear` makes it ready for the next.
    """

    def __init__(self) -> None:
        self._seen: list[RecordedTokens] = []
        self._waiting: list[RecordedCall] = []
        self._n_waiting = 0

    def record(self, record: HookRecord) -> None:
        """Keep the per-token numbers of one hook call, and not for long its residual streams."""
        size = record.resid_before.numel()
        if size >= SMALL_CALL:
            self._reduce()
            self._seen.append(reduced([RecordedCall.of(record, copied=False)]))
            return
        self._waiting.append(RecordedCall.of(record, copied=True))
        self._n_waiting += size
        if self._n_waiting >= BLOCK:
            self._reduce()

    def clear(self) -> None:
        """Forget everything recorded."""
        self._seen.clear()
        self._waiting.clear()
        self._n_waiting = 0

    def copy(self, *, start: int = 0) -> "TraceRecorder":
        """Return a recorder of what is recorded so far, for a table while the call goes on.

        Args:
            start: hook calls to leave out, from the first: the length of an earlier copy.

        Raises:
            SteeringError: `start` is no such length.
        """
        self._reduce()
        n_calls = np.cumsum([0, *(seen.n_calls for seen in self._seen)])
        first = int(np.searchsorted(n_calls, start))
        if first == len(n_calls) or n_calls[first] != start:
            raise SteeringError(
                f"start must be the length of an earlier copy, at most {n_calls[-1]}, got {start}"
            )
        other = TraceRecorder()
        other._seen = self._seen[first:]
        return other

    def merged(self, later: "TraceRecorder") -> "TraceRecorder":
        """Return what both recorded, `later` after this one, with a single entry a layer.

        It has the table of one recorder of all calls, and a table of it is cheap: what is merged
        has left the device and is not looked through again.
        """
        both, whole = TraceRecorder(), TraceRecorder()
        both._seen = [*self.copy()._seen, *later.copy()._seen]
        whole._seen = [
            RecordedTokens(steering=seen[0].steering, values=gathered(seen), n_calls=1)
            for seen in by_layer(both._seen)
        ]
        return whole

    def __len__(self) -> int:
        return sum(seen.n_calls for seen in self._seen) + len(self._waiting)

    def _reduce(self) -> None:
        """Reduce the calls that wait, layer by layer."""
        self._seen += [reduced(calls) for calls in by_layer(self._waiting)]
        self._waiting.clear()
        self._n_waiting = 0

    def table(
        self,
        lm: TokenNamer,
        generations: Sequence[Generation | TokenizedPrompt],
        *,
        samples: Sequence[str],
        scenarios: Sequence[str],
        sides: Sequence[str],
        turns: Sequence[int] | None = None,
    ) -> pa.Table:
        """Return the trace of every steered row, with `TRACE_SCHEMA`.

        Args:
            lm: names the tokens.
            generations: what the recorded call returned, or the sequences it teacher-forced, all of
                them and in its order.
            samples: id per sequence.
            scenarios: scenario id per sequence.
            sides: side (aligned, malicious, neutral) per sequence.
            turns: turn of the dialogue per sequence; 0 by default.

        Raises:
            SteeringError: for lists of different length, sequences that do not fit what was
                recorded, or a recorder that served two calls.
        """
        labels = _Labels(
            samples=list(samples),
            scenarios=list(scenarios),
            sides=list(sides),
            turns=[0] * len(generations) if turns is None else list(turns),
        )
        labels.check(len(generations))
        tokens = _Tokens.of(lm, generations)
        self._reduce()
        parts = [
            _layer_table(_as_arrays(gathered(seen)), seen[0].steering, tokens, labels)
            for seen in by_layer(self._seen)
        ]
        if not parts:
            return TRACE_SCHEMA.empty_table()
        whole = pa.concat_tables(parts)
        order = np.lexsort([whole[name].to_numpy() for name in ("pos", "layer", "_row")])
        return whole.take(pa.array(order)).select(TRACE_SCHEMA.names).cast(TRACE_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """What the caller knows about every sequence."""

    samples: list[str]
    scenarios: list[str]
    sides: list[str]
    turns: list[int]

    def check(self, n: int) -> None:
        """Refuse lists of another length than `n` sequences."""
        for name in ("samples", "scenarios", "sides", "turns"):
            if len(getattr(self, name)) != n:
                raise SteeringError(
                    f"expected {n} {name}, one per sequence, got {len(getattr(self, name))}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """All tokens of all sequences, end to end."""

    starts: np.ndarray
    """Offset of each sequence; one more at the end."""
    ids: np.ndarray
    strings: np.ndarray
    segments: np.ndarray
    logprobs: np.ndarray
    """NaN for tokens that were not sampled."""

    @classmethod
    def of(cls, lm: TokenNamer, generations: Sequence[Generation | TokenizedPrompt]) -> "_Tokens":
        """Lay the sequences end to end."""
        sequences = [g if isinstance(g, TokenizedPrompt) else g.sequence for g in generations]
        lengths = [len(s.token_ids) for s in sequences]
        logprobs = [np.full(n, np.nan) for n in lengths]
        for values, generation in zip(logprobs, generations, strict=True):
            if not isinstance(generation, TokenizedPrompt) and generation.logprobs:
                values[-len(generation.logprobs) :] = generation.logprobs
        strings = [name for s in sequences for name in lm.token_strings(s.token_ids)]
        return cls(
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            ids=np.array([t for s in sequences for t in s.token_ids], dtype=np.int64),
            strings=np.array(strings, dtype=object),
            segments=np.array([t for s in sequences for t in s.segments], dtype=np.int64),
            logprobs=np.concatenate([*logprobs, np.empty(0)]),
        )


def _as_arrays(columns: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in columns.items()}


def _layer_table(
    found: dict[str, np.ndarray], steering: CompiledLayer, tokens: _Tokens, labels: _Labels
) -> pa.Table:
    """Join one layer's columns with tokens, labels and the numbers of each row's spec."""
    found = _within_sequences(found, tokens)
    row, pos = found["row"], found["pos"]
    place = tokens.starts[row] + pos
    settings = {int(r): steering.of_row(int(r)) for r in np.unique(row)}
    rows = sorted(settings)
    where = np.searchsorted(rows, row)

    def spread(values: list, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(pa.array(where))

    chosen = [one for r in rows if (one := settings[r]) is not None]
    logprob = tokens.logprobs[place]
    segment_names = np.array([s.name.lower() for s in sorted(Segment)], dtype=object)
    columns = {
        "_row": pa.array(row, pa.int64()),
        "sample": spread([labels.samples[r] for r in rows], pa.string()),
        "scenario": spread([labels.scenarios[r] for r in rows], pa.string()),
        "side": spread([labels.sides[r] for r in rows], pa.string()),
        "turn": spread([labels.turns[r] for r in rows], pa.int32()),
        "pos": pa.array(pos, pa.int32()),
        "token_id": pa.array(tokens.ids[place], pa.int32()),
        "token": pa.array(tokens.strings[place], pa.string()),
        "segment": pa.array(segment_names[tokens.segments[place] - int(min(Segment))], pa.string()),
        "layer": pa.array(np.full(len(row), steering.layer), pa.int32()),
        "method": spread([one.spec.method for one in chosen], pa.string()),
        "direction": spread([one.spec.direction for one in chosen], pa.string()),
        "scope": spread([str(one.spec.token_scope) for one in chosen], pa.string()),
        "alpha": spread([float(one.spec.alpha) for one in chosen], pa.float64()),
        "boundary": spread([one.boundary for one in chosen], pa.float64()),
        "threshold": spread([one.threshold for one in chosen], pa.float64()),
        "target": spread([one.target for one in chosen], pa.float64()),
        "cap": spread([one.cap for one in chosen], pa.float64()),
        "relative_norm": pa.array(_ratio(found["delta_norm"], found["norm"]), pa.float32()),
        "logprob": pa.array(logprob, pa.float32(), mask=np.isnan(logprob)),
    } | {name: pa.array(found[name]) for name in PER_TOKEN}
    return pa.table(columns)


def _within_sequences(found: dict[str, np.ndarray], tokens: _Tokens) -> dict[str, np.ndarray]:
    """Drop positions after a sequence's last token; refuse what cannot be of one call."""
    n, row, pos = len(tokens.starts) - 1, found["row"], found["pos"]
    if row.size and row.max() >= n:
        raise SteeringError(
            f"expected all sequences of the recorded call, at least {row.max() + 1}, got {n}; pass "
            "every generation, in the order of the call"
        )
    key = row * (int(pos.max(initial=0)) + 1) + pos
    if np.unique(key).size != key.size:
        raise SteeringError(
            "the recorder has seen the same token twice: it served two calls; use one "
            "TraceRecorder per call, or clear() it between them"
        )
    # A finished row may be run once more before it leaves the batch; its stop token is no token of
    # the response.
    keep = pos < np.diff(tokens.starts)[row]
    return {name: values[keep] for name, values in found.items()}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)
