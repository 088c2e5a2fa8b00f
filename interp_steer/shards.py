"""Shards: tables that grow by whole files, `part-00000.parquet` and so on, in one folder.

A reader may come at any moment while a sweep goes on; it sees the shards that are there and none
half written (`files`). The order of the shards is that of their numbers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from interp_steer.errors import RunError
from interp_steer.files import read_table


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, in the order they were written; none where there is no folder."""
    shards = folder.glob("part-*.parquet")
    numbered = [path for path in shards if path.stem[5:].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.stem[5:]))


def next_shard(folder: Path) -> Path:
    """Where the next shard goes."""
    numbers = [int(path.stem[5:]) for path in shard_paths(folder)]
    return folder / f"part-{max(numbers, default=-1) + 1:05d}.parquet"


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one shard, or some of its columns.

    Raises:
        RunError: it is damaged, or lacks one of the columns.
    """
    return read_table(path, columns=columns, remedy=_redo(path))


def shards_digest(folder: Path) -> str:
    """SHA-256 of the names and contents of a folder's shards."""
    whole = hashlib.sha256()
    for path in shard_paths(folder):
        whole.update(path.name.encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: whole)
    return whole.hexdigest()


def join_shards(tables: Mapping[Path, pa.Table]) -> pa.Table | None:
    """Shards as one table; None where there is none.

    Raises:
        RunError: a shard with other columns than the first, by name.
    """
    schemas = {path: table.schema for path, table in tables.items()}
    for path, schema in schemas.items():
        if schema != (first := next(iter(schemas.values()))):
            raise RunError(
                f"{path} has other columns than the shards before it "
                f"({schema.names}, expected {first.names}); {_redo(path)}"
            )
    return pa.concat_tables(tables.values()) if tables else None


def _redo(path: Path) -> str:
    return f"delete {path.name} and run the same command again: only its rows are redone"
