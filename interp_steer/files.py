"""Files that are either whole or refused.

A sweep runs for hours and is killed, or fills the disk. Everything is therefore written to a hidden
temporary file beside its destination, flushed to disk and then renamed: a reader sees the old
content or the new, never half of it. A writer holds a lock on its temporary file, which the kernel
drops when the writer dies; `remove_leftovers` deletes exactly the files that nobody holds. Reading
refuses what is damaged and names the file: tables carry a checksum a page, tensors one each. JSON,
which people read and edit, carries none. A whole file is not therefore a right one: whether it
belongs to this model and these scenarios is for `runs` to say (pins).
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from interp_steer.errors import RunError
from interp_steer.input_files import parse_json

_TEMPORARY = ".*.tmp"
_CHECKSUMS = "interp_steer.sha256"
"""Entry of a safetensors header: JSON of tensor name to checksum, "" for the other metadata."""
_FEW_ROWS = 256
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of the disk is used up"}


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
            f"cannot write {path}: {_reason(error)}; what was there before is untouched. "
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
    """Write `tensors` to `path` as safetensors, all or nothing, with a checksum of each.

    Args:
        path: the file.
        tensors: by name.
        metadata: goes into the header, beside the checksums.
    """
    whole: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        whole[name] = plain.clone() if plain.data_ptr() in places else plain  # one tensor, twice
        places.add(plain.data_ptr())
    header = dict(metadata or {})
    sums = {name: _tensor_sum(tensor) for name, tensor in whole.items()}
    header[_CHECKSUMS] = json.dumps(sums | {"": _header_sum(header, whole)}, sort_keys=True)
    atomic_write_bytes(path, safetensors_bytes(whole, header))


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
        return parse_json(Path(path).read_bytes())


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    filters: Sequence[tuple[str, str, object]] | None = None,
    most_bytes: int | None = None,
    remedy: str = "make it again",
) -> pa.Table:
    """Read a parquet file, checking page checksums and that text is text.

    Args:
        path: the file.
        columns: those to read; all by default. The others cost nothing.
        filters: (column, operator, value), all of which a row must pass; row groups whose
            statistics rule them out are not read.
        most_bytes: refuse a file that unpacks to more, before it has; for files from elsewhere,
            where few bytes may stand for very many.
        remedy: see `read_json`.

    Raises:
        RunError: it is missing, not whole, or lacks one of the columns.
    """
    names = None if columns is None else list(columns)
    with _refusing(Path(path), remedy):
        if filters:
            table = pq.read_table(
                str(path), columns=names, filters=list(filters), page_checksum_verification=True
            )
        else:
            with pq.ParquetFile(str(path), page_checksum_verification=True) as file:
                if missing := set(names or ()) - set(file.schema_arrow.names):
                    raise ValueError(f"it has no column {', '.join(sorted(missing))}")
                if most_bytes is None:
                    table = file.read(columns=names)
                else:
                    table = _unpacked(file, names, most_bytes)
        table.validate(full=True)
        return table


def _unpacked(file: pq.ParquetFile, columns: list[str] | None, most_bytes: int) -> pa.Table:
    """The table of a file, read a little at a time until it is whole or too large."""
    batches: list[pa.RecordBatch] = []
    size = 0
    for batch in file.iter_batches(batch_size=_FEW_ROWS, columns=columns):
        size += batch.nbytes
        if size > most_bytes:
            raise ValueError(f"it unpacks to more than {most_bytes} bytes")
        batches.append(batch)
    schema = batches[0].schema if batches else file.schema_arrow
    return pa.Table.from_batches(batches, schema)


def read_schema(path: str | os.PathLike[str], *, remedy: str = "make it again") -> pa.Schema:
    """The columns of a parquet file, without its rows; refuses like `read_json`."""
    with _refusing(Path(path), remedy), pq.ParquetFile(str(path)) as file:
        return file.schema_arrow


def require_columns(
    table: pa.Table, wanted: Iterable[pa.Field], *, source: str | os.PathLike[str], remedy: str
) -> None:
    """Refuse a table that lacks a column, has it twice, of another type, or with gaps in it.

    Args:
        table: what was read; it may have further columns.
        wanted: columns with their types; gaps are allowed where a field is nullable.
        source: the file or folder, for the refusal.
        remedy: see `read_json`.

    Raises:
        RunError: naming every such column.
    """
    wrong = []
    for field in wanted:
        if table.column_names.count(field.name) != 1:
            wrong.append(field.name)
            continue
        column = table[field.name]
        if column.type != field.type or (column.null_count and not field.nullable):
            wrong.append(field.name)
    if wrong:
        raise RunError(
            f"{source} does not fit: missing, there twice, of another type or with gaps: "
            f"{', '.join(wrong)}; {remedy}"
        )


class TensorFile:
    """A safetensors file that is open: tensors whole, with their checksums compared, or in part."""

    def __init__(self, file: safe_open) -> None:
        self._file = file
        self.metadata: dict[str, str] = dict(file.metadata() or {})
        """What the writer put into the header."""
        self.names: list[str] = list(file.keys())
        """Names of the tensors."""
        stored = json.loads(self.metadata.pop(_CHECKSUMS, "{}"))
        if not isinstance(stored, dict):
            raise ValueError("its checksums are no object")
        self._sums = stored
        expected = _header_sum(self.metadata, self.names)
        if stored and stored.get("") != expected:
            raise ValueError("its header is not as it was written")

    def get_tensor(self, name: str) -> torch.Tensor:
        """Return a whole tensor on the CPU."""
        tensor = self._file.get_tensor(name)
        if self._sums and self._sums.get(name) != _tensor_sum(tensor):
            raise ValueError(f"the tensor {name[:60]!r} is not as it was written")
        return tensor

    def get_slice(self, name: str) -> Any:
        """Return a tensor to be indexed; only what is asked for is read, and no checksum of it."""
        return self._file.get_slice(name)


def read_tensors(
    path: str | os.PathLike[str], *, remedy: str = "make it again"
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors (CPU) and its metadata; refuses like `read_json`."""
    with open_tensors(path, remedy=remedy) as file:
        return {name: file.get_tensor(name) for name in file.names}, file.metadata


@contextmanager
def open_tensors(
    path: str | os.PathLike[str], *, remedy: str = "make it again"
) -> Iterator[TensorFile]:
    """Yield a safetensors file to read parts of; what the block finds damaged is refused likewise.

    Raises:
        RunError: like `read_json`.
    """
    with _refusing(Path(path), remedy), safe_open(str(path), framework="pt") as file:
        yield TensorFile(file)


def _tensor_sum(tensor: torch.Tensor) -> str:
    """Hash of type, shape and bytes of a tensor."""
    whole = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    if tensor.numel():
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _header_sum(metadata: Mapping[str, str], names: Iterable[str]) -> str:
    """Hash of a header's own entries and of which tensors there are."""
    text = json.dumps([dict(metadata), sorted(names)], sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


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
    try:
        if not path.is_file():
            raise RunError(f"there is no file {path}; {remedy}")
        yield
    except (pa.ArrowException, SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged or cut short ({type(error).__name__}: {str(error)[:300]}); {remedy}"
        ) from error


def _reason(error: OSError) -> str:
    """What went wrong, in the words of the system; that a disk is full in plain ones first."""
    said = error.strerror or str(error)
    return f"{_FULL[error.errno]} ({said})" if error.errno in _FULL else said


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
