"""Every file that the library reads, as its own writers make it, and the reader of each.

An artifact is a folder that `write` fills, one file of it that is damaged, and `read`, which goes
as far with it as the library does: a table whose columns are asked for, a record whose numbers are
used. Nothing here loads a model.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from interp_steer.analysis.run_rows import chosen_cells, sweep_frame
from interp_steer.analysis.upkeep import why_due
from interp_steer.cells import ALIGNED, CELL_COLUMNS, MALICIOUS, steered_cell
from interp_steer.config import JudgeChoice, SamplingConfig, SweepConfig, TraceConfig
from interp_steer.exchange.choices import SpecChoice
from interp_steer.exchange.sources import outgoing_from_run
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.variants import Variant, keep_variant, read_variants
from interp_steer.files import atomic_write_json, atomic_write_table
from interp_steer.fit_stage import RESPONSE_SCHEMA, read_responses, training_scenario_ids
from interp_steer.plots.points import read_points
from interp_steer.plots.sources import RunSource
from interp_steer.probes import ProbeSet
from interp_steer.projection_files import PROJECTION_SCHEMA, write_projections
from interp_steer.residuals import (
    PooledResiduals,
    ResidualPair,
    load_pooled,
    load_residuals,
    save_residuals,
)
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario, save_scenarios, scenario_hash
from interp_steer.splits import ScenarioSplit
from interp_steer.steering_files import run_provenance
from interp_steer.study import run_scenarios, versions
from interp_steer.suites.choice import SCHEMA
from interp_steer.suites.configurations import Configurations
from interp_steer.suites.evaluation import Evaluation
from interp_steer.suites.settings import SuiteConfig
from interp_steer.sweep import finished_keys, read_rows
from interp_steer.sweep_plan import grid_record, sweep_record
from interp_steer.sweep_rows import SWEEP_SCHEMA, Baselines
from interp_steer.sweep_stage import is_outdated, run_plan
from interp_steer.trace_files import (
    TRACE_SCHEMA,
    list_samples,
    list_tokens,
    read_traces,
    write_traces,
)
from interp_steer.trace_stage import cell_to_trace
from steering_cases import make_probes, normals

LAYERS, D_MODEL = (1, 2), 4
PROVENANCE = {"model": "m", "weights": "w", "dtype": "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One kind of file, and who reads it."""

    kind: str
    """json, jsonl, toml, csv, safetensors, parquet, torch or gguf: how it may be damaged."""
    write: Callable[[Path], Path]
    """Fills an empty folder; returns the file that is damaged."""
    read: Callable[[Path], Any]
    """Reads that file, and what belongs to it."""
    has_name: bool = True
    """Whether a refusal names the file: the reader knows it."""
    is_checked: bool = False
    """Whether its bytes carry checksums: what is read after damage is what was written."""


def scenarios() -> list[Scenario]:
    return [
        Scenario(
            id=f"{split}-{i}",
            trait="honesty",
            split=split,
            category=f"c{i % 2}",
            system_aligned=f"Be honest, {i}.",
            system_malicious=f"Lie, {i}.",
            user=(f"Is it {i}?", "Sure?"),
            notes="None.",
            reference="It is.",
        )
        for split, n in (("train", 3), ("test", 4))
        for i in range(n)
    ]


# ---------------------------------------------------------------- a run directory


def write_run(folder: Path) -> Run:
    """A run with every artifact, small, from the library's own writers."""
    scenes = scenarios()
    save_scenarios(folder / "scenarios.jsonl", scenes)
    run = Run.create(folder / "run")
    test = tuple(s for s in scenes if s.split == "test")
    split = ScenarioSplit(selection=test[:2], reporting=test[2:], answering=test[2:])
    config = SweepConfig(
        layers=LAYERS, methods=("sttp",), sttp_alphas=(1.0,), scopes=("all",), protocol="split"
    )
    run.pin(
        {
            **PROVENANCE,
            "scenarios": scenario_hash(scenes),
            "generation": asdict(SamplingConfig()),
            "judge": "words",
        },
        trait="honesty",
        model=PROVENANCE,
        sources={"model": "some/model", "scenarios": str(folder / "scenarios.jsonl")},
        versions=versions(),
        sweep=sweep_record(config, split, grid_record(config, LAYERS), before={}),
    )
    make_probes(1, layers=LAYERS, d_model=D_MODEL).save(run.path)
    save_residuals(run.residuals_file, _residuals())
    atomic_write_table(run.responses_file, _responses(scenes))
    write_projections(run.projections_file, _projections().to_batches())
    run.append_shard(_sweep_rows(test))
    write_traces(_traces(), run.traces_folder / "sttp.parquet")
    point = {"method": "sttp", "scope": "all", "threat": "malicious_prompt"}
    points = [point | {"layer": 1, "alpha": 1.0}]
    atomic_write_json(run.operating_points_file, {"operating_points": points, "sweep": "0"})
    variant = Variant(
        name="mine",
        selection=Selection(trait="honesty", layer=1, alpha=1.0),
        threshold=0.5,
        target=1.5,
        fired={"system": 0.5},
    )
    keep_variant(run, variant)
    atomic_write_json(run.analyses_folder / "cells.json", _sidecar())
    choice = _choice(run)
    rows = [
        {"question": f"q{i}", **ALIGNED.as_row(), "answer": "a", "response": "a", "right": 1.0}
        for i in range(3)
    ]
    choice.store.append_shard(pa.Table.from_pylist(rows, schema=choice.schema), folder="")
    return run


