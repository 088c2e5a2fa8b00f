"""How much memory capturing residual streams needs while generating; `capture` has the ways.

- `capture_memory_vs_cache`, `capture_memory_vs_return_cache`: peak memory of that way above
  plain's, over that of pooled, each in a process of its own, the peak counted from after warming up
  (Linux: VmHWM of /proc). Pooled is counted as no less than the sums that it keeps. At two response
  lengths: its extra does not grow.

CPU alone; a smoke test has no numbers. What else a machine does is not in a process's peak.

Command: python -m benchmarks capture_memory. Takes half an hour, most of it for the larger model.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.ratios import BenchmarkError, Options, Ratio, at_least, measured, paired_ratio
from benchmarks.workloads import Workload, in_turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A way whose memory is compared with this library's."""

    claim: str
    """Of the ratio."""
    way: str
    """One of `WAYS`."""
    n_rows: int
    """Prompts of a batch."""


CACHED = Compared(claim="capture_memory_vs_cache", way="cached", n_rows=128)
RETURNED = Compared(claim="capture_memory_vs_return_cache", way="returned", n_rows=1)


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script; none on a GPU or in a smoke test."""
    if options.quick or torch.device(options.device).type != "cpu":
        return []
    found: list[Ratio] = []
    for work, settings in in_turn(options):
        n = settings.max_new_tokens
        lengths = {CACHED: (n, 2 * n), RETURNED: (128, 256)}
        found += [_memory(work, way, n, options) for way in lengths for n in lengths[way]]
    return found


def _memory(work: Workload, compared: Compared, n_tokens: int, options: Options) -> Ratio:
    ways = ("plain", "pooled", compared.way)
    peaks = {
        way: [_peak(work, way, compared.n_rows, n_tokens) for _ in range(min(3, options.runs))]
        for way in ways
    }
    kept = peaks["pooled"][0]["kept_bytes"]
    extra = {
        way: [
            max(float(kept), one["peak_bytes"] - plain["peak_bytes"])
            for one, plain in zip(peaks[way], peaks["plain"], strict=True)
        ]
        for way in ways[1:]
    }
    sizes = {way: sorted(values)[len(values) // 2] / 2**20 for way, values in extra.items()}
    case = (
        f"{work.name}, batch {compared.n_rows}, {n_tokens} tokens, all layers: "
        f"{sizes[compared.way]:.1f} MiB and {sizes['pooled']:.1f} MiB"
    )
    return measured(
        compared.claim,
        case,
        paired_ratio(extra[compared.way], extra["pooled"]),
        device=options.device,
        goal=at_least(5),
    )


def _peak(work: Workload, way: str, n_rows: int, n_tokens: int) -> dict[str, Any]:
    """Peak memory of one way, in a process of its own (`benchmarks.capture_peak`)."""
    command = [sys.executable, "-m", "benchmarks.capture_peak", str(work.model), way]
    done = subprocess.run(
        [*command, str(n_rows), str(n_tokens)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{way} of {work.name} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
