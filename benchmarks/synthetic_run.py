"""A run directory of any size without a model, through the library's own writers and schemas.

What reads a run (figures, the explorer) must stay quick on runs of large models, which nobody can
make on a laptop. This writes one that is valid in every respect but one: texts, residuals,
projections and scores come from random generators. Probes are fitted to those residuals and
operating points chosen from those scores by the library itself. Live generation is refused, since
there is no such model. The same shape and seed give the same artifacts.

Command: python -m benchmarks.synthetic_run FOLDER [--layers 80] [--token-rows 5000000] ...
The default takes about a minute on two cores.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.synthetic_sweep import separation, sweep_tables
from benchmarks.synthetic_text import Texts, Wording
from benchmarks.synthetic_tokens import (
    N_PROMPT,
    Tokens,
    projection_tables,
    trace_table,
    with_prompt,
)
from interp_steer.analysis.run_rows import chosen_cells
from interp_steer.config import SamplingConfig, SweepConfig
from interp_steer.fit_stage import RESPONSE_SCHEMA, SIDES
from interp_steer.probes import ProbeSet, fit_probes
from interp_steer.projection_files import write_projections
from interp_steer.residuals import PooledResiduals, ResidualPair, save_residuals
from interp_steer.runs import Run, atomic_write_table
from interp_steer.scenarios import Scenario, save_scenarios, scenario_hash
from interp_steer.study import versions
from interp_steer.sweep_plan import (
    grid_cells,
    grid_record,
    planned_split,
    screen_blocks,
    sweep_record,
)
from interp_steer.sweep_stage import select
from interp_steer.trace_files import write_traces
from interp_steer.trace_stage import trace_name

SWEEP = SweepConfig(control_draws=0, extras=())
"""Default grids and scopes, two-fold, with nothing beside the operating points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a run is."""

    layers: int = 80
    """Layers, all of them probed and steered."""
    d_model: int = 512
    """Width of the residual stream."""
    responses: int = 100
    """Training responses, half of them on each side."""
    token_rows: int = 5_000_000
    """Rows of projections.parquet: layers x tokens of all training sequences."""
    test_scenarios: int = 56
    """Test scenarios; every cell answers each."""
    trace_rows: int = 5000
    """Rows of each operating point's traces, at least."""
    seed: int = 0
    """Seed of everything."""

    @property
    def n_tokens(self) -> int:
        """Tokens of a training sequence, on average."""
        return max(N_PROMPT + 4, self.token_rows // (self.layers * self.responses))


TINY = Shape(
    layers=3, d_model=16, responses=12, token_rows=3 * 12 * 60, test_scenarios=10, trace_rows=120
)
"""Made in about a second; for tests."""


def write_run(folder: Path, shape: Shape) -> Run:
    """Write a whole run into a new folder, stage by stage.

    Raises:
        RunError: the folder holds another run.
    """
    run, wording = Run.create(folder), Wording(shape.seed)
    n_train = shape.responses // 2
    scenarios = wording.scenarios(n_train=n_train, n_test=shape.test_scenarios)
    _start(run, scenarios, shape)
    responses = wording.responses(
        2 * n_train, sentences=_sentences(shape.n_tokens - N_PROMPT), seed=shape.seed
    )
    train = [scenario.id for scenario in scenarios if scenario.split == "train"]
    _write_responses(run, train, responses, shape)
    probes = _fit(run, train, shape)
    _write_projections(run, _sequences(train, responses, wording), probes, wording, shape)
    _sweep(run, scenarios, wording, shape)
    select(run)
    _trace(run, [s.id for s in scenarios if s.split == "test"], probes, wording, shape)
    return run


def _sentences(n_tokens: int) -> tuple[int, int]:
    """Bounds of the number of sentences whose tokens are so many on average (11 a sentence)."""
    mean = max(1, round(n_tokens / 11))
    return max(1, mean - mean // 2), mean + mean // 2 + 1


def _start(run: Run, scenarios: Sequence[Scenario], shape: Shape) -> None:
    path = run.path / "scenarios.jsonl"
    save_scenarios(path, scenarios)
    weights = hashlib.sha256(f"no weights, {shape}".encode()).hexdigest()
    model = {"weights": weights, "dtype": "float32", "tokenizer": None, "chat_template": None}
    run.pin(
        {
            **model,
            "scenarios": scenario_hash(scenarios),
            "generation": asdict(SamplingConfig(seed=shape.seed)),
            "responses_per_scenario": 1,
            "probe": "mean_difference",
        },
        trait=scenarios[0].trait,
        model={"model": f"synthetic-{shape.layers}-layers", **model},
        sources={"model": f"synthetic-{shape.layers}-layers", "scenarios": str(path.resolve())},
        versions=versions(),
    )


def _write_responses(run: Run, train: Sequence[str], said: Texts, shape: Shape) -> None:
    sides = [side for side in SIDES for _ in train]
    ids = [*train, *train]
    columns = {
        "response_id": [f"{name}/{side}/0" for name, side in zip(ids, sides, strict=True)],
        "scenario": ids,
        "side": sides,
        "response_index": np.zeros(len(ids), dtype=np.int32),
        "text": said.texts,
        "token_ids": said.token_ids,
        "stop_reason": ["stop_token"] * len(ids),
        "seed": [shape.seed] * len(ids),
    }
    atomic_write_table(run.responses_file, pa.table(columns, schema=RESPONSE_SCHEMA))


def _fit(run: Run, train: Sequence[str], shape: Shape) -> ProbeSet:
    """Residuals of both sides, apart by more where `separation` says so, and their probes."""
    generator = torch.Generator().manual_seed(shape.seed)
    layers = tuple(range(shape.layers))
    size = torch.tensor([4.0 + 0.4 * layer for layer in layers])[:, None]
    apart = torch.tensor([separation(layer, shape.layers) for layer in layers])[:, None]
    direction = torch.randn(shape.layers, shape.d_model, generator=generator)
    direction = direction / direction.norm(dim=-1, keepdim=True)

    def side(sign: int) -> PooledResiduals:
        noise = torch.randn(len(train), shape.layers, shape.d_model, generator=generator)
        values = size * (noise + sign * (0.4 + 3 * apart) * direction)
        n_tokens = torch.full((len(train),), shape.n_tokens - N_PROMPT)
        return PooledResiduals(values=values, layers=layers, n_tokens=n_tokens)

    provenance = run.manifest["pins"]
    pair = ResidualPair(aligned=side(1), malicious=side(-1), provenance=provenance)
    save_residuals(run.residuals_file, pair)
    probes = fit_probes(
        pair.aligned.values,
        pair.malicious.values,
        layers=layers,
        scenario_ids=(list(train), list(train)),
        method="mean_difference",
        seed=shape.seed,
        provenance=provenance,
    )
    probes.save(run.path)
    return probes


def _sequences(train: Sequence[str], said: Texts, wording: Wording) -> list[Tokens]:
    ids, ends = said.token_ids.values.to_numpy(), said.token_ids.offsets.to_numpy()
    return [
        with_prompt(wording, name, side, ids[ends[row] : ends[row + 1]])
        for row, (side, name) in enumerate((side, name) for side in SIDES for name in train)
    ]


def _write_projections(
    run: Run, sequences: Sequence[Tokens], probes: ProbeSet, wording: Wording, shape: Shape
) -> None:
    tables = projection_tables(sequences, probes, wording, seed=shape.seed)
    write_projections(run.projections_file, tables)


def _sweep(run: Run, scenarios: Sequence[Scenario], wording: Wording, shape: Shape) -> None:
    grid = grid_record(SWEEP, range(shape.layers))
    test = [scenario for scenario in scenarios if scenario.split == "test"]
    split = planned_split(test, SWEEP, seed=shape.seed)
    run.pin(
        {"judge": SWEEP.judge, "measures": {"judge_free": True, "embedder": None}},
        sweep=sweep_record(SWEEP, split, grid, before={}),
    )
    blocks = screen_blocks(grid_cells(grid), split)
    for table in sweep_tables(blocks, wording, n_layers=shape.layers, seed=shape.seed):
        run.append_shard(table)


def _trace(run: Run, test: Sequence[str], probes: ProbeSet, wording: Wording, shape: Shape) -> None:
    """One file an operating point, of as many samples as give the rows that are wanted."""
    for cell in sorted(chosen_cells(run), key=lambda cell: cell.label):
        sequences: list[Tokens] = []
        while sum(len(one.ids) for one in sequences) < shape.trace_rows:
            name = test[len(sequences) % len(test)]
            seed = shape.seed + len(sequences)
            said = wording.responses(1, sentences=(4, 12), seed=seed).token_ids.values.to_numpy()
            sequences.append(with_prompt(wording, name, "malicious", said))
        probe = probes.probe(cell.layer or 0)
        table = trace_table(cell, sequences, probe, wording, seed=shape.seed)
        write_traces(table, run.traces_folder / f"{trace_name(cell)}.parquet")


def main(argv: Sequence[str] | None = None) -> int:
    """Write a run; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic_run", description=__doc__)
    parser.add_argument("folder", type=Path, help="where; must not hold a run yet")
    for field in fields(Shape):
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=field.default)
    given = vars(parser.parse_args(argv))
    write_run(given.pop("folder"), Shape(**given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