def _residuals() -> ResidualPair:
    aligned, malicious = (
        PooledResiduals(
            values=normals(seed, 3, 2, D_MODEL), layers=LAYERS, n_tokens=torch.tensor([3, 4, 5])
        )
        for seed in (1, 2)
    )
    return ResidualPair(aligned=aligned, malicious=malicious, provenance=dict(PROVENANCE))


def _responses(scenes: list[Scenario]) -> pa.Table:
    rows = [
        {
            "response_id": f"{s.id}/{side}/0",
            "scenario": s.id,
            "side": side,
            "response_index": 0,
            "text": "It is.",
            "token_ids": [3, 4],
            "stop_reason": "stop",
            "seed": 42,
        }
        for side in ("aligned", "malicious")
        for s in scenes
        if s.split == "train"
    ]
    return pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA)


def _projections() -> pa.Table:
    rows = [
        {
            "scenario": "train-0",
            "side": "aligned",
            "pos": i,
            "token": f"t{i}",
            "segment": "response",
            "layer": layer,
            "projection": 0.5 * i,
            "response_index": 0,
        }
        for layer in LAYERS
        for i in range(4)
    ]
    return pa.Table.from_pylist(rows, schema=PROJECTION_SCHEMA)


def _sweep_rows(test: tuple[Scenario, ...]) -> pa.Table:
    steered = steered_cell(method="sttp", layer=1, alpha=1.0, scope="all")
    rows = [
        {
            "scenario": s.id,
            "response_index": 0,
            **cell.as_row(),
            "response": "It is.",
            "token_ids": [3, 4],
            "n_tokens": 2,
            "stop_reason": "stop",
            "judge": "words",
            "trait": 50.0,
            "coherence": 90.0,
        }
        for cell in (ALIGNED, MALICIOUS, steered)
        for s in test
    ]
    return pa.Table.from_pylist(rows, schema=SWEEP_SCHEMA)


def _traces() -> pa.Table:
    row = {field.name: 0 for field in TRACE_SCHEMA} | {
        "sample": "s/1",
        "scenario": "s",
        "side": "malicious",
        "token": "t",
        "segment": "response",
        "method": "sttp",
        "direction": "aligned",
        "scope": "all",
        "in_scope": True,
        "fired": True,
        "capped": False,
        "layer": 1,
    }
    return pa.Table.from_pylist([row | {"pos": i} for i in range(5)], schema=TRACE_SCHEMA)


def _sidecar() -> dict[str, Any]:
    return {
        "command": "python -m analyses.cells run",
        "config": {"seed": 1},
        "inputs": {"sweep": "0", "probes.json": "1"},
        "absent": ["traces"],
        "tables": ["cells"],
        "versions": versions(),
    }


def _choice(run: Run) -> Evaluation:
    return Evaluation(run, "choice", schema=SCHEMA, key=("question", *CELL_COLUMNS))


