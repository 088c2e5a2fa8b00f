"""The run directory: names of files, manifest and pins, one writer at a time, resume.

A run is one model and one trait. What its manifest *pins* is whatever changes a cell of the sweep
(model, tokenizer, template, scenarios, generation settings, seed, probes): a grid may grow or
shrink, a changed pin is refused by name, so that rows made under different conditions never stand
in one table. Pins say that two stages used the same things, not that those were the right ones.
"""

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from interp_steer.errors import RunError
from interp_steer.files import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_table,
    read_json,
    read_table,
    read_tensors,
    remove_leftovers,
)
from interp_steer.shards import join_shards, next_shard, read_shard, shard_paths

__all__ = [
    "Run",
    "atomic_file",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_table",
    "read_json",
    "read_table",
    "read_tensors",
]

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout, in every manifest."""

_TEXT_OR_NONE = (str, type(None))
_ENTRIES: Mapping[str, type | tuple[type, ...]] = {
    "pins": dict,
    "pins.scenarios": str,
    "pins.dtype": str,
    "pins.generation": dict,
    "pins.generation.seed": int,
    "pins.chat": (dict, type(None)),
    "trait": str,
    "model": dict,
    "model.model": str,
    "sources": dict,
    "sources.model": str,
    "sources.scenarios": str,
    "sources.revision": _TEXT_OR_NONE,
    "versions": dict,
    "sweep": dict,
    "sweep.selection": list,
    "sweep.grids": list,
    "sweep.config": dict,
    "sweep.config.judge": str,
    "sweep.config.judge_config": _TEXT_OR_NONE,
    "sweep.config.trait_description": _TEXT_OR_NONE,
}
"""Types of what stages read out of a manifest, where it is there."""


class Run:
    """One run directory. Constructing it touches no file; reading needs no lock."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock_depth = 0

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "Run":
        """Make the directory where it is missing and return its run.

        Raises:
            RunError: the path is a file, or cannot be made.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot make the run directory {run.path}: {error.strerror}; give another path"
            ) from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """Return the run at `path`, which must have a readable manifest.

        Raises:
            RunError: no directory, or no manifest, or one that does not fit; a folder of runs.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise RunError(
                f"there is no run directory {run.path}; make one with `interp-steer fit --out` or "
                "`interp-steer demo`"
            )
        if not run.manifest_file.exists() and (within := _runs_within(run.path)):
            raise RunError(
                f"{run.path} is a folder of runs ({', '.join(one.name for one in within)}); give "
                f"one of them, {within[0]} for instance"
            )
        _ = run.manifest
        return run

    @property
    def manifest_file(self) -> Path:
        """Config, seeds, versions, pins."""
        return self.path / "manifest.json"

    @property
    def responses_file(self) -> Path:
        """The training responses, one a row."""
        return self.path / "responses.parquet"

    @property
    def residuals_file(self) -> Path:
        """Pooled residuals of the training responses."""
        return self.path / "residuals.safetensors"

    @property
    def projections_file(self) -> Path:
        """Per-token projections of the training responses."""
        return self.path / "projections.parquet"

    @property
    def probes_file(self) -> Path:
        """Numbers of the probes; their vectors are in `probes.safetensors` beside it."""
        return self.path / "probes.json"

    @property
    def sweep_folder(self) -> Path:
        """Shards of generations."""
        return self.path / "sweep"

    @property
    def operating_points_file(self) -> Path:
        """The chosen configurations with their intervals."""
        return self.path / "operating_points.json"

    @property
    def tables_folder(self) -> Path:
        """The operating points as tables for print: CSV, LaTeX, Markdown."""
        return self.path / "tables"

    @property
    def traces_folder(self) -> Path:
        """Per-token traces."""
        return self.path / "traces"

    @property
    def summary_file(self) -> Path:
        """The headline numbers."""
        return self.path / "summary.json"

    @property
    def analyses_folder(self) -> Path:
        """Tables made from the run."""
        return self.path / "analyses"

    @property
    def figures_folder(self) -> Path:
        """Figures made from the run."""
        return self.path / "figures"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, read anew each time; asking it for an entry it lacks is a `RunError`.

        Raises:
            RunError: missing, damaged, of another format, without pins, or with an entry of
                another type.
        """
        file = self.manifest_file
        manifest = read_json(file, remedy=_REMEDY)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("pins"), dict):
            raise RunError(f"{file} is not a manifest (it has no pins); {_REMEDY}")
        if manifest.get("format") != FORMAT:
            raise RunError(
                f"{file} has format {manifest.get('format')!r:.60}, this version reads {FORMAT}; "
                f"{_REMEDY}"
            )
        for name, kind in _ENTRIES.items():
            _check_entry(manifest, name, kind, file)
        return _recorded(manifest, "", file)

    def pin(self, pins: Mapping[str, Any], **recorded: Any) -> None:
        """Add `pins` to the manifest (made where missing), after checking those that it has.

        Args:
            pins: by name, values of JSON; a nested mapping is one pin, compared as a whole.
            recorded: whatever else the manifest should say (config, versions), not compared.

        Raises:
            RunError: a pin that the run has with another value, by name; nothing is written.
        """
        with self.lock():
            manifest: dict[str, Any] = {"format": FORMAT, "pins": {}}
            if self.manifest_file.exists():
                manifest = self.manifest
            new = _as_json(pins, self.manifest_file)
            _refuse_changed(manifest["pins"], new, self.path)
            manifest |= _as_json(recorded, self.manifest_file)
            manifest["pins"] |= new
            atomic_write_json(self.manifest_file, manifest)

    def check_pins(self, pins: Mapping[str, Any]) -> None:
        """Refuse `pins` unless the manifest has every one of them with the same value.

        Raises:
            RunError: naming each pin that differs or is missing, with both values.
        """
        known, new = self.manifest["pins"], _as_json(pins, self.manifest_file)
        _refuse_changed(known, new, self.path)
        if missing := [name for name in new if name not in known]:
            raise RunError(
                f"the run {self.path} does not pin {', '.join(missing)}; it was made by another "
                "version or stage, so make it again in a new directory"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer of this run for the block; may be nested on one `Run` object.

        The kernel frees the lock when its process dies, however that happens. On entering, the
        temporary files of killed writers are removed.

        Raises:
            RunError: another writer holds the run; the message says which process.
        """
        if self._lock_depth == 0:
            with self._lock_file() as file:
                _acquire(file, self.path)
                for leftover in remove_leftovers(self.path):
                    logger.info("removed %s, left by a writer that was killed", leftover)
                yield from self._held()
        else:
            yield from self._held()

    def append_shard(self, table: pa.Table, folder: str = "sweep") -> Path:
        """Write `table` as the next `part-XXXXX.parquet` of `folder` and return its path.

        Raises:
            RunError: another writer holds the run, or the disk is full (no shard is added).
        """
        with self.lock():
            path = next_shard(self.path / folder)
            atomic_write_table(path, table)
        return path

    def read_shards(self, folder: str = "sweep") -> pa.Table | None:
        """Read every shard of `folder`, in the order they were written; None where there is none.

        Raises:
            RunError: a damaged shard, or one with other columns than the first, by name.
        """
        return join_shards({path: read_shard(path) for path in self.shards(folder)})

    def shards(self, folder: str = "sweep") -> list[Path]:
        """The shards of `folder`, in the order they were written; none where there is no folder."""
        return shard_paths(self.path / folder)

    @contextmanager
    def _lock_file(self) -> Iterator[BinaryIO]:
        Run.create(self.path)
        try:
            file = (self.path / ".lock").open("ab+")
        except OSError as error:
            raise RunError(
                f"cannot lock the run {self.path}: {error.strerror}; writing needs permission there"
            ) from error
        with file:
            yield file

    def _held(self) -> Iterator[None]:
        self._lock_depth += 1
        try:
            yield
        finally:
            self._lock_depth -= 1


