"""Paired ratios with intervals, and the record that every benchmark writes.

Two programs are timed alternately, so that whatever else the machine does slows both. Each run
gives one ratio of their rates; the benchmark's is the median of these, its interval the percentile
bootstrap of that median over runs. The interval says how repeatable the ratio is on this machine in
this hour, and nothing about another machine.
"""

import gc
import itertools
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp_steer.errors import InterpSteerError
from interp_steer.study import versions

N_RESAMPLES = 2000
"""Bootstrap samples behind an interval."""


class BenchmarkError(InterpSteerError):
    """Contestants that did not do the same work, or a result that is no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a benchmark script is told."""

    device: str = "cpu"
    """Where models run."""
    runs: int = 5
    """Paired runs behind each ratio, at least."""
    seconds: float = 0.0
    """Time spent on the runs behind a ratio, at least: where turns are short there are more."""
    quick: bool = False
    """A smoke test: tiny sizes, numbers that mean nothing."""
    models: tuple[str, ...] = ()
    """Names of the workloads, where a script has several; all without any."""
    batches: tuple[int, ...] = ()
    """Rows generated together, where a script tries several; all without any."""

    @property
    def is_partial(self) -> bool:
        """Whether some cases of a claim are left out."""
        return bool(self.models or self.batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a claim sets out to reach."""

    text: str
    """As the table shows it, e.g. ">= 2.5x"."""
    least: float = 0.0
    """Least median ratio."""
    most: float = math.inf
    """Largest median ratio."""

    def holds(self, median: float) -> bool:
        """Whether a median ratio reaches it."""
        return self.least <= median <= self.most


def at_least(ratio: float) -> Goal:
    """The goal of being `ratio` times faster, or smaller."""
    return Goal(text=f">= {ratio:g}x", least=ratio)


def at_most(ratio: float) -> Goal:
    """The goal of an overhead: at most `ratio` times the limit's time, or size."""
    return Goal(text=f"<= {ratio:g}x", most=ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One line of a result; `as_record` is its form in the JSON list."""

    claim: str
    """What is compared, e.g. sweep_vs_loop."""
    case: str
    """On what."""
    ratio: float
    """Median of the paired ratios. Of a peer above 1 where this library is faster or smaller; an
    overhead is this library's time, or size, over the limit's."""
    interval: tuple[float, float]
    """95 % bootstrap interval of that median."""
    goal: str | None
    """Text of the goal, None where none is set."""
    holds: bool | None
    """Whether the median reaches the goal; None without one."""
    runs: int
    """Paired runs."""
    device: str
    """Where it was measured."""
    versions: Mapping[str, str]
    """Of Python and the packages that matter."""

    def as_record(self) -> dict[str, Any]:
        """The ratio in values of JSON."""
        return {**asdict(self), "interval": list(self.interval)}


def measured(
    claim: str, case: str, paired: "PairedRatio", *, device: str, goal: Goal | None = None
) -> Ratio:
    """The line of a claim from its paired ratio."""
    return Ratio(
        claim=claim,
        case=case,
        ratio=paired.median,
        interval=paired.interval,
        goal=None if goal is None else goal.text,
        holds=None if goal is None else goal.holds(paired.median),
        runs=paired.runs,
        device=device_name(device),
        versions=versions(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRatio:
    """Median of paired ratios."""

    median: float
    """The median."""
    interval: tuple[float, float]
    """Its 95 % percentile bootstrap interval."""
    runs: int
    """Pairs."""


def paired_ratio(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> PairedRatio:
    """Median over runs of ours / theirs, with the bootstrap interval of that median.

    Args:
        ours: rates (units a second) of this library, one a run.
        theirs: rates of the other, from the same runs in the same order.
        seed: of the resampling.

    Raises:
        BenchmarkError: no runs, unequal numbers, or a rate that is not a positive number.
    """
    if len(ours) != len(theirs) or not ours:
        raise BenchmarkError(
            f"paired runs need as many rates on both sides and at least one, got {len(ours)} and "
            f"{len(theirs)}; time both in every run"
        )
    if bad := [rate for rate in (*ours, *theirs) if not (math.isfinite(rate) and rate > 0)]:
        raise BenchmarkError(f"a rate must be a positive number, got {bad[0]}")
    ratios = np.asarray(ours, dtype=np.float64) / np.asarray(theirs, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(ratios), size=(N_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return PairedRatio(
        median=float(np.median(ratios)), interval=(float(low), float(high)), runs=len(ratios)
    )


Contestant = Callable[[], float]
"""Does its work once and returns how many units that was (rows, tokens)."""


def interleaved(
    contestants: Mapping[str, Contestant],
    *,
    runs: int,
    seconds: float = 0.0,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Units a second of every contestant in every run.

    In each run all take their turn, the first one moving on by one from run to run, so that none is
    always measured on a warmer machine. Nothing is warmed up here.

    Args:
        contestants: by name.
        runs: turns of each, at least.
        seconds: of all turns together, at least; a run that has begun is finished.
        device: a GPU's queue is emptied before the clock is read.
        clock: seconds, rising.
    """
    names, rates = list(contestants), {name: [] for name in contestants}
    spent = 0.0
    for run in itertools.count():
        if run >= runs and spent >= seconds:
            break
        first = run % len(names)
        for name in (*names[first:], *names[:first]):
            gc.collect()
            _finish(device)
            started = clock()
            units = contestants[name]()
            _finish(device)
            took = clock() - started
            spent += took
            rates[name].append(units / took)
    return rates


def _finish(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: str) -> str:
    """The hardware behind a torch device, as results name it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {torch.get_num_threads()} threads"


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8") if listed.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def slug(text: str) -> str:
    """`text` as part of a file name: lower case, anything else a hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


KEYS = tuple(field.name for field in fields(Ratio))
"""Keys of every record, all always present."""


def problems(records: Any) -> Iterator[str]:
    """What keeps `records` from being a result file, record by record."""
    if not isinstance(records, list):
        yield f"expected a list of records, got {type(records).__name__}"
        return
    for place, record in enumerate(records):
        if not isinstance(record, dict) or set(record) != set(KEYS):
            yield f"record {place}: expected the keys {', '.join(KEYS)}"
        else:
            yield from (f"record {place}: {problem}" for problem in _wrong(record))


def _wrong(record: dict[str, Any]) -> Iterator[str]:
    interval = record["interval"]
    if not (isinstance(interval, list) and len(interval) == 2):
        yield f"interval must be [low, high], got {interval!r}"
    elif not all(_is_positive(value) for value in (record["ratio"], *interval)):
        yield f"ratio and interval must be positive numbers, got {record['ratio']!r}, {interval!r}"
    if (record["goal"] is None) != (record["holds"] is None):
        yield f"holds must be null exactly where goal is, got {record['holds']!r}"
    if not (isinstance(record["runs"], int) and record["runs"] >= 1):
        yield f"runs must be a number from 1, got {record['runs']!r}"


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
