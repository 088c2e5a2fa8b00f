"""Responses that a run has stored, read one scenario or one response at a time.

Three kinds: generations of the sweep (text and scores, no projections), traces of steered
generations (every token at the steered layer), and the training responses (every token at every
layer). All of them come out as tables that the token views can draw; nothing is read before a view
asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch
from jaxtyping import Float

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.cells import CELL_COLUMNS, NONE, Cell
from interp_steer.explorer.boundary_numbers import BoundaryChoice, TokenProjections
from interp_steer.interventions import move
from interp_steer.plots.figure_files import MissingStageError
from interp_steer.plots.from_tokens import BASELINE_TABLE, token_map_of
from interp_steer.plots.sources import RunSource
from interp_steer.plots.token_map import TokenMap
from interp_steer.trace_files import TRACE_SCHEMA

N_SCENARIOS_KEPT = 8
"""Scenarios whose generations stay in memory."""
KEY_MARK = "~"
"""Between the parts of a key in the URL."""


def cell_key(cell: Cell) -> str:
    """The configuration as one word of a URL."""
    row = cell.as_row()
    return KEY_MARK.join(
        "" if row[name] is None else f"{row[name]:g}" if name == "alpha" else str(row[name])
        for name in CELL_COLUMNS
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A stored response whose tokens can be shown."""

    key: str
    """Names it in the URL."""
    label: str
    """What a list shows (holds text of the run: untrusted)."""
    kind: str
    """trace or training."""
    scenario: str
    """What was answered."""
    edit: tuple[str, int, str] | None
    """Method, layer and scope of a trace; None for a training response."""
    where: tuple[Any, ...]
    """How it is found again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TracedProjections:
    """Tokens in scope of traced generations, at the steered layer."""

    before: Float[np.ndarray, "token"]
    """Rho as it arrived, activation units."""
    after: Float[np.ndarray, "token"]
    """Rho' as it left."""


