"""What sharing prefixes saves, and what refilling a batch could save at most.

Question: how much faster is a pack in which rows with equal tokens go through the blocks below
their edits as one (`generate` with `share_prefixes`)? And is one more trick worth building: letting
new rows into a batch from which finished ones have left?

- `prefix_sharing`: seconds of `generate` without sharing over those with it, metered, for packs in
  scope `response`, in scope `all`, and half of each. Tokens must agree before anything is timed.
- `refill_bound`: an upper bound, never reached: every step is taken to cost as little a row as in a
  full batch: sum over steps of cost(rows alive) over (row-steps x cost(full) / full). Cost is
  measured without sharing at a few batch sizes and interpolated. What a refill itself costs (its
  prefill, cache copies) is left out.

On a CPU, processor seconds are counted, not those on the wall: other programs distort them less.

Command: python -m benchmarks prefix_sharing [--device cuda] [--quick]. Takes under three
minutes on two idle cores.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.ratios import (
    BenchmarkError,
    Options,
    Ratio,
    interleaved,
    measured,
    paired_ratio,
)
from benchmarks.workloads import Workload, bundled
from interp_steer.cells import Cell, steered_grid
from interp_steer.edit_meter import EditMeter
from interp_steer.sampling import Generation, GenerationSettings
from interp_steer.steering import SteeringPlan, steer
from interp_steer.sweep_rows import Block, SweepRow, sample_key, steering_spec

MAX_NEW_TOKENS = 96
"""The demo's limit: no reply of the bundled model's grammar is longer than 70 tokens."""
ALPHAS = {"swfc": (2.0, 4.0), "sttp": (12.0, 24.0), "stmp": (1.0, 2.0)}
"""Coefficients of the packs, in each of their four layers: 24 rows a scenario."""
LEAST_EQUAL = 0.99
"""Share of rows that must be the same with and without sharing before times are compared."""
BATCH_SIZES = (1.0, 0.75, 0.5, 0.25, 0.125, 0.03125)
"""Parts of the full batch at which a step's cost is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOfRows:
    """Rows that are generated together, again and again."""

    work: Workload
    """Model and probes."""
    rows: tuple[SweepRow, ...]
    """What is generated."""
    settings: GenerationSettings
    """Sampling."""

    def generate(self, *, share: bool) -> list[Generation]:
        """Generate all rows, metered as in a sweep."""
        lm = self.work.study.lm
        specs = {row.cell: steering_spec(row.cell, None) for row in self.rows}
        plan = SteeringPlan([specs[row.cell] for row in self.rows], self.work.probes)
        prompts = {
            row.scenario.id: lm.tokenize(row.scenario.prompt("malicious")) for row in self.rows
        }
        with steer(lm, plan, recorder=EditMeter()):
            return lm.generate(
                [prompts[row.scenario.id] for row in self.rows],
                self.settings,
                sample_keys=[sample_key(row.scenario.id, 0) for row in self.rows],
                share_prefixes=share,
            )

    def first(self, n_rows: int, n_tokens: int) -> "PackOfRows":
        """Return a pack of its first rows, with responses of at most `n_tokens`."""
        return replace(
            self,
            rows=self.rows[:n_rows],
            settings=replace(self.settings, max_new_tokens=n_tokens),
        )


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script.

    Raises:
        BenchmarkError: sharing changed the texts; nothing is timed then.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = bundled(Path(folder), options)
        shared = [_sharing(work, scopes, options) for scopes in SCOPES]
        return [*shared, _refill_bound(pack_of(work, ("all",), options), options)]


SCOPES = (("response",), ("all",), ("response", "all"))
"""Scopes of each pack."""


def pack_of(work: Workload, scopes: Sequence[str], options: Options) -> PackOfRows:
    """A pack as a sweep forms it: scenario by scenario, every cell of a scenario side by side."""
    lm, size = work.study.lm, work.size.batch_size
    middle = lm.n_layers // 2
    layers = range(max(0, middle - 2), middle + 2)
    cells: tuple[Cell, ...] = steered_grid(layers=layers, alphas=ALPHAS, scopes=scopes)
    per_scenario = [
        row for s in work.scenarios for row in Block(cells=cells, scenarios=(s,)).rows(1)
    ]
    settings = replace(work.study.settings, max_new_tokens=6 if options.quick else MAX_NEW_TOKENS)
    return PackOfRows(work=work, rows=tuple(per_scenario[:size]), settings=settings)


