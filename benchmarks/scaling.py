"""How cost grows: with layers, rows, tokens and the number of responses.

Every ratio is the time at one size over that at the size before, on the same weights or weights
drawn alike:

- `scaling_layers`: generation with all residuals pooled, on 4, 8, 16 and 32 layers of d_model 256.
- `scaling_rows`: steered generation of 1, 4, 16, 64 and 256 rows (the bundled model).
- `scaling_tokens`: likewise of 32, 64, 128 and 256 tokens.
- `scaling_responses`: probes of one layer of d_model 4096 from 25, 50, 100, 200 and 400 responses a
  class, cross-fitting included.

The goal is that no curve is steeper than its axis: layers, rows and tokens at most linear, with a
tenth of slack; responses at most quadratic as long as they are fewer than dimensions (the Gram
matrix of n responses is n by n). What that means for a large model is in docs/scaling.md.

Command: python -m benchmarks scaling [--device cuda] [--quick]. Takes a minute and more
a curve (`--seconds`).
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.generation import Batch, unstopped
from benchmarks.ratios import Options, Ratio, at_most, interleaved, measured, paired_ratio
from benchmarks.workloads import bundled, random_llama
from interp_steer.model import HookedLM
from interp_steer.organism import scenarios_path
from interp_steer.probes import fit_probes
from interp_steer.residuals import PooledCapture
from interp_steer.sampling import GenerationSettings
from interp_steer.scenarios import load_scenarios

LAYERS, ROWS, TOKENS = (4, 8, 16, 32), (1, 4, 16, 64, 256), (32, 64, 128, 256)
RESPONSES = (25, 50, 100, 200, 400)
"""A class."""
SLACK = 1.1


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script."""
    found = list(_of_layers(options))
    with tempfile.TemporaryDirectory() as folder:
        work = bundled(Path(folder), options)
        settings = replace(work.study.settings, max_new_tokens=6 if options.quick else 32)
        batch = Batch(work=work, n_rows=16, settings=settings)
        rows, tokens = _fewer(ROWS, options), _fewer(TOKENS, options)
        wider = {n: replace(batch, n_rows=n) for n in rows}
        found += _curve("scaling_rows", "rows", {n: _steered(b) for n, b in wider.items()}, options)
        longer = {n: replace(batch, settings=replace(settings, max_new_tokens=n)) for n in tokens}
        contestants = {n: _steered(b) for n, b in longer.items()}
        found += _curve("scaling_tokens", "tokens of 16 rows", contestants, options)
    return found + list(_of_responses(options))


def _steered(batch: Batch) -> Callable[[], object]:
    return lambda: batch.ours("sttp", 12.0)


def _of_layers(options: Options) -> Iterator[Ratio]:
    """Generation with every layer pooled, on models that differ in depth alone."""
    scenarios = load_scenarios(scenarios_path("honesty"))[:16]
    settings = GenerationSettings(max_new_tokens=4 if options.quick else 24, temperature=0.7)

    def pooled(lm: HookedLM) -> Callable[[], object]:
        prompts = [lm.tokenize(scenario.prompt("malicious")) for scenario in scenarios]
        keys = [str(row) for row in range(len(prompts))]

        def run() -> None:
            capture = PooledCapture(len(prompts), layers=range(lm.n_layers))
            with unstopped(lm), lm.hooks(capture.hooks()):
                lm.generate(prompts, settings, sample_keys=keys)

        return run

    with tempfile.TemporaryDirectory() as folder:
        contestants = {}
        for n in _fewer(LAYERS, options):
            path = Path(folder) / str(n)
            random_llama(path, hidden_size=256, intermediate_size=688, num_hidden_layers=n)
            contestants[n] = pooled(HookedLM.load(path, device=options.device))
        yield from _curve("scaling_layers", "layers, all pooled, 16 rows", contestants, options)


def _of_responses(options: Options) -> Iterator[Ratio]:
    """Probes of one layer from more and more responses."""
    d_model = 128 if options.quick else 4096
    most = max(_fewer(RESPONSES, options))
    generator = torch.Generator().manual_seed(0)
    malicious = torch.randn(most, 1, d_model, generator=generator) * 3 + 5
    aligned = malicious + torch.randn(d_model, generator=generator) / 4
    ids = [str(row) for row in range(most)]

    def fitted(n: int) -> Callable[[], object]:
        return lambda: fit_probes(
            aligned[:n], malicious[:n], layers=[0], scenario_ids=(ids[:n], ids[:n])
        )

    contestants = {n: fitted(n) for n in _fewer(RESPONSES, options)}
    where = f"responses a class, one layer of d_model {d_model}"
    yield from _curve("scaling_responses", where, contestants, options, power=2)


def _fewer(sizes: tuple[int, ...], options: Options) -> tuple[int, ...]:
    return sizes[:2] if options.quick else sizes


def _curve(
    claim: str,
    axis: str,
    contestants: Mapping[int, Callable[[], object]],
    options: Options,
    *,
    power: int = 1,
) -> list[Ratio]:
    """Time at every size over that at the size before."""
    for run in contestants.values():
        run()
    counted = {str(n): _counting(run) for n, run in contestants.items()}
    rates = interleaved(counted, runs=options.runs, seconds=options.seconds, device=options.device)
    return [
        measured(
            claim,
            f"{small} to {large} {axis}",
            paired_ratio(rates[str(small)], rates[str(large)]),
            device=options.device,
            goal=None if options.quick else at_most(round((large / small) ** power * SLACK, 2)),
        )
        for small, large in pairwise(contestants)
    ]


def _counting(run: Callable[[], object]) -> Callable[[], float]:
    """One unit of work."""

    def once() -> float:
        run()
        return 1.0

    return once
