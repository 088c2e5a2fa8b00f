"""The columns of a trace table, and trace tables on disk.

Why apart: views and analyses need the columns and the files, not the recorder or a model. A file is
written whole or not at all, and one with other columns is refused by name.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from interp_steer.errors import SteeringError
from interp_steer.files import atomic_write_table, read_schema, read_table

TRACE_SCHEMA = pa.schema(
    [
        pa.field("sample", pa.string(), nullable=False),
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("pos", pa.int32(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("in_scope", pa.bool_(), nullable=False),
        pa.field("projection_before", pa.float32(), nullable=False),
        pa.field("projection_after", pa.float32(), nullable=False),
        pa.field("boundary", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64()),
        pa.field("target", pa.float64()),
        pa.field("cap", pa.float64()),
        pa.field("fired", pa.bool_(), nullable=False),
        pa.field("capped", pa.bool_(), nullable=False),
        pa.field("delta_norm", pa.float32(), nullable=False),
        pa.field("relative_norm", pa.float32(), nullable=False),
        pa.field("logprob", pa.float32()),
    ]
)
"""One row a token and steered layer, ordered by sequence, layer and position. `threshold` is null
for swfc (no gate), `target` but for sttp, `cap` where none is in force, `logprob` but for sampled
tokens; norms in activation units, `relative_norm` = |h' - h| / |h| (0 where h is 0)."""


SAMPLE_KEY = (
    "sample",
    "scenario",
    "side",
    "turn",
    "method",
    "direction",
    "layer",
    "scope",
    "alpha",
)
"""What names one stored sample at one steered layer."""

_REMEDY = "record the trace again"
_ROW_GROUP = 50_000
"""Rows of a group: a filter on `sample` reads the groups of that sample alone."""


def write_traces(table: pa.Table, path: Path | str) -> None:
    """Write a trace table as parquet; the file appears whole or not at all.

    Raises:
        SteeringError: if the table has not exactly the columns of `TRACE_SCHEMA`.
    """
    _check_schema(table.schema, "the table")
    atomic_write_table(path, table, row_group_size=_ROW_GROUP)


def read_traces(
    path: Path | str,
    *,
    columns: Sequence[str] | None = None,
    filters: Sequence[tuple[str, str, object]] | None = None,
) -> pa.Table:
    """Read a trace table, or some of its columns and rows.

    Args:
        path: the file.
        columns: those to read; all by default.
        filters: see `files.read_table`.

    Raises:
        RunError: if the file is missing or damaged.
        SteeringError: if it has not exactly the columns of `TRACE_SCHEMA`.
    """
    if columns is not None or filters:
        _check_schema(read_schema(path, remedy=_REMEDY), str(path))
    table = read_table(path, columns=columns, filters=filters, remedy=_REMEDY)
    if columns is None:
        _check_schema(table.schema, str(path))
    return table


def list_samples(path: Path | str) -> pa.Table:
    """The samples of a trace table, in its order.

    Returns:
        `SAMPLE_KEY`, then n_tokens, n_in_scope, n_fired and n_capped.

    Raises:
        RunError, SteeringError: see `read_traces`.
    """
    counted = ("in_scope", "fired", "capped")
    table = read_traces(path, columns=[*SAMPLE_KEY, *counted])
    found = table.group_by(list(SAMPLE_KEY), use_threads=False).aggregate(
        [([], "count_all"), *((name, "sum") for name in counted)]
    )
    sums = {f"n_{name}": found[f"{name}_sum"].cast(pa.int64()) for name in counted}
    keys = {name: found[name] for name in SAMPLE_KEY}
    return pa.table(keys | {"n_tokens": found["count_all"]} | sums)


def list_tokens(path: Path | str) -> dict[int, str]:
    """Readable strings of the tokens of a trace table, by token id.

    Raises:
        RunError, SteeringError: see `read_traces`.
    """
    table = read_traces(path, columns=["token_id", "token"])
    first = table.group_by("token_id", use_threads=False).aggregate([("token", "first")])
    return dict(zip(first["token_id"].to_pylist(), first["token_first"].to_pylist(), strict=True))


def _check_schema(schema: pa.Schema, name: str) -> None:
    """Refuse other columns or types than those of `TRACE_SCHEMA`, by name."""
    wrong = [
        field.name
        for field in TRACE_SCHEMA
        if schema.names.count(field.name) != 1 or schema.field(field.name).type != field.type
    ]
    extra = [column[:60] for column in schema.names if column not in TRACE_SCHEMA.names]
    if wrong or extra:
        raise SteeringError(
            f"{name} is no trace table: missing or of another type: {', '.join(wrong) or 'none'}; "
            f"unknown: {', '.join(extra) or 'none'}; make it with TraceRecorder.table"
        )
