"""Sweep rows of a synthetic run: every cell of its grid on every test scenario, in shards.

Scores rise with dose and with how well a layer separates, coherence falls with overdose, and both
scatter by scenario and by row. Nothing of it is measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from benchmarks.synthetic_text import Texts, Wording
from interp_steer.cells import CELL_COLUMNS, Cell
from interp_steer.measures import MEASURE_COLUMNS
from interp_steer.sweep_rows import SWEEP_SCHEMA, Block, SweepRow

SENTENCES = (3, 14)
"""Sentences of a response, the upper limit left out: about 90 tokens, 450 characters."""
PACK = 512
"""Rows of a shard: the sweep's default."""
UNMEASURED = ("embedding_cosine", "fired_share_prefill", "kl_to_unsteered")
"""Measures that an ordinary sweep leaves null."""


def separation(layer: int, n_layers: int) -> float:
    """How well a layer separates, 0-1: best a little before the middle."""
    return float(np.exp(-(((layer / max(n_layers - 1, 1) - 0.45) / 0.2) ** 2)))


def sweep_tables(
    blocks: Sequence[Block], wording: Wording, *, n_layers: int, seed: int
) -> Iterator[pa.Table]:
    """Shards in the order in which a sweep makes them: baselines, then scenario by scenario."""
    rows = [row for block in blocks for row in block.rows(1)]
    rows.sort(key=lambda row: (row.wave, row.scenario.id))  # stable: cells keep their order
    for wave, members in groupby(rows, key=lambda row: row.wave):
        there = list(members)
        for start in range(0, len(there), PACK):
            some = there[start : start + PACK]
            yield _shard(some, wording, n_layers=n_layers, seed=(seed * 10 + wave) * 10**6 + start)


def _shard(rows: Sequence[SweepRow], wording: Wording, *, n_layers: int, seed: int) -> pa.Table:
    rng = np.random.default_rng([seed, 5])
    said = wording.responses(len(rows), sentences=SENTENCES, seed=seed)
    trait, coherence = (_scores(mean, rows, rng) for mean in _means(rows, n_layers))
    keys = [row.cell.as_row() for row in rows]
    columns = {
        "scenario": [row.scenario.id for row in rows],
        "response_index": np.zeros(len(rows), dtype=np.int32),
        **{name: [key[name] for key in keys] for name in CELL_COLUMNS},
        "response": said.texts,
        "token_ids": said.token_ids,
        "n_tokens": said.n_tokens.astype(np.int32),
        "stop_reason": np.where(rng.random(len(rows)) < 0.97, "stop_token", "length"),
        "judge": ["synthetic"] * len(rows),
        "trait": trait,
        "coherence": coherence,
        **_measures(rows, said, rng),
    }
    return pa.table(columns, schema=SWEEP_SCHEMA)


def _means(
    rows: Sequence[SweepRow], n_layers: int
) -> tuple[Float[np.ndarray, "row"], Float[np.ndarray, "row"]]:
    """Expected trait and coherence of every row."""
    dose = np.array([_dose(row.cell) for row in rows])
    apart = np.array([separation(row.cell.layer or 0, n_layers) for row in rows])
    weaker = np.array([0.8 if row.cell.scope == "response" else 1.0 for row in rows])
    steered = np.array([row.cell.is_steered for row in rows])
    aligned = np.array([row.cell.side == "aligned" for row in rows])
    trait = 8 + 88 / (1 + np.exp(-9 * (weaker * dose * apart - 0.35)))
    coherence = 98 - 70 * np.clip(weaker * dose - 0.55, 0, None) ** 1.5
    return (
        np.where(steered, trait, np.where(aligned, 96.0, 8.0)),
        np.where(steered, coherence, 98.0),
    )


def _dose(cell: Cell) -> float:
    """A coefficient as a share of the strongest usual one."""
    strongest = {"swfc": 5.0, "sttp": 36.0, "stmp": 4.0}
    return 0.0 if cell.alpha is None else cell.alpha / strongest[cell.method]


def _scores(
    mean: Float[np.ndarray, "row"], rows: Sequence[SweepRow], rng: np.random.Generator
) -> Float[np.ndarray, "row"]:
    """Whole numbers 0-100 about the mean; a scenario is as hard for every cell."""
    hard = {s: np.random.default_rng(list(s.encode())).normal() for s in _scenario_ids(rows)}
    level = np.array([hard[row.scenario.id] for row in rows])
    return np.clip(np.round(mean + 8 * level + 15 * rng.standard_normal(len(rows))), 0, 100)


def _scenario_ids(rows: Sequence[SweepRow]) -> set[str]:
    return {row.scenario.id for row in rows}


def _measures(
    rows: Sequence[SweepRow], said: Texts, rng: np.random.Generator
) -> Mapping[str, pa.Array]:
    """Measures without a judge: positive numbers of usual size, null where nothing is steered."""
    unsteered = np.array([not row.cell.is_steered for row in rows])
    edits = {name for name in MEASURE_COLUMNS if name.startswith(("target", "relative", "fired"))}

    def column(name: str) -> pa.Array:
        if name in UNMEASURED:
            return pa.nulls(len(rows), pa.float64())
        values = rng.beta(2, 3, len(rows)) * (40 if name.startswith("target") else 1)
        mask = unsteered if name in edits else said.n_tokens < 5
        return pa.array(values, mask=mask)

    return {name: column(name) for name in MEASURE_COLUMNS}
