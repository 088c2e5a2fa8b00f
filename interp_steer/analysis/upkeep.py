"""Keeping a run's analyses up to date: which of them are due, and making those again.

The scripts are the package `analyses`, beside the library and not in it (a wheel has none), so they
are found by name when they are wanted. An analysis is due where a table of it is missing, where
another version of this package made it, and where what it read is not what the run holds now, by
the hashes in its sidecar. That nothing is due says that the tables fit the run, not that they are
right.
"""

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import digest
from interp_steer.config import ModelPlace
from interp_steer.errors import InterpSteerError, RunError
from interp_steer.files import read_json
from interp_steer.runs import Run
from interp_steer.study import versions

_log = logging.getLogger(__name__)

DISTRIBUTION = "interp-steer"
"""Under which a sidecar names the version that made it."""
_ENTRIES: Mapping[str, type] = {
    "config": dict,
    "inputs": dict,
    "absent": list,
    "tables": list,
    "versions": dict,
}
"""Types of a sidecar's entries."""
_LONGEST = 200
PACKAGE = "analyses"
"""Where the scripts are."""
NOT_INSTALLED = (
    "these analyses are missing or out of date, and their scripts are not installed here (they are "
    "in the repository, not in the package): {names}; make them in a clone of it with "
    "`python -m analyses {run}`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """An analysis that was due and could not be made."""

    name: str
    """Its module."""
    why: str
    """What the run lacks and the command that makes it, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What became of the analyses that were asked for."""

    made: tuple[str, ...]
    """Those that were due and were made."""
    unanswered: tuple[Unanswered, ...]
    """Those that the run cannot answer."""
    notes: tuple[str, ...]
    """What a reader must know: the scripts are not there, or what an analysis said."""


def known_analyses() -> tuple[str, ...]:
    """The names of the scripts; none where they are not installed."""
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
        return ()
    # Any folder on the path may be called so.
    return tuple(getattr(package, "NAMES", ()))


def keep_up(
    run: Run,
    wanted: Sequence[str],
    *,
    place: ModelPlace | None = None,
    tell: Callable[[str], None] = _log.info,
) -> Upkeep:
    """Make those of the analyses `wanted` that are due.

    One that is made again keeps the options it was made with.

    Args:
        run: the run.
        wanted: names of analyses.
        place: where the model runs, for the analyses that load it; their own by default.
        tell: takes a line before and after each analysis.

    Returns:
        What was made and what could not be; never raises for what the run lacks.
    """
    digests = _Digests(run)
    due = {name: why for name in wanted if (why := _why_due(run, name, digests))}
    if due and not known_analyses():
        note = NOT_INSTALLED.format(names=", ".join(due), run=run.path)
        return Upkeep(made=(), unanswered=(), notes=(note,))
    made: list[str] = []
    unanswered: list[Unanswered] = []
    notes: list[str] = []
    for number, (name, why) in enumerate(due.items(), start=1):
        tell(f"analysis {number} of {len(due)}, {name}: {why}")
        started = monotonic()
        try:
            said = _make(run, name, place or ModelPlace())
        except InterpSteerError as error:
            unanswered.append(Unanswered(name=name, why=str(error)))
            tell(f"analysis {name}: not answered, {monotonic() - started:.1f} s")
        else:
            made.append(name)
            notes += [f"{name}: {note}" for note in said]
            tell(f"analysis {name}: done, {monotonic() - started:.1f} s")
    return Upkeep(made=tuple(made), unanswered=tuple(unanswered), notes=tuple(notes))


def why_due(run: Run, name: str) -> str | None:
    """Why an analysis is due; None where its tables fit the run."""
    return _why_due(run, name, _Digests(run))


class _Digests:
    """Hashes of a run's artifacts, each taken once; None where there is none."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[str, str | None] = {}

    def __getitem__(self, place: str) -> str | None:
        if place not in self._known:
            path = self._run.path / place
            is_there = path.is_file() or path.is_dir()  # and no device behind a link
            self._known[place] = digest(path) if is_there else None
        return self._known[place]


def _why_due(run: Run, name: str, digests: _Digests) -> str | None:
    said = _sidecar(run, name)
    stems = said.get("tables", [name])
    if not said or not all((run.analyses_folder / f"{s}.parquet").exists() for s in stems):
        return "not made yet"
    made_by = said.get("versions", {}).get(DISTRIBUTION)
    if "tables" not in said or made_by != versions()[DISTRIBUTION]:
        return "made by another version"
    inputs: Mapping[str, str] = said.get("inputs", {})
    absent: Sequence[str] = said.get("absent", ())
    if not all(_is_inside(place) for place in (*inputs, *absent)):
        return "made from files that are not the run's"
    changed = [place for place, was in inputs.items() if digests[place] != was]
    # A folder without tables counts as absent: a stage may have been asked for and made nothing.
    changed += [place for place in absent if _is_there(run.path / place)]
    return f"made before {', '.join(changed)} changed" if changed else None


def _is_inside(place: str) -> bool:
    """Whether a sidecar names a place below the run: it may come from anywhere."""
    parts = PurePosixPath(place).parts
    is_short = 0 < len(place) < _LONGEST and place.isprintable()
    return is_short and not {"/", "//", ".."} & set(parts)


def _sidecar(run: Run, name: str) -> dict[str, Any]:
    """What the sidecar of an analysis says; nothing where it is missing or damaged."""
    try:
        said = read_json(run.analyses_folder / f"{name}.json")
    except RunError:
        return {}
    fits = isinstance(said, dict) and all(
        isinstance(said.get(entry, kind()), kind) for entry, kind in _ENTRIES.items()
    )
    lists = ("tables", "absent")
    if not fits or not all(
        isinstance(name, str) and _is_inside(name)
        for entry in lists
        for name in said.get(entry, ())
    ):
        return {}
    return said


def _is_there(path: Path) -> bool:
    return any(path.glob("*.parquet")) if path.is_dir() else path.exists()


def _make(run: Run, name: str, place: ModelPlace) -> tuple[str, ...]:
    """Make one analysis; what it noted.

    Raises:
        InterpSteerError: the run cannot answer it.
    """
    analysis: Analysis[Any] = importlib.import_module(f"{PACKAGE}.{name}").ANALYSIS
    kept = _kept_options(analysis.options, _sidecar(run, name))
    names = {field.name for field in fields(analysis.options)}
    said = asdict(place)
    if any(value is not None for value in said.values()):  # the place of before is no part of it
        kept |= {key: value for key, value in said.items() if key in names}
    options = analysis.options(run_folder=run.path, **kept)
    return analysis.write(options)[1]


def _kept_options(options: type[RunOption], said: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the tables were made with, as far as the script still has them."""
    usual = {field.name: field.default for field in fields(options) if field.name != "run_folder"}
    config: Mapping[str, Any] = said.get("config", {})
    kept = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config.items()
    }
    return {
        name: value
        for name, value in kept.items()
        if name in usual and _is_like(value, usual[name])
    }


def _is_like(value: object, usual: object) -> bool:
    """Whether a stored option has the type of the script's own; None is left to the script."""
    kinds = {type(usual), type(value)}
    return usual is None or usual is MISSING or len(kinds) == 1 or kinds == {int, float}