def _runs_within(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("*/manifest.json"))


_REMEDY = "a run cannot be continued without it; make the run again in a new directory"


class _Recorded(dict[str, Any]):
    """An object of a manifest that says which entry is missing."""

    def __init__(self, entries: Mapping[str, Any], place: str, file: Path) -> None:
        super().__init__(entries)
        self._place, self._file = place, file

    def __missing__(self, name: str) -> Any:
        raise RunError(f"{self._file} does not say {self._place}{name}; {_REMEDY}")


def _recorded(value: Any, place: str, file: Path) -> Any:
    """`value` with every object in objects of it as a `_Recorded`."""
    if not isinstance(value, dict):
        return value
    inner = {name: _recorded(v, f"{place}{name}.", file) for name, v in value.items()}
    return _Recorded(inner, place, file)


def _check_entry(
    manifest: dict[str, Any], name: str, kind: type | tuple[type, ...], file: Path
) -> None:
    *parents, last = name.split(".")
    here: Any = manifest
    for parent in parents:
        here = here.get(parent) if isinstance(here, dict) else None
    if not isinstance(here, dict) or last not in here:
        return
    if not isinstance(here[last], kind) or isinstance(here[last], bool):
        raise RunError(
            f"{file} has {name} {here[last]!r:.60}, which is of another type than it was written "
            f"with; {_REMEDY}"
        )


def _acquire(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().decode(errors="replace").strip() or "unknown"
        raise RunError(
            f"another writer is at work on {path} ({holder}); wait for it or stop it, or write to "
            "another directory"
        ) from error
    with suppress(OSError):  # only the message of a refusal needs it
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}".encode())
        file.flush()


def _as_json(pins: Mapping[str, Any], path: Path) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(pins), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} takes values of JSON only: {error}") from error


def _refuse_changed(known: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    changed = [name for name in new if name in known and new[name] != known[name]]
    if changed:
        differences = "; ".join(
            text for name in changed for text in _differences(name, known[name], new[name])
        )
        raise RunError(
            f"the run {path} was made with other settings: {differences}. Use the run's values, or "
            "start a new run directory"
        )


def _differences(name: str, known: Any, new: Any) -> Iterator[str]:
    if isinstance(known, dict) and isinstance(new, dict):
        for key in known | new:
            if key not in known or key not in new or known[key] != new[key]:
                yield from _differences(
                    f"{name}.{key}", known.get(key, "(absent)"), new.get(key, "(absent)")
                )
    else:
        yield f"{name} is {known!r:.200} in the run, got {new!r:.200}"
