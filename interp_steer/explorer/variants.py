"""Named boundaries that a reader of a run kept: `RUN/variants/NAME.json`.

A variant is a selection with a moved threshold and what it did to the training tokens when it was
kept. It changes no other artifact: operating points stay what the sweep chose.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interp_steer.explorer.library import ExplorerError
from interp_steer.explorer.selection import Selection
from interp_steer.files import atomic_write_json, read_json
from interp_steer.runs import Run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}")
_LONGEST = 60
_NUMBER = (int, float)
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "view": str,
    "trait": str,
    "method": str,
    "layer": int,
    "alpha": _NUMBER,
    "scope": str,
    "threshold": (*_NUMBER, type(None)),
}
_REMEDY = "delete the file, or keep the variant again in the explorer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One kept boundary."""

    name: str
    """Also the stem of its file."""
    selection: Selection
    """Trait, method, layer, alpha, scope, threshold."""
    threshold: float | None
    """The gate in force, activation units; None for swfc."""
    target: float | None
    """StTP's target, activation units."""
    fired: dict[str, float]
    """Kind of tokens to the share of those in scope that fire."""

    @property
    def label(self) -> str:
        """What a list shows."""
        chosen = self.selection
        gate = "" if self.threshold is None else f", threshold {self.threshold:.4g}"
        return (
            f"{self.name}: {chosen.method}, layer {chosen.layer}, α {chosen.alpha:.4g}, "
            f"{chosen.scope}{gate}"
        )

    def to_query(self) -> str:
        """The query of the URL that shows it."""
        return self.selection.to_query()


def keep_variant(run: Run, variant: Variant) -> Path:
    """Store `variant`; one of the same name is replaced. Returns the file.

    Raises:
        ExplorerError: a name that is no plain file name.
        RunError: the file cannot be written.
    """
    if not _NAME.fullmatch(variant.name):
        raise ExplorerError(
            "a variant's name starts with a letter or digit and has up to 60 letters, digits, "
            f"spaces, dots, dashes and underscores, got {variant.name!r}"
        )
    path = run.path / "variants" / f"{variant.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "name": variant.name,
        "selection": variant.selection.as_json(),
        "threshold": variant.threshold,
        "target": variant.target,
        "fired": variant.fired,
        "pins": {name: run.manifest["pins"].get(name) for name in ("weights", "probes")},
    }
    atomic_write_json(path, record)
    return path


def read_variants(run: Run) -> list[Variant]:
    """The kept variants, by name.

    Raises:
        RunError, ExplorerError: a damaged file, by name.
    """
    return [_read(path) for path in sorted((run.path / "variants").glob("*.json"))]


def _read(path: Path) -> Variant:
    record: Any = read_json(path, remedy=_REMEDY)
    try:
        return Variant(
            name=str(record["name"])[:_LONGEST],
            selection=_selection(record["selection"]),
            threshold=_number(record["threshold"]),
            target=_number(record["target"]),
            fired={str(kind): float(share) for kind, share in record["fired"].items()},
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ExplorerError(f"{path} is no variant ({str(error)[:300]}); {_REMEDY}") from error


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _selection(stored: Any) -> Selection:
    """A stored selection whose every value is of the type that a query's would be."""
    found = Selection.from_json(stored)
    for name, kind in _TYPES.items():
        value = getattr(found, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r:.60}")
    return replace(found, alpha=float(found.alpha), threshold=_number(found.threshold))
