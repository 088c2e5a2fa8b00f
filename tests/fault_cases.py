"""Everything that writes an artifact, in two versions, and what a reader makes of it.

Versions are 0 and 1. A reader returns the version that it finds; files of which one belongs to
another (vectors and their numbers) may be refused while they are not of one version, never mixed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch

from fuzz_artifacts import PROVENANCE
from interp_steer.analysis.tidy_tables import Findings, read_findings, write_findings
from interp_steer.exchange.carried import Outgoing
from interp_steer.exchange.formats import export_steering, import_steering
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.variants import Variant, keep_variant, read_variants
from interp_steer.files import atomic_write_json, read_json
from interp_steer.probes import ProbeSet
from interp_steer.projection_files import PROJECTION_SCHEMA, write_projections
from interp_steer.residuals import PooledResiduals, ResidualPair, load_residuals, save_residuals
from interp_steer.runs import Run, read_table
from interp_steer.scenarios import Scenario, load_scenarios, save_scenarios
from interp_steer.specs import SteeringSpec
from interp_steer.steering_files import load_steering, save_steering
from interp_steer.trace_files import TRACE_SCHEMA, read_traces, write_traces
from steering_cases import make_probes

N_ROWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One kind of artifact."""

    write: Callable[[Path, int], object]
    """Writes a version into a folder that may hold the other."""
    read: Callable[[Path], int]
    """The version that a reader finds."""
    is_pair: bool = False
    """Whether it is several files of which a reader may refuse a mixture."""


def _run(folder: Path) -> Run:
    return Run.create(folder / "run")


def _traces(version: int) -> pa.Table:
    texts = {"token": "t", "segment": "response", "side": "x", "sample": f"s{version}"}
    row = {field.name: texts.get(field.name, 0) for field in TRACE_SCHEMA}
    for name in ("scenario", "method", "direction", "scope"):
        row[name] = "x"
    for name in ("in_scope", "fired", "capped"):
        row[name] = True
    columns = {name: [value] * N_ROWS for name, value in row.items()}
    return pa.table(columns, schema=TRACE_SCHEMA)


def _projections(version: int) -> list[pa.RecordBatch]:
    row = {"scenario": "s", "side": "aligned", "pos": 0, "token": "t", "segment": "response"}
    row |= {"layer": 1, "projection": float(version), "response_index": 0}
    columns = {name: [value] * N_ROWS for name, value in row.items()}
    return pa.table(columns, schema=PROJECTION_SCHEMA).to_batches()


def _residuals(version: int) -> ResidualPair:
    values = torch.full((40, 2, 16), float(version))
    counts = torch.full((40,), 1 + version)
    side = PooledResiduals(values=values, layers=(0, 1), n_tokens=counts)
    return ResidualPair(aligned=side, malicious=side, provenance={"version": version})


def _one(values: set[float]) -> int:
    (version,) = values
    return int(version)


def _residuals_found(folder: Path) -> int:
    pair = load_residuals(folder / "r.safetensors")
    seen = {*pair.aligned.values.unique().tolist(), *pair.malicious.values.unique().tolist()}
    return _one({*seen, *(pair.aligned.n_tokens - 1).tolist(), pair.provenance["version"]})


def _probes(version: int) -> ProbeSet:
    return make_probes(1 + version, layers=(1, 2), boundary=float(version))


def _probes_found(folder: Path) -> int:
    probes = ProbeSet.load(folder)
    version = _one({probe.boundary for probe in probes.probes})
    assert torch.equal(probes.v_hat, _probes(version).v_hat)
    return version


def _spec(version: int) -> SteeringSpec:
    return SteeringSpec(method="swfc", layer=(1, 2), alpha=1 + version)


def _save_steering(folder: Path, version: int) -> object:
    return save_steering(folder / "s", _spec(version), _probes(version), provenance=PROVENANCE)


