"""Token rows of a synthetic run: sequences, their projections at every layer, and traces.

Projections scatter about the means of the run's own probes and traces follow the run's own laws, so
that every view has something to show; they come from a random generator and from no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int

from benchmarks.synthetic_text import Wording
from interp_steer.cells import Cell
from interp_steer.interventions import move
from interp_steer.layer_probe import LayerProbe
from interp_steer.probes import ProbeSet
from interp_steer.projection_files import PROJECTION_SCHEMA
from interp_steer.specs import resolve
from interp_steer.sweep_rows import steering_spec
from interp_steer.trace_files import TRACE_SCHEMA

N_PROMPT = 46
"""Tokens of a prompt: BOS, then system and user text, each within two marks, and a header."""
SEGMENTS = np.array(["template", "system", "user", "response"], dtype=object)
BATCH = 32
"""Sequences of a batch, as in the library's own writer."""
TOKEN_SPREAD = 2.5
"""Spread of single tokens about a side's mean, in stds of its response means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of one prompt with its response."""

    scenario: str
    """Scenario id."""
    side: str
    """aligned or malicious."""
    ids: Int[np.ndarray, "token"]
    """Token ids."""

    @property
    def segments(self) -> Int[np.ndarray, "token"]:
        """Places in `SEGMENTS`."""
        prompt = [0, 0, *[1] * 19, 0, 0, *[2] * 21, 0, 0]
        return np.array([*prompt, *[3] * (len(self.ids) - N_PROMPT)])


def with_prompt(
    wording: Wording, scenario: str, side: str, response: Int[np.ndarray, "token"]
) -> Tokens:
    """A response behind a prompt of usual length."""
    system, user = wording.ids(18), wording.ids(20)
    ids = np.concatenate([[0, 1], system, [4, 2], user, [4, 3], response]).astype(np.int32)
    return Tokens(scenario=scenario, side=side, ids=ids)


def projection_tables(
    sequences: Sequence[Tokens], probes: ProbeSet, wording: Wording, *, seed: int
) -> Iterator[pa.RecordBatch]:
    """The rows that teacher-forcing the sequences would give, a batch of them at a time."""
    rng = np.random.default_rng([seed, 3])
    for start in range(0, len(sequences), BATCH):
        batch = sequences[start : start + BATCH]
        parts = [_projected(one, probes, wording, rng) for one in batch]
        yield from pa.concat_tables(parts).combine_chunks().to_batches()


def _projected(
    one: Tokens, probes: ProbeSet, wording: Wording, rng: np.random.Generator
) -> pa.Table:
    n, n_layers = len(one.ids), len(probes.layers)
    rho = np.concatenate([_drawn(probe, one, rng) for probe in probes.probes])
    columns = {
        "scenario": _same(one.scenario, n * n_layers),
        "side": _same(one.side, n * n_layers),
        "pos": np.tile(np.arange(n, dtype=np.int32), n_layers),
        "token": np.tile(wording.strings[one.ids], n_layers),
        "segment": np.tile(SEGMENTS[one.segments], n_layers),
        "layer": np.repeat(np.array(probes.layers, dtype=np.int32), n),
        "projection": rho.astype(np.float32),
        "response_index": np.zeros(n * n_layers, dtype=np.int32),
    }
    return pa.table(columns, schema=PROJECTION_SCHEMA)


def _drawn(probe: LayerProbe, one: Tokens, rng: np.random.Generator) -> np.ndarray:
    """Projections of the tokens of one sequence: the side's mean, more so in the response."""
    mean, sigma = {
        "aligned": (probe.mu_pos, probe.sigma_pos),
        "malicious": (probe.mu_neg, probe.sigma_neg),
    }[one.side]
    middle = (probe.mu_pos + probe.mu_neg) / 2
    centre = np.where(one.segments == len(SEGMENTS) - 1, mean, middle)
    return centre + TOKEN_SPREAD * sigma * rng.standard_normal(len(one.ids))


def trace_table(
    cell: Cell,
    sequences: Sequence[Tokens],
    probe: LayerProbe,
    wording: Wording,
    *,
    seed: int,
) -> pa.Table:
    """The trace that one configuration would leave on the sequences, edited by its own law."""
    rng = np.random.default_rng([seed, 4, probe.layer])
    parts = [
        _traced(cell, one, i, probe=probe, wording=wording, rng=rng)
        for i, one in enumerate(sequences)
    ]
    return pa.concat_tables(parts).combine_chunks()


def _traced(
    cell: Cell,
    one: Tokens,
    index: int,
    *,
    probe: LayerProbe,
    wording: Wording,
    rng: np.random.Generator,
) -> pa.Table:
    spec = steering_spec(cell)
    if spec is None:
        raise ValueError(f"{cell.label} steers nothing and leaves no trace")
    steering = resolve(spec, probe)
    n, is_response = len(one.ids), one.segments == len(SEGMENTS) - 1
    rho = _drawn(probe, one, rng).astype(np.float32)
    in_scope = np.ones(n, dtype=bool) if cell.scope == "all" else is_response
    moved = move(torch.from_numpy(rho), steering.law)
    shift = np.where(in_scope, moved.shift.numpy(), 0.0).astype(np.float32)
    fired = in_scope & moved.fired.numpy()
    logprob = pa.array((-rng.exponential(0.7, n)).astype(np.float32), mask=~is_response)

    def number(value: float | None) -> pa.Array:
        return pa.nulls(n, pa.float64()) if value is None else pa.array(np.full(n, value))

    columns = {
        "sample": _same(f"{one.scenario}/{cell.label}/{index}", n),
        "scenario": _same(one.scenario, n),
        "side": _same(one.side, n),
        "turn": np.zeros(n, dtype=np.int32),
        "pos": np.arange(n, dtype=np.int32),
        "token_id": one.ids,
        "token": wording.strings[one.ids],
        "segment": SEGMENTS[one.segments],
        "layer": np.full(n, probe.layer, dtype=np.int32),
        "method": _same(cell.method, n),
        "direction": _same(cell.direction, n),
        "scope": _same(cell.scope, n),
        "alpha": number(cell.alpha),
        "in_scope": in_scope,
        "projection_before": rho,
        "projection_after": rho + shift,
        "boundary": number(steering.boundary),
        "threshold": number(steering.threshold),
        "target": number(steering.target),
        "cap": number(steering.cap),
        "fired": fired,
        "capped": in_scope & moved.capped.numpy(),
        "delta_norm": np.abs(shift),
        "relative_norm": np.abs(shift) / (10 * np.float32(probe.sigma_pos) + np.abs(rho)),
        "logprob": logprob,
    }
    return pa.table(columns, schema=TRACE_SCHEMA)


def _same(value: str, n: int) -> pa.Array:
    return pa.repeat(value, n)
