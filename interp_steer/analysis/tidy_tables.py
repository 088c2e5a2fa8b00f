"""Tidy tables of a run: one parquet file, the same as CSV, and a sidecar that says where from.

An analysis answers one question with one or more tables in RUN/analyses/. The sidecar names the
command, its settings, the columns and the SHA-256 of every artifact that was read, so that a table
can be told from one made of other data; it holds no date, so that the same data give the same
bytes. That a table is up to date says nothing of whether the question was a good one.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from interp_steer.errors import InterpSteerError
from interp_steer.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_table,
    read_table,
)
from interp_steer.runs import Run
from interp_steer.study import versions


class AnalysisError(InterpSteerError):
    """A run that lacks what an analysis needs, or options that do not fit it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
    """What an analysis found, before anything is written."""

    tables: Mapping[str, pd.DataFrame]
    """Tables by suffix; the main one has the suffix ""."""
    inputs: tuple[Path, ...]
    """Files of the run, and folders of such, that were read."""
    notes: tuple[str, ...] = ()
    """What a reader must know: what was missing or left out."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings beside the command's options; values of JSON."""


def write_findings(
    run: Run, name: str, findings: Findings, *, command: str, config: Mapping[str, Any]
) -> list[Path]:
    """Write every table of `findings` as RUN/analyses/NAME[_SUFFIX].parquet, .csv and .json.

    Args:
        run: the run; it is locked meanwhile.
        name: the analysis.
        findings: what it found.
        command: the command that makes the tables again.
        config: its options, as JSON.

    Returns:
        The parquet files.

    Raises:
        AnalysisError: a table without rows.
        RunError: another writer holds the run, or the disk is full.
    """
    for suffix, frame in findings.tables.items():
        if frame.empty:
            raise AnalysisError(
                f"{_stem(name, suffix)} has no rows: the run {run.path} holds nothing that it "
                "could show; see what the analysis needs with --help"
            )
    places = {path.relative_to(run.path).as_posix(): path for path in findings.inputs}
    said = {
        "command": command,
        "analysis": name,
        "config": dict(config) | dict(findings.config),
        "notes": list(findings.notes),
        "inputs": {place: digest(path) for place, path in places.items() if path.exists()},
        "absent": sorted(place for place, path in places.items() if not path.exists()),
        "tables": [_stem(name, suffix) for suffix in findings.tables],
        "versions": versions(),
    }
    with run.lock():
        return [
            _write(run.analyses_folder / _stem(name, suffix), frame, said)
            for suffix, frame in findings.tables.items()
        ]


def _stem(name: str, suffix: str) -> str:
    return f"{name}_{suffix}" if suffix else name


def _write(stem: Path, frame: pd.DataFrame, said: Mapping[str, Any]) -> Path:
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    csv = text.getvalue().encode("utf-8", errors="backslashreplace")
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    note = {
        **said,
        "table": stem.name,
        "columns": {f.name: str(f.type) for f in table.schema},
        "n_rows": len(frame),
        "data_sha256": hashlib.sha256(csv).hexdigest(),
    }
    parquet = stem.with_name(f"{stem.name}.parquet")
    atomic_write_table(parquet, table)
    atomic_write_bytes(stem.with_name(f"{stem.name}.csv"), csv)
    atomic_write_json(stem.with_name(f"{stem.name}.json"), note)
    return parquet


def read_findings(run: Run, table: str) -> pd.DataFrame:
    """A table that an analysis wrote.

    Args:
        run: the run.
        table: NAME or NAME_SUFFIX.

    Raises:
        RunError: it is missing or damaged; the message names the command that makes it.
    """
    remedy = (
        f"make it with `python -m analyses.{table} {run.path}` (a table NAME_PART comes from NAME)"
    )
    return read_table(run.analyses_folder / f"{table}.parquet", remedy=remedy).to_pandas()


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's parquet files."""
    whole = hashlib.sha256()
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        whole.update(file.name.encode())
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: whole)
    return whole.hexdigest()


def require(path: Path, what: str, *, command: str) -> Path:
    """Return `path` where it exists.

    Args:
        path: file or folder of a run.
        what: what it holds, for the refusal.
        command: what makes it.

    Raises:
        AnalysisError: it is missing.
    """
    if not path.exists() or (path.is_dir() and not any(path.glob("*.parquet"))):
        raise AnalysisError(f"the run has no {what} ({path}); run `{command}` first")
    return path