def _steering_found(folder: Path) -> int:
    saved = load_steering(folder / "s")
    version = int(saved.spec.alpha) - 1
    assert torch.equal(saved.probes.v_hat, _probes(version).v_hat)
    return version


def _export(name: str, form: str) -> Callable[[Path, int], object]:
    def write(folder: Path, version: int) -> object:
        probes = make_probes(1, layers=(1, 2), delta_mu=float(1 + version))
        spec = SteeringSpec(method="swfc", layer=(1, 2), alpha=1)
        outgoing = Outgoing(spec=spec, probes=probes, provenance=PROVENANCE)
        return export_steering(folder / name, form, outgoing)

    return write


def _import(name: str) -> Callable[[Path], int]:
    def read(folder: Path) -> int:
        probes = import_steering(folder / name).probes
        return round(_one({round(probe.delta_mu) for probe in probes.probes})) - 1

    return read


def _findings(folder: Path, version: int) -> object:
    frame = pd.DataFrame({"version": [version] * N_ROWS})
    found = Findings(tables={"": frame}, inputs=())
    return write_findings(_run(folder), "cells", found, command="c", config={"version": version})


def _findings_found(folder: Path) -> int:
    return _one(set(read_findings(_run(folder), "cells")["version"]))


def _variant(folder: Path, version: int) -> object:
    run = _run(folder)
    if not run.manifest_file.exists():
        run.pin({})
    chosen = Selection(trait="t", layer=version, alpha=1.0)
    mine = Variant(name="mine", selection=chosen, threshold=None, target=None, fired={})
    return keep_variant(run, mine)


def _scenarios(folder: Path, version: int) -> object:
    texts = {"system_aligned": "a", "system_malicious": "b", "user": ("u" * 3000,)}
    made = [
        Scenario(id=f"{version}-{i}", trait="t", split="test", category="c", **texts)
        for i in range(20)
    ]
    return save_scenarios(folder / "s.jsonl", made)


WRITTEN: Mapping[str, Written] = {
    "manifest": Written(
        write=lambda folder, version: _run(folder).pin({"seed": 1}, config={"v": version}),
        read=lambda folder: _run(folder).manifest["config"]["v"],
    ),
    "operating points": Written(
        write=lambda folder, version: atomic_write_json(folder / "o.json", [version] * N_ROWS),
        read=lambda folder: _one(set(read_json(folder / "o.json"))),
    ),
    "traces": Written(
        write=lambda folder, version: write_traces(_traces(version), folder / "t.parquet"),
        read=lambda folder: _one(
            {int(one[1:]) for one in read_traces(folder / "t.parquet")["sample"].to_pylist()}
        ),
    ),
    "projections": Written(
        write=lambda folder, version: write_projections(
            folder / "p.parquet", _projections(version), stretch=500
        ),
        read=lambda folder: _one(set(read_table(folder / "p.parquet")["projection"].to_pylist())),
    ),
    "residuals": Written(
        write=lambda folder, version: save_residuals(folder / "r.safetensors", _residuals(version)),
        read=_residuals_found,
    ),
    "probes": Written(
        write=lambda folder, version: _probes(version).save(folder),
        read=_probes_found,
        is_pair=True,
    ),
    "steering": Written(write=_save_steering, read=_steering_found, is_pair=True),
    "analysis": Written(write=_findings, read=_findings_found),
    "variant": Written(
        write=_variant,
        read=lambda folder: read_variants(_run(folder))[0].selection.layer,
    ),
    "scenarios": Written(
        write=_scenarios,
        read=lambda folder: _one({int(s.id[0]) for s in load_scenarios(folder / "s.jsonl")}),
    ),
    "gguf": Written(write=_export("x.gguf", "gguf"), read=_import("x.gguf")),
    "svec": Written(write=_export("x.svec", "svec"), read=_import("x.svec")),
    "lm-eval": Written(write=_export("x.pt", "lm-eval"), read=_import("x.pt")),
    "vllm": Written(write=_export("x.json", "vllm"), read=_import("x.json")),
}
