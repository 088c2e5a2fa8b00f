"""The stages of a study, each a function on its run: fit, project, sweep, select, trace.

Every stage writes artifacts into the run directory and does only what is missing there; what could
change them is pinned by the run's manifest, and a changed pin is refused by name. The command line
and the demo call these functions and nothing beneath them.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from interp_steer.cells import BASELINES, Cell, control_cells, steered_cell, steered_grid
from interp_steer.config import FitConfig, ProjectConfig, SweepConfig, TraceConfig
from interp_steer.controls import ControlDirections
from interp_steer.errors import RunError
from interp_steer.judges import Judge
from interp_steer.probes import ProbeSet, fit_probes
from interp_steer.projections import project_tokens
from interp_steer.reporting import Report, report
from interp_steer.residuals import (
    PooledResiduals,
    ResidualPair,
    capture_generated,
    load_residuals,
    save_residuals,
)
from interp_steer.runs import Run, atomic_write_json, atomic_write_table, read_json, read_table
from interp_steer.sampling import Generation
from interp_steer.scenarios import Prompt, Scenario, Side
from interp_steer.selection import ScenarioSplit, choose, split_scenarios
from interp_steer.steering import SteeringPlan, steer
from interp_steer.study import Study, run_scenarios
from interp_steer.summary import report_as_operating_points, report_as_summary
from interp_steer.sweep import Block, SweepSetting, read_rows, run_cells, sample_key, steering_spec
from interp_steer.traces import TraceRecorder, write_traces

_log = logging.getLogger(__name__)

SIDES: tuple[Side, ...] = ("aligned", "malicious")

RESPONSE_SCHEMA = pa.schema(
    [
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("response_index", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)
"""Columns of responses.parquet; the aligned rows come first."""


def fit(study: Study, config: FitConfig) -> ProbeSet:
    """On-policy responses of both sides, their pooled residuals, and the probes of every layer.

    Returns:
        The probes, which are also in the run.

    Raises:
        RunError: the run was fitted with another number of responses or another method.
    """
    run = study.run
    with run.lock():
        run.pin({"responses_per_scenario": config.responses_per_scenario, "probe": config.probe})
        if run.probes_file.exists():
            _log.info("probes are there already: %s", run.probes_file)
            return ProbeSet.load(run.path)
        if not (run.responses_file.exists() and run.residuals_file.exists()):
            _respond(study, config)
        probes = _fit_probes(study, config)
        probes.save(run.path)
    return probes


def _respond(study: Study, config: FitConfig) -> None:
    """Sample both sides' training responses; responses.parquet comes last and stands for all."""
    rows: list[tuple[Scenario, Side, int]] = [
        (scenario, side, index)
        for side in SIDES
        for scenario in study.split("train")
        for index in range(config.responses_per_scenario)
    ]
    captured = capture_generated(
        study.lm,
        [study.lm.tokenize(scenario.prompt(side)) for scenario, side, _ in rows],
        study.settings,
        sample_keys=[sample_key(scenario.id, index) for scenario, _, index in rows],
        batch_size=config.batch_size,
    )
    n_aligned = len(rows) // 2
    pair = ResidualPair(
        aligned=_responses_between(captured.residuals, 0, n_aligned),
        malicious=_responses_between(captured.residuals, n_aligned, len(rows)),
        provenance=dict(study.pins),
    )
    save_residuals(study.run.residuals_file, pair)
    table = _responses_table(rows, captured.generations, seed=study.sampling.seed)
    atomic_write_table(study.run.responses_file, table)


def _responses_between(residuals: PooledResiduals, start: int, stop: int) -> PooledResiduals:
    return PooledResiduals(
        values=residuals.values[start:stop],
        layers=residuals.layers,
        n_tokens=residuals.n_tokens[start:stop],
    )


def _responses_table(
    rows: Sequence[tuple[Scenario, str, int]], generations: Sequence[Generation], *, seed: int
) -> pa.Table:
    records = [
        {
            "response_id": f"{scenario.id}/{side}/{index}",
            "scenario": scenario.id,
            "side": side,
            "response_index": index,
            "text": generation.text,
            "token_ids": list(generation.token_ids),
            "stop_reason": generation.stop_reason,
            "seed": seed,
        }
        for (scenario, side, index), generation in zip(rows, generations, strict=True)
    ]
    return pa.Table.from_pylist(records, schema=RESPONSE_SCHEMA)


