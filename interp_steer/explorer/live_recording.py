"""What a running generation has said and done so far, one table a row.

The thread that generates adds a step at a time; any other thread may look. Tokens are known when
they are sampled, their projections when they have been run, one step later: a table therefore ends
one token before the text does, until the generation is over. Nothing here starts or ends one.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from interp_steer.cells import NONE
from interp_steer.model import Generation, GenerationStep, HookedLM, Prompt, TokenizedPrompt
from interp_steer.steering import SteeringSpec
from interp_steer.traces import TRACE_SCHEMA, TraceRecorder

_NEVER = ("value", -3e38)
"""No projection is below it: near the lowest number of float32."""
_UNSTEERED = {
    "method": NONE,
    "direction": NONE,
    "scope": NONE,
    "alpha": 0.0,
    "in_scope": False,
    "threshold": None,
    "target": None,
}
"""What the columns of a row without spec hold; nothing fired there and nothing was moved."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveRow:
    """One generation that is to be shown."""

    label: str
    """Its name, `sample` in its table (untrusted)."""
    prompt: Prompt
    """What the model is asked."""
    spec: SteeringSpec | None
    """What is done to it; None for nothing."""
    read_layer: int
    """Layer whose projections are shown where nothing is done; with a spec, its own layers are."""
    scenario: str
    """Scenario id, or a name for a prompt that is none."""
    side: str
    """Side whose prompt it is."""
    sample_key: str
    """Key of its random numbers; `sweep_rows.sample_key` for a text of the sweep."""

    @property
    def reading(self) -> SteeringSpec | None:
        """Where nothing is done, a gate that never opens; None for a row with a spec.

        Its hook projects every token and changes none, bit for bit: `interventions.edit` selects
        the residual as it came wherever the shift is zero.
        """
        if self.spec is not None:
            return None
        return SteeringSpec(method="sttp", layer=self.read_layer, alpha=0.0, threshold=_NEVER)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """What is known at one moment, one entry a row."""

    n_tokens: tuple[int, ...]
    """Sampled tokens."""
    texts: tuple[str, ...]
    """The response so far."""
    tables: tuple[pa.Table, ...]
    """Columns of `TRACE_SCHEMA`; prompt and response tokens whose projection is known."""

    @classmethod
    def nothing(cls, n_rows: int) -> "Recorded":
        """Before the first token."""
        empty = TRACE_SCHEMA.empty_table()
        return cls(n_tokens=(0,) * n_rows, texts=("",) * n_rows, tables=(empty,) * n_rows)


class LiveRecording:
    """Collects the steps of one call of `generate`; `so_far` may be asked from any thread.

    Args:
        lm: decodes and names tokens.
        rows: of the call, in its order.
        prompts: theirs.
    """

    def __init__(
        self, lm: HookedLM, rows: Sequence[LiveRow], prompts: Sequence[TokenizedPrompt]
    ) -> None:
        self.recorder = TraceRecorder()
        """For `steer`; only the thread that generates uses it."""
        self._names = _TokenNames(lm)
        self._lm = lm
        self._rows, self._prompts = tuple(rows), tuple(prompts)
        self._token_ids: list[list[int]] = [[] for _ in rows]
        self._logprobs: list[list[float]] = [[] for _ in rows]
        self._trace = TraceRecorder()
        self._merged, self._n_merged = TraceRecorder(), 0
        self._version = 0
        self._adding = threading.Lock()
        self._building = threading.Lock()
        self._built: tuple[int, Recorded] = (0, Recorded.nothing(len(self._rows)))

    def add(self, step: GenerationStep) -> None:
        """Take what one step sampled, and what hooks have recorded until then."""
        with self._adding:
            for row, token_id, logprob in zip(
                step.rows, step.token_ids, step.logprobs, strict=True
            ):
                self._token_ids[row].append(token_id)
                self._logprobs[row].append(logprob)
            self._trace = self.recorder.copy()
            self._version += 1

    def finish(self) -> None:
        """Take the last tokens' projections and let go of what is needed no more."""
        with self._adding:
            self._trace = self.recorder.copy()
            self._version += 1
        self.so_far()
        self.recorder.clear()
        with self._adding:
            self._trace = TraceRecorder()
        with self._building:
            self._merged = TraceRecorder()

    @property
    def sequences(self) -> tuple[TokenizedPrompt, ...]:
        """Prompts with what was sampled after them."""
        return tuple(generation.sequence for generation in self._known()[1])

    def so_far(self) -> Recorded:
        """What is known now; what one call shows, every later one shows too."""
        with self._building:
            version, generations, trace = self._known()
            if version != self._built[0]:
                self._built = version, self._build(generations, trace)
            return self._built[1]

    def _known(self) -> tuple[int, list[Generation], TraceRecorder]:
        with self._adding:
            generations = [
                Generation(
                    prompt=prompt,
                    token_ids=tuple(token_ids),
                    logprobs=tuple(logprobs),
                    stop_reason="stopped",
                    text="",
                )
                for prompt, token_ids, logprobs in zip(
                    self._prompts, self._token_ids, self._logprobs, strict=True
                )
            ]
            return self._version, generations, self._trace

    def _build(self, generations: Sequence[Generation], trace: TraceRecorder) -> Recorded:
        # Only what is new since the last look leaves the device and is looked through.
        self._merged = self._merged.merged(trace.copy(start=self._n_merged))
        self._n_merged = len(trace)
        whole = self._merged.table(
            self._names,
            generations,
            samples=[str(place) for place in range(len(self._rows))],
            scenarios=[row.scenario for row in self._rows],
            sides=[row.side for row in self._rows],
        )
        return Recorded(
            n_tokens=tuple(len(generation.token_ids) for generation in generations),
            texts=tuple(self._lm.decode(generation.token_ids) for generation in generations),
            tables=tuple(
                _of_row(row, whole.filter(pc.field("sample") == str(place)))
                for place, row in enumerate(self._rows)
            ),
        )


class _TokenNames:
    """Names tokens as the model does, each but once: a table is made many times."""

    def __init__(self, lm: HookedLM) -> None:
        self._lm = lm
        self._known: dict[int, str] = {}

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Return one string per token."""
        if new := sorted(set(token_ids) - self._known.keys()):
            self._known.update(zip(new, self._lm.token_strings(new), strict=True))
        return [self._known[token_id] for token_id in token_ids]


def _of_row(row: LiveRow, table: pa.Table) -> pa.Table:
    """Name the sample; say that nothing was done where nothing was."""
    values = {"sample": row.label} | ({} if row.spec is not None else _UNSTEERED)
    for name, value in values.items():
        field = TRACE_SCHEMA.field(name)
        column = pa.repeat(pa.scalar(value, field.type), table.num_rows)
        table = table.set_column(TRACE_SCHEMA.get_field_index(name), field, column)
    return table
