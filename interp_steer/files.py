"""Files that are either whole or refused.

A sweep runs for hours and is killed, or fills the disk. Everything is therefore written to a hidden
temporary file beside its destination, flushed to disk and then renamed: a reader sees the old
content or the new, never half of it. A writer holds a lock on its temporary file, which the kernel
drops when the writer dies; `remove_leftovers` deletes exactly the files that nobody holds. Reading
refuses what is damaged and names the file. A whole file is not therefore a right one: whether it
belongs to this model and these scenarios is for `runs` to say (pins).
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from interp_steer.errors import RunError

_TEMPORARY = ".*.tmp"


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path` when the block ends, and vanishes when it fails.

    Raises:
        RunError: the file cannot be written (no space, no permission); `path` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched. "
            "Make room (or fix permissions) and run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`, all or nothing (see `atomic_file`)."""
    with atomic_file(path) as file:
        file.write(content)


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` to `path` as standard JSON, all or nothing.

    Raises:
        RunError: `value` holds NaN, an infinity or an object that JSON does not know.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"cannot write {path}: {error}; standard JSON has no NaN, infinity or objects of "
            "Python; use None for what is undefined"
        ) from error
    atomic_write_bytes(path, (text + "\n").encode("utf-8"))


def atomic_write_table(
    path: str | os.PathLike[str], table: pa.Table, *, row_group_size: int | None = None
) -> None:
    """Write `table` to `path` as parquet with page checksums, all or nothing.

    Args:
        path: the file.
        table: what it holds.
        row_group_size: rows of a group, the least that a filter can leave out; 1 Mi by default.
    """
    with atomic_file(path) as file, parquet_writer(file, table.schema) as writer:
        writer.write_table(table, row_group_size)


def atomic_write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` to `path` as safetensors, all or nothing; `metadata` goes into its header."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write_bytes(path, safetensors_bytes(whole, dict(metadata or {})))


def parquet_writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer of row groups to `file` (for a table that never exists as a whole)."""
    return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)


def read_json(path: str | os.PathLike[str], *, remedy: str = "make it again") -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: what the refusal tells the reader to do.

    Raises:
        RunError: it is missing, or not whole; the message names it and gives the remedy.
    """
    with _refusing(Path(path), remedy):
        return json.loads(Path(path).read_bytes())


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    filters: Sequence[tuple[str, str, object]] | None = None,
    remedy: str = "make it again",
) -> pa.Table:
    """Read a parquet file, checking page checksums.

    Args:
        path: the file.
        columns: those to read; all by default. The others cost nothing.
        filters: (column, operator, value), all of which a row must pass; row groups whose
            statistics rule them out are not read.
        remedy: see `read_json`.

    Raises:
        RunError: it is missing, not whole, or lacks one of the columns.
    """
    names = None if columns is None else list(columns)
    with _refusing(Path(path), remedy):
        if filters:
            return pq.read_table(
                str(path), columns=names, filters=list(filters), page_checksum_verification=True
            )
        with pq.ParquetFile(str(path), page_checksum_verification=True) as file:
            if missing := set(names or ()) - set(file.schema_arrow.names):
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
            return file.read(columns=names)


def read_schema(path: str | os.PathLike[str], *, remedy: str = "make it again") -> pa.Schema:
    """The columns of a parquet file, without its rows; refuses like `read_json`."""
    with _refusing(Path(path), remedy), pq.ParquetFile(str(path)) as file:
        return file.schema_arrow


def read_tensors(
    path: str | os.PathLike[str], *, remedy: str = "make it again"
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors (CPU) and its metadata; refuses like `read_json`."""
    with _refusing(Path(path), remedy), safe_open(str(path), framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})


@contextmanager
def open_tensors(
    path: str | os.PathLike[str], *, remedy: str = "make it again"
) -> Iterator[safe_open]:
    """Yield a safetensors file to read parts of; what the block finds damaged is refused likewise.

    Raises:
        RunError: like `read_json`.
    """
    with _refusing(Path(path), remedy), safe_open(str(path), framework="pt") as file:
        yield file


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete, at any depth, the temporary files of writers that are gone; return their names."""
    return [path for path in sorted(folder.rglob(_TEMPORARY)) if _removed(path)]


def _removed(temporary: Path) -> bool:
    try:
        with temporary.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
    except OSError:  # still being written, renamed meanwhile, or not ours to delete
        return False
    return True


@contextmanager
def _refusing(path: Path, remedy: str) -> Iterator[None]:
    if not path.is_file():
        raise RunError(f"there is no file {path}; {remedy}")
    try:
        yield
    except (pa.ArrowException, SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged or cut short ({type(error).__name__}: {error}); {remedy}"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