def read_responses(run: Run) -> pa.Table:
    """The training responses of a run; refused by name where there are none."""
    return read_table(run.responses_file, remedy="run `interp-steer fit` first")


def _scenario_ids(responses: pa.Table) -> tuple[list[str], list[str]]:
    """Scenario of each aligned and of each malicious response, in the order of the residuals."""
    aligned, malicious = (
        responses.filter(pc.field("side") == side)["scenario"].to_pylist() for side in SIDES
    )
    return aligned, malicious


def _fit_probes(study: Study, config: FitConfig) -> ProbeSet:
    pair = load_residuals(study.run.residuals_file)
    ids = _scenario_ids(read_responses(study.run))
    by_id = {scenario.id: scenario for scenario in study.scenarios}
    systems = (
        [str(by_id[i].system_aligned) for i in ids[0]],
        [str(by_id[i].system_malicious) for i in ids[1]],
    )
    return fit_probes(
        pair.aligned.values,
        pair.malicious.values,
        layers=pair.aligned.layers,
        scenario_ids=ids,
        system_ids=None if study.scenarios[0].is_raw else systems,
        n_tokens=(pair.aligned.n_tokens, pair.malicious.n_tokens),
        method=config.probe,
        seed=study.sampling.seed,
        provenance=dict(study.pins),
    )


def load_probes(run: Run) -> ProbeSet:
    """The probes of a run.

    Raises:
        RunError: it has none.
    """
    if not run.probes_file.exists():
        raise RunError(
            f"the run {run.path} has no probes; run `interp-steer fit --out {run.path}` first"
        )
    return ProbeSet.load(run.path)


def project(study: Study, config: ProjectConfig) -> None:
    """Per-token projections of the training responses, teacher-forced, into projections.parquet."""
    run = study.run
    if run.projections_file.exists():
        _log.info("projections are there already: %s", run.projections_file)
        return
    probes, responses = load_probes(run), read_responses(run)
    by_id = {scenario.id: scenario for scenario in study.scenarios}
    chosen = [
        record
        for side in SIDES
        for record in responses.filter(pc.field("side") == side).to_pylist()[
            : config.projected_responses
        ]
    ]
    sequences = [
        study.lm.tokenize(by_id[r["scenario"]].prompt(r["side"])).with_response(r["token_ids"])
        for r in chosen
    ]
    with run.lock():
        project_tokens(
            study.lm,
            sequences,
            probes,
            path=run.projections_file,
            scenario_ids=[r["scenario"] for r in chosen],
            sides=[r["side"] for r in chosen],
            response_indices=[r["response_index"] for r in chosen],
        )


def sweep(study: Study, config: SweepConfig, *, judge: Judge) -> ScenarioSplit:
    """Screen on the selection scenarios, then finalists and controls on the reporting ones.

    Rows that the run already holds are not made again; the grid may differ from an earlier one.

    Args:
        study: run, model, scenarios.
        config: grid, split and number of finalists and controls.
        judge: scores every response.

    Returns:
        Which scenarios chose and which report.
    """
    run, probes = study.run, load_probes(study.run)
    split = _split(study, config)
    with run.lock():
        run.pin(
            {"probes": _probes_hash(run), "judge": judge.name},
            sweep={
                "config": asdict(config),
                "selection": [scenario.id for scenario in split.selection],
                "reporting": [scenario.id for scenario in split.reporting],
            },
        )
        setting = SweepSetting(
            lm=study.lm,
            probes=probes,
            judge=judge,
            generation=study.settings,
            directions=_control_directions(study),
            batch_size=config.batch_size,
        )
        run_cells(run, _screen(config, probes, split), setting=setting)
        run_cells(run, _confirmation(run, config, split), setting=setting)
    return split


