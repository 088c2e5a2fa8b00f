"""Where the numbers of the suites' figures are kept, and how several suites share one figure.

Every suite leaves `figure.parquet` beside its rows; a figure is drawn from the table of an
analysis, which is those of its suites, one after the other. Nothing is computed here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from interp_steer.analysis.tidy_tables import AnalysisError, Findings, write_findings
from interp_steer.files import atomic_write_json, atomic_write_table, read_json, read_table
from interp_steer.runs import Run
from interp_steer.shards import shards_digest
from interp_steer.suites.evaluation import evaluation_folder
from interp_steer.suites.settings import CAPABILITIES, SuiteName

FIGURES: Mapping[str, tuple[SuiteName, ...]] = {
    "multi_turn": ("multi-turn",),
    "capabilities": CAPABILITIES,
    "cost": ("cost",),
    "cross_trait": ("cross-trait",),
}
"""Analysis to the suites whose numbers it holds."""
FILE = "figure.parquet"
MADE_FROM = "figure.json"
"""Which rows `FILE` is of."""


def suite_findings(run: Run, name: str) -> Findings:
    """The table of an analysis, from the suites that were run.

    Raises:
        AnalysisError: none of them was, or rows have changed since the suite's tables were made.
    """
    suites = FIGURES[name]
    there = [path for path in _files(run, suites) if path.exists()]
    if not there:
        raise AnalysisError(
            f"the run {run.path} has no {name.replace('_', '-')} results; run `interp-steer "
            f"evaluate {run.path} --suite {'|'.join(suites)}` first"
        )
    for path in there:
        _check_current(run, path.parent)
    frames = [read_table(path).to_pandas() for path in there]
    return Findings(
        tables={"": pd.concat(frames, ignore_index=True)},
        inputs=tuple(path.parent for path in _files(run, suites)),
    )


def keep_figure_table(run: Run, suite: SuiteName, figure: pd.DataFrame) -> None:
    """Write a suite's numbers beside its rows, and the analysis that they belong to.

    Raises:
        RunError: another writer holds the run, or the disk is full.
    """
    table = pa.Table.from_pandas(figure, preserve_index=False).replace_schema_metadata(None)
    folder = evaluation_folder(run, suite)
    rows = shards_digest(folder)
    atomic_write_table(folder / FILE, table)
    atomic_write_json(folder / MADE_FROM, {"rows": rows})
    for name, suites in FIGURES.items():
        if suite in suites:
            command = f"python -m analyses.{name} {run.path.resolve().name}"
            write_findings(run, name, suite_findings(run, name), command=command, config={})


def _check_current(run: Run, folder: Path) -> None:
    """Refuse numbers of rows that have changed, by `rescore` for one.

    Tables of a version that did not say which rows they are of are taken as they are.
    """
    note = folder / MADE_FROM
    if note.exists() and read_json(note)["rows"] != shards_digest(folder):
        raise AnalysisError(
            f"the rows of {folder} have changed since its tables were made; run the same "
            f"`interp-steer evaluate {run.path} --suite {folder.name}` again, which makes no row "
            "that is there"
        )


def _files(run: Run, suites: Sequence[SuiteName]) -> list[Path]:
    return [evaluation_folder(run, suite) / FILE for suite in suites]
