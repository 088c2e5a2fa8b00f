"""A small real run for tests of the report, and what is planted into copies of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from interp_steer.config import ProjectConfig
from interp_steer.fit_stage import project
from interp_steer.model import HookedLM
from interp_steer.runs import Run
from interp_steer.sweep_stage import select, sweep
from interp_steer.trace_files import read_traces, write_traces
from interp_steer.trace_stage import trace_examples
from study_cases import SWEEP, WordJudge, tiny_study

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'>",
    "\"'`",
    "a\nb",
    "😀",
    "e\u0301\u0301",
    "\u0301",
    "\u202eevil\u202c",
    "שלום",
    "<!--",
    "&lt;b&gt;",
    "\u2028",
    "${1}",
    "⟦x⟧",
    "",
)
"""What a model may write that a page must show as text."""


def small_run(folder: Path, lm: HookedLM, model_dir: Path) -> Run:
    """Two layers of the random model: probes, projections, sweep, operating points, traces."""
    study = tiny_study(folder, lm, model_dir)
    config = replace(SWEEP, scopes=("all", "response", "first:2"), control_draws=1)
    project(study, ProjectConfig())
    sweep(study, config, judge=WordJudge())
    trace_examples(study, select(study.run), n_scenarios=1)
    return study.run


def copied(run: Run, folder: Path, *, trait: str | None = None) -> Run:
    """A copy of the run to write into, with another trait's name where one is given."""
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("figures", ".lock"))
    if trait is not None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        (folder / "manifest.json").write_text(json.dumps(manifest | {"trait": trait}))
    return Run.open(folder)


def plant_hostile(run: Run) -> None:
    """Put `HOSTILE` into the tokens of every trace, and mark the second fired token as capped."""
    for path in sorted(run.traces_folder.glob("*.parquet")):
        rows = read_traces(path).to_pylist()
        for place, row in enumerate(rows):
            row["token"] = HOSTILE[place % len(HOSTILE)]
            row["scenario"] = HOSTILE[0]
        hit = [row for row in rows if row["fired"]]
        if len(hit) > 1:
            hit[1]["capped"] = True
        write_traces(pa.Table.from_pylist(rows, schema=read_traces(path).schema), path)
