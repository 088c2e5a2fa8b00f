"""Tracing a configuration: which tokens fired, for a prompt of one's own or the run's scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from interp_steer.cells import Cell, steered_cell
from interp_steer.config import TraceConfig
from interp_steer.errors import RunError
from interp_steer.fit_stage import load_probes
from interp_steer.point_files import USUAL_THREAT, read_operating_points
from interp_steer.reporting import Report
from interp_steer.runs import Run
from interp_steer.scenarios import Prompt
from interp_steer.scopes import Scope
from interp_steer.steering import SteeringPlan, steer
from interp_steer.study import Study
from interp_steer.sweep_rows import sample_key, steering_spec
from interp_steer.traces import TraceRecorder, write_traces


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A prompt to trace under one steered cell."""

    cell: Cell
    """Method, layer, alpha, scope."""
    prompt: Prompt
    """What the model is asked."""
    scenario: str
    """Scenario id, or a name for a prompt that is none."""
    side: str
    """Side whose prompt it is: aligned, malicious or neutral."""


def trace(study: Study, traced: Sequence[Traced]) -> pa.Table:
    """Generate under steering, all prompts in one batch, and return the per-token diagnostics."""
    probes = load_probes(study.run)
    specs = {one.cell: steering_spec(one.cell) for one in traced}
    plan = SteeringPlan([specs[one.cell] for one in traced], probes)
    recorder = TraceRecorder()
    with steer(study.lm, plan, recorder=recorder):
        generations = study.lm.generate(
            [study.lm.tokenize(one.prompt) for one in traced],
            study.settings,
            sample_keys=[sample_key(one.scenario, 0) for one in traced],
        )
    return recorder.table(
        study.lm,
        generations,
        samples=[f"{one.scenario}/{one.cell.label}" for one in traced],
        scenarios=[one.scenario for one in traced],
        sides=[one.side for one in traced],
    )


def cell_to_trace(run: Run, config: TraceConfig) -> Cell:
    """The cell that a trace asks for; what it leaves open comes from the operating point.

    Raises:
        RunError: layer or alpha is open and the run has no operating point for method and scope.
    """
    layer, alpha = config.layer, config.alpha
    if layer is None or alpha is None:
        point = _operating_point(run, config.method, config.scope)
        layer = point["layer"] if layer is None else layer
        alpha = point["alpha"] if alpha is None else alpha
    return steered_cell(method=config.method, layer=layer, alpha=alpha, scope=config.scope)


def _operating_point(run: Run, method: str, scope: str) -> dict:
    remedy = f"give --layer and --alpha, or run `interp-steer select {run.path}` first"
    found = read_operating_points(run.operating_points_file, remedy=remedy)
    for point in found["operating_points"]:
        if (point["method"], point["scope"], point["threat"]) == (method, scope, USUAL_THREAT):
            return point
    raise RunError(f"the run {run.path} has no operating point of {method} in {scope}; {remedy}")


def trace_examples(study: Study, found: Report, *, n_scenarios: int) -> list[Path]:
    """Traces of every operating point under the malicious prompt, one file each.

    Args:
        study: run, model, scenarios.
        found: has the operating points; those under other threats are not traced.
        n_scenarios: the first reporting scenarios.
    """
    cells = [p.selected.cell for p in found.points if p.choice.group.threat == USUAL_THREAT]
    paths = {cell: study.run.traces_folder / f"{trace_name(cell)}.parquet" for cell in cells}
    missing = [cell for cell, path in paths.items() if not path.exists()]
    if missing:
        traced = [
            Traced(cell=cell, prompt=s.prompt("malicious"), scenario=s.id, side="malicious")
            for cell in missing
            for s in found.split.reporting[:n_scenarios]
        ]
        table = trace(study, traced)
        for cell in missing:
            at_cell = (pc.field("method") == cell.method) & (pc.field("scope") == cell.scope)
            write_traces(table.filter(at_cell), paths[cell])
    return list(paths.values())


def trace_name(cell: Cell) -> str:
    """Like sttp-all-layer-4-alpha-12: another operating point gets another file.

    Raises:
        SteeringError: a scope that cannot be read, which is no part of a file's name either.
    """
    scope = str(Scope.parse(cell.scope)).replace(":", "-").replace("+", "-")
    return f"{cell.method}-{scope}-layer-{cell.layer}-alpha-{cell.alpha:g}"
