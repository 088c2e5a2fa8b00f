"""What steering costs in time: latency and throughput, each method, with and without diagnostics.

Every prompt is timed under every configuration in turn, in an order that rotates from prompt to
prompt, and configurations are compared prompt by prompt: a machine that slows down half way slows
all of them. Steered texts have other lengths, so the ratio is of the time a token. Times are of
this machine and this load; the ratios travel better, but a small model overstates them, because
what a hook costs does not grow with the model as fast as the model does.

Source: arXiv 2604.08169v2, table C.2 (80 first turns of MT-Bench, greedy, at most 2048 new tokens,
2 warm-ups, device events).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.cells import CELL_COLUMNS, NEUTRAL, Cell
from interp_steer.intervals import bootstrap_interval
from interp_steer.model import Generation, GenerationSettings, HookedLM, Prompt, TokenizedPrompt
from interp_steer.statistics import Estimate, draw_resamples
from interp_steer.suites.configurations import in_order
from interp_steer.suites.evaluation import (
    Evaluation,
    cell_key,
    cell_record,
    study_pins,
)
from interp_steer.suites.question_files import read_mt_bench
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.speaking import Guard, guarded
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import (
    Summary,
    cells_of,
    configuration_columns,
    configuration_values,
    rows_of_cell,
    rows_of_cells,
)
from interp_steer.sweep_rows import CELL_FIELDS
from interp_steer.table_files import Column, Table
from interp_steer.traces import TraceRecorder

NAME = "cost"
WARM_UPS = 2
MAX_NEW_TOKENS = 2048
SCHEMA = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        *CELL_FIELDS,
        pa.field("diagnostics", pa.bool_(), nullable=False),
        pa.field("n_sequences", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)
"""mode: single (one prompt at a time) or batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedUnit:
    """Prompts that are timed together under one configuration."""

    item: str
    """Name of the prompts."""
    mode: str
    """single or batch."""
    prompts: tuple[TokenizedPrompt, ...]
    """One, or a batch."""
    cell: Cell
    """The configuration."""
    diagnostics: bool
    """Whether every token is traced meanwhile."""

    @property
    def key(self) -> tuple[object, ...]:
        """Item, mode, configuration, diagnostics."""
        return (self.item, self.mode, *cell_key(self.cell), self.diagnostics)


def timed(device: torch.device, work: Callable[[], list[Generation]]) -> tuple[float, int]:
    """Seconds that `work` takes, by device events on a GPU, and the tokens it made."""
    if device.type != "cuda":
        start = time.perf_counter()
        made = work()
        return time.perf_counter() - start, sum(len(one.token_ids) for one in made)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    made = work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000.0, sum(len(one.token_ids) for one in made)


class Stopwatch:
    """Times units of one subject; the first of a configuration waits for its warm-ups."""

    def __init__(self, subject: Subject, settings: GenerationSettings) -> None:
        self._subject, self._settings = subject, settings
        self._warm: set[tuple[object, ...]] = set()

    def make(self, units: Sequence[TimedUnit]) -> pa.Table:
        """One row a unit, timed in the order given."""
        rows = []
        for unit in units:
            state = (unit.mode, unit.cell, unit.diagnostics)
            for _ in range(WARM_UPS if state not in self._warm else 0):
                self._run(unit)
            self._warm.add(state)
            seconds, n_tokens = self._run(unit)
            rows.append(
                {
                    "item": unit.item,
                    "mode": unit.mode,
                    **cell_record(unit.cell),
                    "diagnostics": unit.diagnostics,
                    "n_sequences": len(unit.prompts),
                    "n_tokens": n_tokens,
                    "seconds": seconds,
                }
            )
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _run(self, unit: TimedUnit) -> tuple[float, int]:
        lm: HookedLM = self._subject.study.lm
        recorder = TraceRecorder() if unit.diagnostics else None
        guard = Guard.of([unit.cell] * len(unit.prompts), self._subject.probes)

        def work() -> list[Generation]:
            with guarded(lm, [guard], recorder=recorder):
                keys = [f"{unit.item} {row}" for row in range(len(unit.prompts))]
                made = lm.generate(unit.prompts, self._settings, sample_keys=keys)
            if recorder is not None:
                names = [unit.item] * len(made)
                recorder.table(
                    lm, made, samples=names, scenarios=names, sides=["neutral"] * len(made)
                )
            return made

        return timed(lm.device, work)


def run_cost(subject: Subject) -> tuple[Evaluation, Summary]:
    """Time what is missing, then summarise.

    Raises:
        EvaluationError: no prompts.
        RunError: rows were made under other settings, by name.
    """
    lm = subject.study.lm
    texts = _texts(subject)
    settings = replace(subject.settings(MAX_NEW_TOKENS), temperature=0.0)
    key = ("item", "mode", *CELL_COLUMNS, "diagnostics")
    evaluation = Evaluation(subject.study.run, NAME, schema=SCHEMA, key=key)
    evaluation.pin(
        {
            **study_pins(subject.study),
            "prompts": texts,
            "max_new_tokens": settings.max_new_tokens,
            "batch_size": subject.config.batch_size,
            "device": _device(lm),
        }
    )
    cells = (NEUTRAL, *subject.configurations.steered("neutral"))
    prompts = [lm.tokenize(Prompt.chat(text)) for text in texts]
    units = _units(prompts, cells, batch_size=subject.config.batch_size)
    n_states = len(units) // max(1, len({(unit.item, unit.mode) for unit in units}))
    evaluation.complete(units, Stopwatch(subject, settings).make, batch_size=n_states)
    frame = rows_of_cells(evaluation.rows(), cells)
    return evaluation, _summary(frame, subject, device=_device(lm))