def _sharing(work: Workload, scopes: Sequence[str], options: Options) -> Ratio:
    pack = pack_of(work, scopes, options)
    share = check_same_rows(pack)
    rates = interleaved(
        {
            "shared": lambda: float(len(pack.generate(share=True))),
            "apart": lambda: float(len(pack.generate(share=False))),
        },
        runs=options.runs,
        device=options.device,
        clock=clock_of(options.device),
    )
    n_prompts = len({row.scenario.id for row in pack.rows})
    case = (
        f"{work.name}, {len(pack.rows)} rows of {n_prompts} prompts, scope "
        f"{' and '.join(scopes)}, {share:.1%} of rows equal"
    )
    paired = paired_ratio(rates["shared"], rates["apart"])
    return measured("prefix_sharing", case, paired, device=options.device)


def check_same_rows(pack: PackOfRows) -> float:
    """Return the share of rows that are the same with and without sharing (this also warms up).

    Raises:
        BenchmarkError: too few.
    """
    both = zip(pack.generate(share=True), pack.generate(share=False), strict=True)
    share = float(np.mean([a.token_ids == b.token_ids for a, b in both]))
    if share < LEAST_EQUAL:
        raise BenchmarkError(
            f"{share:.1%} of rows are the same with shared prefixes, expected at least "
            f"{LEAST_EQUAL:.0%}: sharing changes what is generated"
        )
    return share


def _refill_bound(pack: PackOfRows, options: Options) -> Ratio:
    seconds = [Seconds.of(pack, options) for _ in range(options.runs)]
    alive = float(np.mean([one.alive.mean() for one in seconds])) / len(pack.rows)
    case = (
        f"{pack.work.name}, {len(pack.rows)} rows, scope all, {alive:.0%} of rows alive in a step"
    )
    bounds = paired_ratio([one.refill_bound for one in seconds], [1.0] * len(seconds))
    return measured("refill_bound", case, bounds, device=options.device)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seconds:
    """Where the time of a pack goes."""

    prefill: float
    """Seconds of the prompts, the first draw included."""
    sizes: np.ndarray
    """Batch sizes, ascending, ..."""
    steps: np.ndarray
    """... and the seconds of one decoding step at each."""
    alive: np.ndarray
    """Rows still open at each step of the pack."""

    @classmethod
    def of(cls, pack: PackOfRows, options: Options) -> "Seconds":
        """Measure them."""
        n_rows = len(pack.rows)
        sizes = sorted({max(1, round(n_rows * part)) for part in BATCH_SIZES})
        most = min(9, pack.settings.max_new_tokens)
        timed = {
            (size, n): _seconds(pack.first(size, n), options.device)
            for size in sizes
            for n in (1, most)
        }
        steps = [max(1e-9, (timed[s, most] - timed[s, 1]) / (most - 1)) for s in sizes]
        lengths = np.array([len(made.token_ids) for made in pack.generate(share=False)])
        alive = (lengths[None] > np.arange(max(1, lengths.max()))[:, None]).sum(axis=1)
        return cls(
            prefill=max(1e-9, timed[n_rows, 1] - steps[-1]),
            sizes=np.array(sizes),
            steps=np.array(steps),
            alive=alive,
        )

    @property
    def decode(self) -> float:
        """Seconds of all steps, each at the cost of its rows alive."""
        return float(np.interp(self.alive, self.sizes, self.steps).sum())

    @property
    def refill_bound(self) -> float:
        """Time of the pack over its time with every step in a full batch."""
        full = self.alive.sum() * self.steps[-1] / self.sizes[-1]
        return (self.prefill + self.decode) / (self.prefill + float(full))


def _seconds(pack: PackOfRows, device: str) -> float:
    rates = interleaved(
        {"pack": lambda: float(len(pack.generate(share=False)))},
        runs=2,
        device=device,
        clock=clock_of(device),
    )
    return len(pack.rows) / max(rates["pack"])


def clock_of(device: str) -> Callable[[], float]:
    """Processor seconds where the work is done on the processor."""
    return time.process_time if torch.device(device).type == "cpu" else time.perf_counter