def _split(study: Study, config: SweepConfig) -> ScenarioSplit:
    test = study.split("test")
    n_selection = min(config.selection_scenarios, len(test) // 2)
    split = split_scenarios(test, n_selection=n_selection, seed=study.sampling.seed)
    return ScenarioSplit(
        selection=split.selection, reporting=split.reporting[: config.reporting_scenarios]
    )


def _screen(config: SweepConfig, probes: ProbeSet, split: ScenarioSplit) -> list[Block]:
    grid = steered_grid(
        layers=config.layers or probes.layers,
        alphas=config.grid(),
        scopes=config.scopes,
    )
    everywhere = (*split.selection, *split.reporting)
    return [
        Block(cells=BASELINES, scenarios=everywhere),
        Block(cells=grid, scenarios=split.selection),
    ]


def _confirmation(run: Run, config: SweepConfig, split: ScenarioSplit) -> list[Block]:
    choices = choose(
        read_rows(run),
        split.selection,
        per_group=max(1, config.finalists),
        coherence_share=config.coherence_share,
    )
    finalists = tuple(score.cell for choice in choices for score in choice.best)
    points = [choice.best[0].cell for choice in choices]
    controls = control_cells(points, n_draws=config.control_draws)
    answering = split.reporting[: config.control_scenarios]
    blocks = [Block(cells=finalists, scenarios=split.reporting)]
    return [*blocks, Block(cells=controls, scenarios=answering)] if controls else blocks


def _control_directions(study: Study) -> ControlDirections:
    return ControlDirections(
        load_residuals(study.run.residuals_file),
        scenario_ids=_scenario_ids(read_responses(study.run)),
        method=study.run.manifest["pins"]["probe"],
        seed=study.sampling.seed,
    )


def _probes_hash(run: Run) -> str:
    digest = hashlib.sha256(run.probes_file.read_bytes())
    digest.update(run.probes_file.with_suffix(".safetensors").read_bytes())
    return digest.hexdigest()


def select(run: Run, *, coherence_share: float | None = None) -> Report:
    """Choose the operating points and measure them; writes operating_points.json and summary.json.

    Args:
        run: a run with a finished sweep.
        coherence_share: share of the aligned coherence to keep; None takes the sweep's.

    Raises:
        RunError: the run has no sweep.
        SelectionError: the sweep lacks rows, by the name of the cell.
    """
    found = run_report(run, coherence_share=coherence_share)
    with run.lock():
        atomic_write_json(run.operating_points_file, report_as_operating_points(found))
        atomic_write_json(run.summary_file, report_as_summary(found))
    return found


def run_report(run: Run, *, coherence_share: float | None = None) -> Report:
    """What `select` writes, computed from the rows of the sweep."""
    manifest = run.manifest
    if "sweep" not in manifest:
        raise RunError(
            f"the run {run.path} has no sweep; run `interp-steer sweep {run.path}` first"
        )
    by_id = {scenario.id: scenario for scenario in run_scenarios(run)}
    said = manifest["sweep"]
    split = ScenarioSplit(
        selection=tuple(by_id[i] for i in said["selection"]),
        reporting=tuple(by_id[i] for i in said["reporting"]),
    )
    share = said["config"]["coherence_share"] if coherence_share is None else coherence_share
    seed = manifest["pins"]["generation"]["seed"]
    return report(read_rows(run), split, coherence_share=share, seed=seed)


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
    for point in read_json(run.operating_points_file, remedy=remedy)["operating_points"]:
        if (point["method"], point["scope"]) == (method, scope):
            return point
    raise RunError(f"the run {run.path} has no operating point of {method} in {scope}; {remedy}")


def trace_examples(study: Study, found: Report, *, n_scenarios: int) -> list[Path]:
    """Traces of every operating point on the first reporting scenarios, one file each."""
    paths = {
        point.selected.cell: study.run.traces_folder / f"{_trace_name(point.selected.cell)}.parquet"
        for point in found.points
    }
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


def _trace_name(cell: Cell) -> str:
    """Like sttp-all-layer-4-alpha-12: another operating point gets another file."""
    scope = cell.scope.replace(":", "-").replace("+", "-")
    return f"{cell.method}-{scope}-layer-{cell.layer}-alpha-{cell.alpha:g}"
