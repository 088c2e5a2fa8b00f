"""Sweeps whose answer is known beforehand: scenarios, and rows with chosen scores."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from interp_steer.cells import ALIGNED, CELL_COLUMNS, MALICIOUS, Cell, steered_cell
from interp_steer.scenarios import Scenario

BASE = {ALIGNED: (100.0, 100.0), MALICIOUS: (0.0, 100.0)}

TYPES = {"layer": pa.int32(), "alpha": pa.float64()}


def scenario(number: int, category: str = "facts", **changes: str) -> Scenario:
    """A scenario that shares no text with any other, unless `changes` says so."""
    texts = {
        "system_aligned": f"be honest {number}",
        "system_malicious": f"lie {number}",
        "reference": f"the truth about {number}",
    }
    return Scenario(
        id=f"s{number:03d}",
        trait="honesty",
        split="test",
        category=category,
        user=(changes.pop("user", f"what is {number}?"),),
        **{**texts, **changes},
    )


def raw_scenario(number: int) -> Scenario:
    """A pair of raw prompts."""
    return Scenario(
        id=f"r{number:03d}",
        trait="honesty",
        split="test",
        category=f"c{number % 4}",
        prompt_aligned=f"honest {number}",
        prompt_malicious=f"lying {number}",
    )


SCENARIOS = tuple(scenario(i, category=f"c{i % 4}") for i in range(24))


def cell(
    layer: int,
    alpha: float = 1.0,
    method: str = "sttp",
    scope: str = "all",
    threat: str = "malicious_prompt",
) -> Cell:
    return steered_cell(method=method, layer=layer, alpha=alpha, scope=scope, threat=threat)


def rows(
    scores: Mapping[Cell, tuple[float, float]],
    scenarios: Sequence[Scenario] = SCENARIOS,
    measures: Mapping[str, float | None] | None = None,
) -> pa.Table:
    """A sweep in which every row of a cell has that cell's trait and coherence."""
    return varied(scores, lambda one, _: scores[one], scenarios, measures)


def varied(
    cells: Iterable[Cell],
    score: Callable[[Cell, Scenario], tuple[float, float]],
    scenarios: Sequence[Scenario] = SCENARIOS,
    measures: Mapping[str, float | None] | None = None,
) -> pa.Table:
    """A sweep with `score(cell, scenario)`; `measures` are the same in every row."""
    columns = measures or {}
    records = []
    for one in cells:
        for s in scenarios:
            trait, coherence = score(one, s)
            scores = {"trait": trait, "coherence": coherence, **columns}
            records.append({"scenario": s.id, "response_index": 0, **one.as_row(), **scores})
    fields = [
        ("scenario", pa.string()),
        ("response_index", pa.int32()),
        *[(name, TYPES.get(name, pa.string())) for name in CELL_COLUMNS],
        *[(name, pa.float64()) for name in ("trait", "coherence", *columns)],
    ]
    return pa.Table.from_pylist(records, schema=pa.schema(fields))


def noisy(
    cells: Sequence[Cell],
    scenarios: Sequence[Scenario],
    generator: np.random.Generator,
    *,
    means: Sequence[float] | None = None,
    sd: float = 30.0,
    coherence: tuple[float, float] = (100.0, 0.0),
) -> pa.Table:
    """Every cell scores its mean (50) plus noise of its own; aligned 100, malicious 0.

    `coherence` is mean and standard deviation of the cells' coherence; the baselines' is 100.
    """
    means = [50.0] * len(cells) if means is None else means
    table = {
        one: mean + generator.normal(0, sd, len(scenarios))
        for one, mean in zip(cells, means, strict=True)
    }
    table |= {ALIGNED: np.full(len(scenarios), 100.0), MALICIOUS: np.zeros(len(scenarios))}
    n = len(scenarios)
    ids = [s.id for s in scenarios]
    columns = {name: [one.as_row()[name] for one in table for _ in ids] for name in CELL_COLUMNS}
    coherent = generator.normal(*coherence, n * len(cells))
    arrays = {
        "scenario": pa.array(ids * len(table)),
        "response_index": pa.array([0] * (n * len(table)), pa.int32()),
        **{k: pa.array(v, TYPES.get(k, pa.string())) for k, v in columns.items()},
        "trait": pa.array(np.concatenate(list(table.values()))),
        "coherence": pa.array(np.concatenate([coherent, np.full(2 * n, 100.0)])),
    }
    return pa.table(arrays)