def _run_file(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_run(folder).path / name


def _run_of(path: Path) -> Run:
    """The run that a file belongs to."""
    inside = next(p for p in path.parents if p.name == "run")
    return Run.open(inside)


def _manifest_in_full(path: Path) -> Any:
    """Everything that stages take from a manifest before they load a model."""
    run = _run_of(path)
    manifest = run.manifest
    source = RunSource(run)
    return (
        manifest["pins"],
        JudgeChoice().as_sweep(manifest),
        run_provenance(manifest),
        source.heading,
    )


def _exported(path: Path) -> Any:
    choice = SpecChoice(method="sttp", layers=(1,), alpha=1.0)
    run = _run_of(path)
    outgoing = outgoing_from_run(run, ProbeSet.load(run.path), choice)
    return outgoing.spec, outgoing.provenance, outgoing.model


def _sweep_in_full(path: Path) -> Any:
    run = _run_of(path)
    rows = read_rows(run)
    return rows, finished_keys(run), Baselines.read(rows)


def _traces_in_full(path: Path) -> Any:
    return read_traces(path), list_samples(path), list_tokens(path)


def _configured(path: Path) -> Any:
    config = SuiteConfig(methods=("sttp",))
    return Configurations(_run_of(path), config, with_grid=True).cells("malicious")


def _figures_in_full(path: Path) -> Any:
    source = RunSource(_run_of(path))
    return source.scores, source.measures, source.with_text(source.scores)


def _suite_in_full(path: Path) -> Any:
    choice = _choice(_run_of(path))
    return choice.rows(), choice.done()


def _responses_in_full(path: Path) -> Any:
    table = read_responses(_run_of(path))
    return table, training_scenario_ids(table)


def _projected(path: Path) -> Any:
    return RunSource(_run_of(path)).projections(
        ("scenario", "side", "projection"), [("layer", "==", 1)]
    )


RUN_FILES: Mapping[str, Artifact] = {
    "manifest": Artifact(kind="json", write=_run_file("manifest.json"), read=_manifest_in_full),
    "manifest, scenarios": Artifact(
        kind="json", write=_run_file("manifest.json"), read=lambda p: run_scenarios(_run_of(p))
    ),
    "manifest, sweep": Artifact(
        kind="json", write=_run_file("manifest.json"), read=lambda p: run_plan(_run_of(p))
    ),
    "manifest, export": Artifact(kind="json", write=_run_file("manifest.json"), read=_exported),
    "manifest, suites": Artifact(kind="json", write=_run_file("manifest.json"), read=_configured),
    "manifest, analyses": Artifact(
        kind="json", write=_run_file("manifest.json"), read=lambda p: sweep_frame(_run_of(p))
    ),
    "probes.json": Artifact(
        kind="json", write=_run_file("probes.json"), read=lambda p: ProbeSet.load(p.parent)
    ),
    "probes.safetensors": Artifact(
        kind="safetensors",
        write=_run_file("probes.safetensors"),
        read=lambda p: ProbeSet.load(p.parent),
        is_checked=True,
    ),
    "residuals": Artifact(
        kind="safetensors",
        write=_run_file("residuals.safetensors"),
        read=load_residuals,
        is_checked=True,
    ),
    "residuals, one layer": Artifact(
        kind="safetensors",
        write=_run_file("residuals.safetensors"),
        read=lambda p: load_pooled(p, "aligned", layer=1),
    ),
    "responses": Artifact(
        kind="parquet", write=_run_file("responses.parquet"), read=_responses_in_full
    ),
    "projections": Artifact(
        kind="parquet", write=_run_file("projections.parquet"), read=_projected
    ),
    "sweep": Artifact(
        kind="parquet", write=_run_file("sweep/part-00000.parquet"), read=_sweep_in_full
    ),
    "sweep, analyses": Artifact(
        kind="parquet",
        write=_run_file("sweep/part-00000.parquet"),
        read=lambda p: sweep_frame(_run_of(p)),
    ),
    "sweep, figures": Artifact(
        kind="parquet", write=_run_file("sweep/part-00000.parquet"), read=_figures_in_full
    ),
    "rows of a suite": Artifact(
        kind="parquet",
        write=_run_file("evaluations/choice/part-00000.parquet"),
        read=_suite_in_full,
    ),
    "traces": Artifact(
        kind="parquet", write=_run_file("traces/sttp.parquet"), read=_traces_in_full
    ),
    "operating points, figures": Artifact(
        kind="json",
        write=_run_file("operating_points.json"),
        read=lambda p: read_points(p, remedy="select again"),
    ),
    "operating points, trace": Artifact(
        kind="json",
        write=_run_file("operating_points.json"),
        read=lambda p: cell_to_trace(_run_of(p), TraceConfig()),
    ),
    "operating points, suites": Artifact(
        kind="json", write=_run_file("operating_points.json"), read=_configured
    ),
    "operating points, analyses": Artifact(
        kind="json",
        write=_run_file("operating_points.json"),
        read=lambda p: (chosen_cells(_run_of(p)), is_outdated(_run_of(p))),
    ),
    "variant": Artifact(
        kind="json",
        write=_run_file("variants/mine.json"),
        read=lambda p: [v.label for v in read_variants(_run_of(p))],
    ),
    "sidecar of an analysis": Artifact(
        kind="json",
        write=_run_file("analyses/cells.json"),
        read=lambda p: why_due(_run_of(p), "cells"),
    ),
}