def _texts(subject: Subject) -> list[str]:
    config = subject.config
    if config.questions is not None:
        texts = [question.turns[0] for question in read_mt_bench(config.questions)]
    else:
        chats = [s for s in subject.study.split("test") if not s.is_raw]
        texts = [scenario.user[0] for scenario in chats]
    texts = texts[: config.limit or 80]
    if not texts:
        raise EvaluationError("cost needs chat prompts: give --questions FILE")
    return texts


def _device(lm: HookedLM) -> str:
    if lm.device.type == "cuda":
        return torch.cuda.get_device_name(lm.device)
    return f"{lm.device.type}, {torch.get_num_threads()} threads"


def _units(
    prompts: Sequence[TokenizedPrompt], cells: Sequence[Cell], *, batch_size: int
) -> list[TimedUnit]:
    """Item by item, configurations in an order that rotates by one from item to item."""
    items = [(f"prompt {i}", "single", (prompt,)) for i, prompt in enumerate(prompts)]
    items += [
        (f"batch {start}", "batch", tuple(prompts[start : start + batch_size]))
        for start in range(0, len(prompts), batch_size)
    ]
    # Without a hook there is nothing to record.
    states = [(c, d) for c in cells for d in (False, True) if c.is_steered or not d]
    return [
        TimedUnit(item=item, mode=mode, prompts=together, cell=cell, diagnostics=diagnostics)
        for place, (item, mode, together) in enumerate(items)
        for cell, diagnostics in _rotated(states, place)
    ]


def _rotated(states: Sequence[tuple[Cell, bool]], by: int) -> list[tuple[Cell, bool]]:
    by %= len(states)
    return [*states[by:], *states[:by]]


def median_estimate(values: Sequence[float]) -> Estimate:
    """The median over items with its bootstrap interval; NaN items are left out."""
    known = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not len(known):
        nothing = np.full(1, math.nan)
        resamples = draw_resamples(["none"], n_resamples=1)
        return Estimate(value=math.nan, interval=bootstrap_interval(nothing, resamples))
    resamples = draw_resamples([str(i) for i in range(len(known))])
    order = np.argsort(known)
    # The weighted median of each resample: the first value at which half of the draws are reached.
    reached = resamples.weights[:, order].cumsum(axis=1) >= len(known) / 2
    draws = known[order][reached.argmax(axis=1)]
    interval = bootstrap_interval(draws, resamples)
    return Estimate(value=float(np.median(known)), interval=interval)


def _summary(frame: pd.DataFrame, subject: Subject, *, device: str) -> Summary:
    lines = []
    for mode in ("single", "batch"):
        own = rows_where(frame, frame["mode"] == mode)
        base = _times(own, NEUTRAL, diagnostics=False)
        for cell in in_order(cells_of(own)):
            for diagnostics in (False, True):
                times = _times(own, cell, diagnostics=diagnostics)
                if not times:
                    continue
                named = configuration_values(cell, subject.configurations)
                state = {"mode": mode, "diagnostics": "on" if diagnostics else "off"}
                lines.append({**named, **state, **_numbers(times, base), "n": len(times)})
    columns = (
        Column(name="mode", title="mode"),
        Column(name="diagnostics", title="diagnostics"),
        Column(name="latency", title="ms a call"),
        Column(name="per_token", title="ms a token", digits=2),
        Column(name="throughput", title="tokens/s"),
        Column(name="ratio", title="time a token, ratio to unsteered", digits=3),
        Column(name="n", title="n"),
    )
    table = Table(
        name="cost",
        caption=(
            f"Medians over prompts on {device}, greedy, prompt included, {WARM_UPS} warm-ups; "
            "ratios are medians of ratios prompt by prompt; 95 % bootstrap intervals."
        ),
        columns=(*configuration_columns(), *columns),
        rows=tuple(lines),
    )
    return Summary(tables=(table,))


def _times(frame: pd.DataFrame, cell: Cell, *, diagnostics: bool) -> dict[str, tuple[float, float]]:
    """By item, seconds and tokens of one configuration."""
    rows = rows_of_cell(frame, cell)
    rows = rows_where(rows, rows["diagnostics"] == diagnostics)
    pairs = zip(numbers(rows, "seconds"), numbers(rows, "n_tokens"), strict=True)
    return dict(zip(texts(rows, "item"), pairs, strict=True))


def _numbers(
    times: Mapping[str, tuple[float, float]], base: Mapping[str, tuple[float, float]]
) -> dict[str, Estimate]:
    per_token = {item: _a_token(*pair) for item, pair in times.items()}
    shared = [item for item in times if item in base]
    return {
        "latency": median_estimate([1000 * seconds for seconds, _ in times.values()]),
        "per_token": median_estimate([1000 * spent for spent in per_token.values()]),
        "throughput": median_estimate([1 / spent for spent in per_token.values()]),
        "ratio": median_estimate([per_token[item] / _a_token(*base[item]) for item in shared]),
    }


def _a_token(seconds: float, n_tokens: float) -> float:
    """Seconds a token; NaN where none was made."""
    return seconds / n_tokens if n_tokens else math.nan
