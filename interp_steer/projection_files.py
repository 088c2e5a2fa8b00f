"""The columns of projections.parquet, and how its rows are laid out on disk.

The table of a large model has millions of rows, and whoever reads it wants one layer at a time.
Rows are therefore written in stretches of about a million, layer by layer within each, one row
group a layer: a filter on `layer` then reads those groups alone. Files of earlier versions, in the
order of the sequences, hold the same rows and are read the same way, only more slowly.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from interp_steer.files import atomic_file, parquet_writer

PROJECTION_SCHEMA = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("pos", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("projection", pa.float32(), nullable=False),
        pa.field("response_index", pa.int32(), nullable=False),
    ]
)
"""Columns of projections.parquet; `pos` counts from 0 (BOS), `projection` is rho in activation
units, `segment` the lower-case name of `Segment`."""

STRETCH = 1_000_000
"""Rows that are gathered before they are written layer by layer."""


def write_projections(
    path: str | os.PathLike[str], batches: Iterable[pa.RecordBatch], *, stretch: int = STRETCH
) -> int:
    """Write rows of `PROJECTION_SCHEMA` as they come; the file appears when it is complete.

    Memory holds one stretch and one batch. Within a stretch rows keep their order in each layer.

    Args:
        path: the file.
        batches: rows in any order.
        stretch: rows that are gathered, at least, before they are written.

    Returns:
        The number of rows written.

    Raises:
        RunError: the file cannot be written.
    """
    n_rows = 0
    with atomic_file(Path(path)) as file, parquet_writer(file, PROJECTION_SCHEMA) as writer:
        for table in _stretches(batches, stretch):
            for group in _by_layer(table):
                writer.write_table(group, row_group_size=max(1, len(group)))
            n_rows += len(table)
    return n_rows


def _stretches(batches: Iterable[pa.RecordBatch], stretch: int) -> Iterator[pa.Table]:
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(map(len, gathered)) >= stretch:
            yield pa.Table.from_batches(gathered, PROJECTION_SCHEMA).combine_chunks()
            gathered = []
    if any(map(len, gathered)):
        yield pa.Table.from_batches(gathered, PROJECTION_SCHEMA).combine_chunks()


def _by_layer(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of each layer, layers in the order in which they come."""
    layers, first, of_row = np.unique(
        table["layer"].to_numpy(), return_index=True, return_inverse=True
    )
    order = np.argsort(of_row, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(of_row, minlength=len(layers)))[:-1])
    for place in np.argsort(first):
        yield table.take(pa.array(parts[place]))
