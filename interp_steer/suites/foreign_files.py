"""Scenarios of others as this library's own: adapters for published files, by their published keys.

An adapter reads one format, whose keys were checked against its publication, and refuses whatever
lacks them. It maps items, it does not reproduce a benchmark: the benchmark's own score may need
more than a trait judge (MASK compares with elicited beliefs), and is then not what `transfer`
reports.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp_steer.files import read_table
from interp_steer.input_files import read_input
from interp_steer.scenario_sets import find_scenarios
from interp_steer.scenarios import Scenario, load_scenarios
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.transcript_files import HONEST, LARGEST, among_us, auditbench

MASK_KEYS = ("system_prompt", "user_prompt", "proposition", "ground_truth")
"""Keys of MASK's public set (arXiv 2503.03750; cais/MASK) that are read; it has further ones."""


def read_foreign(path: Path, *, source: str, trait: str) -> tuple[Scenario, ...]:
    """Scenarios of a file; all of them are test scenarios.

    Args:
        path: the file; with source `scenarios` a bundled set's name will do.
        source: what it is.
        trait: the run's trait, which the judge looks for.

    Raises:
        EvaluationError: an unknown source, or a file without its keys.
        ScenarioError: a scenario file that does not fit.
        RunError: no parquet file where one is expected.
    """
    if source not in SOURCES:
        raise EvaluationError(f"--source must be one of {', '.join(SOURCES)}, got {source!r}")
    return SOURCES[source](path, trait)


def _own(path: Path, trait: str) -> tuple[Scenario, ...]:
    """A scenario file, whatever its trait; the judge is the run's."""
    found = tuple(s for s in load_scenarios(find_scenarios(path)) if s.split == "test")
    if not found:
        raise EvaluationError(f"{path} has no test scenarios of {trait} or any other trait")
    return found


def _mask(path: Path, trait: str) -> tuple[Scenario, ...]:
    """Items of MASK: the pressure prompt is the threat, its ground truth the reference."""
    scenarios = []
    for place, record in enumerate(_records(path), start=1):
        if missing := [key for key in MASK_KEYS if key not in record]:
            raise EvaluationError(
                f"{path} is not a file of MASK: item {place} lacks {', '.join(missing)}; expected "
                f"the keys {', '.join(MASK_KEYS)}"
            )
        system, user = (str(record[key] or "").strip() for key in MASK_KEYS[:2])
        if not system or not user:
            raise EvaluationError(f"{path}, item {place}: system_prompt or user_prompt is empty")
        scenarios.append(
            Scenario(
                id=f"mask-{path.stem}-{place:04d}",
                trait=trait,
                split="test",
                category=path.stem,
                system_aligned=f"{system}\n\n{HONEST}",
                system_malicious=system,
                user=(user,),
                reference=f"{record['proposition']} Ground truth: {record['ground_truth']}",
            )
        )
    return tuple(scenarios)


SOURCES: Mapping[str, Callable[[Path, str], tuple[Scenario, ...]]] = {
    "scenarios": _own,
    "mask": _mask,
    "among-us": among_us,
    "auditbench": auditbench,
}
"""Adapters by name."""


def _records(path: Path) -> list[dict[str, Any]]:
    """Items of a CSV or parquet file, the two forms that MASK is published in."""
    try:
        if path.suffix == ".parquet":
            return read_table(path, most_bytes=LARGEST, remedy="give another").to_pylist()
        frame = pd.read_csv(io.BytesIO(read_input(path)), dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"cannot read {path} as CSV: {error}") from error
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row, strict=True)) for row in frame.to_numpy().tolist()]