class StoredResponses:
    """The stored responses of one state of a run."""

    def __init__(self, source: RunSource) -> None:
        self.source = source
        self._rows: dict[str, pd.DataFrame] = {}

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every configuration of the sweep, baselines first, then by method, layer and alpha.

        Raises:
            MissingStageError: the run has no sweep.
        """
        table = self._sweep().to_table(columns=list(CELL_COLUMNS))
        unique = table.group_by(list(CELL_COLUMNS)).aggregate([])
        found = [Cell.from_row(row) for row in unique.to_pylist()]
        return tuple(sorted(found, key=_cell_order))

    def rows_of(self, scenario: str) -> pd.DataFrame:
        """Every generation of one scenario, with its cell's key in the column `key`."""
        if scenario not in self._rows:
            is_mine = (pc.field("scenario") == scenario) & (pc.field("response_index") == 0)
            names = [name for name in self._sweep().schema.names if name != "token_ids"]
            frame = self._sweep().to_table(columns=names, filter=is_mine).to_pandas()
            cells = [Cell.from_row(row) for row in frame[list(CELL_COLUMNS)].to_dict("records")]
            while len(self._rows) >= N_SCENARIOS_KEPT:
                self._rows.pop(next(iter(self._rows)))
            self._rows[scenario] = frame.assign(key=[cell_key(cell) for cell in cells])
        return self._rows[scenario]

    @cached_property
    def swept_scenarios(self) -> tuple[str, ...]:
        """Scenarios of the sweep; the ones that the most configurations answered come first."""
        counted = self._sweep().to_table(columns=["scenario"])["scenario"].value_counts()
        pairs = zip(
            counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True
        )
        return tuple(name for name, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0])))

    def _sweep(self) -> pads.Dataset:
        folder = self.source.run.sweep_folder
        shards = sorted(folder.glob("part-*.parquet"))
        if not shards:
            raise MissingStageError(
                f"the run has no sweep ({folder})", command=self.source.command("sweep")
            )
        return pads.dataset([str(shard) for shard in shards], format="parquet")

    @cached_property
    def traces(self) -> tuple[StoredResponse, ...]:
        """Traced generations, one a sample and layer; none where there are no traces."""
        try:
            index = self.source.trace_index()
        except MissingStageError:
            return ()
        return tuple(_traced(row) for row in index.to_dict("records"))

    @cached_property
    def training(self) -> tuple[StoredResponse, ...]:
        """Training responses whose tokens were projected; none where there are none."""
        try:
            layer = self.source.probes.layers[0]
            names = ["scenario", "side", "response_index"]
            heads = self.source.projections(names, [("layer", "==", layer)]).drop_duplicates()
        except MissingStageError:
            return ()
        return tuple(_training(row) for row in heads.to_dict("records"))

    def find(self, key: str, edit: tuple[str, int, str] | None = None) -> StoredResponse | None:
        """The response that `key` names; None where there is none.

        Args:
            key: empty for the first trace of `edit`, or else the first response of all.
            edit: method, layer and scope.
        """
        every = (*self.traces, *self.training)
        if key:
            return next((one for one in every if one.key == key), None)
        return next((one for one in self.traces if one.edit == edit), every[0] if every else None)

    def tokens_of(self, one: StoredResponse, choice: BoundaryChoice) -> pa.Table:
        """Trace rows of a stored response.

        A training response was not steered: its rows say what `choice` would do to each token as it
        is (in scope, fired, capped), and that nothing was moved.
        """
        if one.kind == "trace":
            sample, layer, turn, file = one.where
            table = self.source.trace(sample, layer, file=file)
            return table.filter(pc.field("turn") == turn)
        return self._training_tokens(one, choice)

    def _training_tokens(self, one: StoredResponse, choice: BoundaryChoice) -> pa.Table:
        rows = self._training_rows(one)
        rows = rows_where(rows, rows["layer"] == choice.layer)
        return self.unsteered(rows, choice, sample=one.label)

    def baseline(self, scenario: str, side: str, choice: BoundaryChoice) -> pa.Table | None:
        """Unsteered test response with projections; None where the analysis was not run."""
        names = ["scenario", "side", "response_index", "pos", "token", "segment", "layer"]
        try:
            rows = self.source.analysis(BASELINE_TABLE, [*names, "projection"])
        except MissingStageError:
            return None
        rows = rows_where(rows, (rows["scenario"] == scenario) & (rows["side"] == side))
        rows = rows_where(rows, (rows["layer"] == choice.layer) & (rows["response_index"] == 0))
        if rows.empty:
            return None
        return self.unsteered(rows, choice, sample=f"{scenario} · {side} · unsteered")

    def unsteered(self, rows: pd.DataFrame, choice: BoundaryChoice, *, sample: str) -> pa.Table:
        """Projections of one unsteered sequence at one layer, as trace rows of no edit."""
        rows = rows.sort_values("pos")
        steering = choice.at(self.source.probe_layer(choice.layer))
        rho = numbers(rows, "projection")
        in_scope = TokenProjections(rows, layer=choice.layer).in_scope(choice.scope)
        fires = move(torch.from_numpy(rho), steering.law).fired.numpy() & in_scope
        n = len(rows)
        values: dict[str, Any] = {
            "sample": [sample] * n,
            "scenario": texts(rows, "scenario"),
            "side": texts(rows, "side"),
            "turn": [0] * n,
            "pos": rows["pos"].astype(int).tolist(),
            "token_id": [-1] * n,
            "token": texts(rows, "token"),
            "segment": texts(rows, "segment"),
            "layer": [choice.layer] * n,
            "method": [NONE] * n,
            "direction": [NONE] * n,
            "scope": [choice.scope] * n,
            "alpha": [0.0] * n,
            "in_scope": in_scope.tolist(),
            "projection_before": rho.tolist(),
            "projection_after": rho.tolist(),
            "boundary": [steering.boundary] * n,
            "threshold": [steering.threshold] * n,
            "target": [None] * n,
            "cap": [None] * n,
            "fired": fires.tolist(),
            "capped": [False] * n,
            "delta_norm": [0.0] * n,
            "relative_norm": [0.0] * n,
            "logprob": [None] * n,
        }
        return pa.table(values, schema=TRACE_SCHEMA)

    def _training_rows(self, one: StoredResponse) -> pd.DataFrame:
        scenario, side, index = one.where
        names = ["scenario", "side", "response_index", "pos", "token", "segment", "layer"]
        return self.source.projections(
            [*names, "projection"],
            [("scenario", "==", scenario), ("side", "==", side), ("response_index", "==", index)],
        )

    def layer_map(self, one: StoredResponse) -> TokenMap | None:
        """Projections of a response at every layer; None where only one layer is stored."""
        if one.kind != "training":
            return None
        return token_map_of(self.source, self._training_rows(one), one.label)

    def traced_projections(
        self, *, layer: int, method: str, scope: str
    ) -> TracedProjections | None:
        """Projections of traced tokens in scope; None where none was traced there."""
        mine = [one for one in self.traces if one.edit == (method, layer, scope)]
        parts = [self.source.trace(one.where[0], layer, file=one.where[3]) for one in mine]
        if not parts:
            return None
        whole = pa.concat_tables(parts).filter(pc.field("in_scope"))
        before, after = (
            whole[f"projection_{when}"].to_numpy().astype(np.float64)
            for when in ("before", "after")
        )
        return TracedProjections(before=before, after=after)


def _traced(row: dict[str, Any]) -> StoredResponse:
    layer, turn = int(row["layer"]), int(row["turn"])
    parts = ("trace", str(row["sample"]), str(layer), str(row["method"]), str(row["scope"]))
    return StoredResponse(
        key=KEY_MARK.join((*parts, str(turn), Path(str(row["file"])).stem)),
        label=(
            f"{row['scenario']} · {row['side']} · {row['method']} layer {layer} α "
            f"{row['alpha']:g} {row['scope']} · {row['n_fired']} of {row['n_tokens']} fired"
        ),
        kind="trace",
        scenario=str(row["scenario"]),
        edit=(str(row["method"]), layer, str(row["scope"])),
        where=(str(row["sample"]), layer, turn, str(row["file"])),
    )


def _training(row: dict[str, Any]) -> StoredResponse:
    scenario, side, index = str(row["scenario"]), str(row["side"]), int(row["response_index"])
    return StoredResponse(
        key=KEY_MARK.join(("training", scenario, side, str(index))),
        label=f"{scenario} · {side} · unsteered training response {index}",
        kind="training",
        scenario=scenario,
        edit=None,
        where=(scenario, side, index),
    )


_SIDE_ORDER = ("aligned", "malicious", "neutral", "defended")


def _cell_order(cell: Cell) -> tuple[Any, ...]:
    return (
        cell.is_steered,
        cell.control != NONE,
        not cell.is_usual_threat,
        _SIDE_ORDER.index(cell.side) if cell.side in _SIDE_ORDER else 9,
        cell.method,
        -1 if cell.layer is None else cell.layer,
        -1.0 if cell.alpha is None else cell.alpha,
        cell.scope,
        cell.threat,
        cell.control,
    )


def keyed(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Cells by their key."""
    return {cell_key(cell): cell for cell in cells}
