"""How much of a steered generation is spent in its hook, by a clock inside.

`generation` compares whole runs, and on a shared machine a hundredth is within what two runs differ
by. Here the clock is read before and after every call of the hook, in the model's forward pass,
with the caches as cold as they are there.

- `steer_hook_time`: time of a steered `generate` over what of it is not spent in the hook; SwFC,
  StTP and StMP at the middle layer, on every token.
- `trace_hook_time`: likewise with every token's trace recorded. The pass that a trace wants for the
  last token is no hook's time: `steer_traces_overhead` has it.

CPU alone: on a GPU a hook only queues its work.

Command: python -m benchmarks hook_time [--quick]. Takes ten minutes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.generation import METHODS, STEER, TRACE, Batch, batches
from benchmarks.ratios import (
    BenchmarkError,
    Options,
    PairedRatio,
    Ratio,
    interleaved,
    measured,
    paired_ratio,
)
from benchmarks.workloads import in_turn
from interp_steer.layer_hooks import LayerHook


@dataclass(slots=True)
class Spent:
    """Seconds, added up."""

    inside: float = 0.0
    """In hooks."""
    whole: list[float] = field(default_factory=list)
    """Of every run."""
    hooks: list[float] = field(default_factory=list)
    """In the hooks of every run."""

    def timed(self, run: Callable[[], float]) -> float:
        """Make a run, and keep how long it and its hooks took."""
        self.inside = 0.0
        with self.watching():
            started = time.perf_counter()
            made = run()
            self.whole.append(time.perf_counter() - started)
        if not self.inside:
            raise BenchmarkError("no hook was called; the run was to be steered")
        self.hooks.append(self.inside)
        return made

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block every call of a steering hook is clocked."""
        call = LayerHook.__call__

        def clocked(hook: LayerHook, *args: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(hook, *args)
            finally:
                self.inside += time.perf_counter() - started

        LayerHook.__call__ = clocked
        try:
            yield
        finally:
            LayerHook.__call__ = call

    def ratio(self) -> PairedRatio:
        """Whole runs over what of them was not spent in hooks."""
        outside = [one - hook for one, hook in zip(self.whole, self.hooks, strict=True)]
        return paired_ratio(self.whole, outside)


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script; none on a GPU."""
    if torch.device(options.device).type != "cpu":
        return []
    return [
        ratio
        for work, settings in in_turn(options)
        for n_rows in batches(options)
        for ratio in _shares(Batch(work=work, n_rows=n_rows, settings=settings), options)
    ]


def _shares(batch: Batch, options: Options) -> list[Ratio]:
    runs = {(m, a, t): Spent() for m, a in METHODS for t in (False, True)}

    def contestant(method: Any, alpha: float, *, traced: bool) -> Callable[[], float]:
        spent = runs[method, alpha, traced]
        return lambda: spent.timed(lambda: batch.ours(method, alpha, traced=traced))

    batch.ours(*METHODS[0])  # warms up
    interleaved(
        {f"{m} {t}": contestant(m, a, traced=t) for m, a, t in runs},
        runs=options.runs,
        seconds=options.seconds,
    )
    case = f"{batch.work.name}, batch {batch.n_rows}, {batch.settings.max_new_tokens} tokens"
    return [
        measured(
            "trace_hook_time" if traced else "steer_hook_time",
            f"{case}, {method}",
            spent.ratio(),
            device=options.device,
            goal=None if options.quick else TRACE if traced else STEER,
        )
        for (method, _, traced), spent in runs.items()
    ]
