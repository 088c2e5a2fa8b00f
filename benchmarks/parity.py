"""How often a row's text depends on what it was packed with.

Question: the same rows, generated in packs of 512 and in small packs of other company: in what
share of them is every token the same? A row's random numbers do not depend on its pack, but batched
arithmetic rounds differently, and now and then a draw falls on the other side of the edge between
two tokens. The rate is measured in float32 and in bfloat16; baselines, both scopes and all three
methods are among the rows. Not a speed: `ratio` is the share of equal rows.

Fewer rows in bfloat16, which many CPUs only emulate.

Command: python -m benchmarks parity [--device cuda] [--quick].
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from scipy.stats import beta

from benchmarks.ratios import Goal, Options, Ratio, device_name
from benchmarks.sweep import NoJudge
from benchmarks.workloads import Workload, bundled
from interp_steer.cells import BASELINES
from interp_steer.model import HookedLM
from interp_steer.organism import MODEL_DIR
from interp_steer.packs import Pack, PackWorker, SweepSetting
from interp_steer.study import versions
from interp_steer.sweep_rows import Baselines, Block, SweepRow

SMALL_PACK = 8
"""Rows of a pack in the other packing."""
N_SCENARIOS = {torch.float32: 112, torch.bfloat16: 14}
"""Test scenarios that every cell answers."""
GOALS = {torch.float32: Goal(text=">= 99.9 % of rows", least=0.999), torch.bfloat16: None}

Tokens = dict[tuple[object, ...], tuple[int, ...]]
"""Response tokens by the row's key."""


def measure(options: Options) -> list[Ratio]:
    """The share of equal rows, by dtype."""
    with tempfile.TemporaryDirectory() as folder:
        work = bundled(Path(folder), options)
    return [parity(work, dtype, options) for dtype in GOALS]


def parity(work: Workload, dtype: torch.dtype, options: Options) -> Ratio:
    """The share of rows that are the same in two packings, with its 95 % interval (exact)."""
    setting = SweepSetting(
        lm=HookedLM.load(MODEL_DIR, device=options.device, dtype=dtype),
        probes=work.probes,
        judge=NoJudge(),
        generation=replace(work.study.settings, max_new_tokens=6 if options.quick else 96),
        judge_free=False,
    )
    scenarios = work.scenarios[: N_SCENARIOS[dtype]]
    block = Block(cells=(*BASELINES, *work.cells), scenarios=scenarios)
    rows = list(block.rows(1))
    together = _made(setting, rows, work.size.batch_size)
    # Strided, so that neighbours of one packing are strangers in the other.
    apart = _made(setting, [row for start in range(97) for row in rows[start::97]], SMALL_PACK)
    n_equal = sum(together[key] == apart[key] for key in together)
    n_tokens = sum(map(len, together.values()))
    share, goal = n_equal / len(rows), None if options.quick else GOALS[dtype]
    return Ratio(
        claim="sweep_row_parity",
        case=(
            f"{work.name}, {str(dtype).removeprefix('torch.')}, {len(rows)} rows ({n_tokens} "
            f"tokens) in packs of {work.size.batch_size} and of {SMALL_PACK}"
        ),
        ratio=share,
        interval=_interval(n_equal, len(rows)),
        goal=None if goal is None else goal.text,
        holds=None if goal is None else share >= goal.least,
        runs=1,
        device=device_name(options.device),
        versions=versions(),
    )


def _made(setting: SweepSetting, rows: Sequence[SweepRow], size: int) -> Tokens:
    worker = PackWorker(setting)
    made: Tokens = {}
    for start in range(0, len(rows), size):
        some = tuple(rows[start : start + size])
        table = worker.run(Pack(rows=some, baselines=Baselines.none()))
        ids = table["token_ids"].to_pylist()
        made |= {row.key: tuple(tokens) for row, tokens in zip(some, ids, strict=True)}
    return made


def _interval(n_equal: int, n: int) -> tuple[float, float]:
    """Clopper-Pearson, 95 %."""
    low = beta.ppf(0.025, n_equal, n - n_equal + 1) if n_equal else 0.0
    high = beta.ppf(0.975, n_equal + 1, n - n_equal) if n_equal < n else 1.0
    return float(low), float(high)
