"""The stages that choose: the grid, what its operating points are held against, the report.

A stage does only what is missing in the run. A grid may grow or shrink between calls; what would
change a row already there is pinned and refused by name. The manifest records what a sweep set out
to do, and `select` refuses a sweep that has not done it.
"""

import hashlib
from dataclasses import replace

from interp_steer.cells import GridError
from interp_steer.config import SweepConfig
from interp_steer.controls import ControlDirections
from interp_steer.embedders import SentenceTransformerEmbedder
from interp_steer.engines import Engine
from interp_steer.errors import RunError
from interp_steer.fit_stage import load_probes, read_responses, training_scenario_ids
from interp_steer.judges import Judge, judge_pin
from interp_steer.operating_points import Plan, PointFinder
from interp_steer.point_files import read_operating_points
from interp_steer.report_records import report_as_operating_points
from interp_steer.report_tables import write_tables
from interp_steer.reporting import Report, report
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run, atomic_write_json
from interp_steer.shards import shards_digest
from interp_steer.splits import ScenarioSplit
from interp_steer.study import Study, run_scenarios
from interp_steer.summary import report_as_summary
from interp_steer.sweep import SweepSetting, read_rows, run_cells
from interp_steer.sweep_plan import (
    beside_blocks,
    grid_cells,
    grid_record,
    plan_of,
    planned_split,
    screen_blocks,
    sweep_record,
)


def sweep(
    study: Study, config: SweepConfig, *, judge: Judge, engine: Engine | None = None
) -> ScenarioSplit:
    """Run the grid, choose, then run finalists, controls, baselines and guards at what was chosen.

    Rows that the run already holds are not made again; the grid may differ from an earlier one.

    Args:
        study: run, model, scenarios.
        config: grid, protocol, and what stands beside the operating points.
        judge: scores every response.
        engine: who generates; this process by default.

    Returns:
        Which scenarios chose and which report.

    Raises:
        RunError: the run has no probes, or a changed pin, or another writer.
        MeasureError: the embedder cannot be used.
        GridError: the grid is empty or does not fit the run, by name; nothing is written.
        SelectionError: too few test scenarios.
    """
    run, probes = study.run, load_probes(study.run)
    grid = grid_record(config, probes.layers)
    split = planned_split(study.split("test"), config, seed=study.sampling.seed)
    setting = sweep_setting(study, config, judge=judge)
    with run.lock():
        run.pin(
            {
                "probes": _probes_hash(run),
                "judge": judge_pin(judge, study.scenarios),
                "measures": _measures(setting),
            },
            sweep=sweep_record(config, split, grid, before=run.manifest.get("sweep", {})),
        )
        run_cells(run, screen_blocks(grid_cells(grid), split), setting=setting, engine=engine)
        points = PointFinder(read_rows(run), replace(run_plan(run), n_resamples=1)).points()
        beside = beside_blocks(points, split, config)
        if beside:
            run_cells(run, beside, setting=setting, engine=engine)
    return split


def sweep_setting(study: Study, config: SweepConfig, *, judge: Judge) -> SweepSetting:
    """What every row of a study's sweep shares, in whatever process it is made.

    Raises:
        RunError: the run has no probes or residuals.
        MeasureError: the embedder cannot be used.
    """
    return SweepSetting(
        lm=study.lm,
        probes=load_probes(study.run),
        judge=judge,
        generation=study.settings,
        directions=control_directions(study),
        batch_size=config.batch_size,
        judge_free=config.judge_free,
        embedder=None
        if config.embedder is None
        else SentenceTransformerEmbedder(config.embedder, device=str(study.lm.device)),
    )


def select(run: Run, *, coherence_share: float | None = None) -> Report:
    """Choose the operating points and measure them.

    Writes operating_points.json, summary.json and tables/*, each atomically.

    Args:
        run: a run with a finished sweep.
        coherence_share: share of the aligned coherence to keep; None takes the sweep's. With
            another one, extras that were run at other cells are left out, and named.

    Raises:
        RunError: the run has no sweep.
        SelectionError: the sweep is incomplete, by the name of the cell.
    """
    chosen_from = shards_digest(run.sweep_folder)
    found = run_report(run, coherence_share=coherence_share)
    record = report_as_operating_points(found)
    record |= {"coherence_share": found.coherence_share, "sweep": chosen_from}
    with run.lock():
        atomic_write_json(run.operating_points_file, record)
        atomic_write_json(run.summary_file, report_as_summary(found))
        write_tables(found, run.tables_folder, title=str(run.manifest["trait"]))
    return found


def is_outdated(run: Run) -> bool:
    """Whether the sweep's rows are others than those that the operating points were chosen from.

    False before `select`, and where its file is of a version that does not say.
    """
    if not run.operating_points_file.exists():
        return False
    remedy = f"run `interp-steer select {run.path}` again"
    found = read_operating_points(run.operating_points_file, remedy=remedy)
    chosen_from = found.get("sweep")
    return chosen_from is not None and chosen_from != shards_digest(run.sweep_folder)


def run_report(run: Run, *, coherence_share: float | None = None) -> Report:
    """What `select` writes, computed from the rows of the sweep."""
    return report(read_rows(run), run_plan(run, coherence_share=coherence_share))


def run_plan(run: Run, *, coherence_share: float | None = None) -> Plan:
    """The plan of the run's report, as its manifest has it.

    Raises:
        RunError: the run has no sweep.
    """
    manifest = run.manifest
    if "sweep" not in manifest:
        raise RunError(
            f"the run {run.path} has no sweep; run `interp-steer sweep {run.path}` first"
        )
    scenarios, seed = run_scenarios(run), manifest["pins"]["generation"]["seed"]
    try:
        return plan_of(manifest["sweep"], scenarios, coherence_share=coherence_share, seed=seed)
    except (GridError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunError(
            f"{run.manifest_file} does not say what the sweep was to make ({error!r:.300}); run "
            f"`interp-steer sweep {run.path}` again"
        ) from error


def _measures(setting: SweepSetting) -> dict[str, object]:
    embedder = setting.embedder
    return {
        "judge_free": setting.judge_free,
        "embedder": None if embedder is None else embedder.identity(),
    }


def control_directions(study: Study) -> ControlDirections:
    """The directions of a run's controls, from its training residuals and its own probe's method.

    Raises:
        RunError: the run has no residuals.
    """
    return ControlDirections(
        load_residuals(study.run.residuals_file),
        scenario_ids=training_scenario_ids(read_responses(study.run)),
        method=study.run.manifest["pins"]["probe"],
        seed=study.sampling.seed,
    )


def _probes_hash(run: Run) -> str:
    digest = hashlib.sha256(run.probes_file.read_bytes())
    digest.update(run.probes_file.with_suffix(".safetensors").read_bytes())
    return digest.hexdigest()
