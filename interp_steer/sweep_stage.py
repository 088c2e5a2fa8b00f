"""The stages that choose: a screen of the grid, finalists and controls, the operating points.

A stage does only what is missing in the run. A grid may grow or shrink between calls; what would
change a row already there is pinned and refused by name.
"""

import hashlib
from dataclasses import asdict

from interp_steer.cells import BASELINES, control_cells, steered_grid
from interp_steer.config import SweepConfig
from interp_steer.controls import ControlDirections
from interp_steer.errors import RunError
from interp_steer.fit_stage import load_probes, read_responses, training_scenario_ids
from interp_steer.judges import Judge
from interp_steer.probes import ProbeSet
from interp_steer.reporting import Report, report
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run, atomic_write_json
from interp_steer.selection import ScenarioSplit, choose, split_scenarios
from interp_steer.study import Study, run_scenarios
from interp_steer.summary import report_as_operating_points, report_as_summary
from interp_steer.sweep import Block, SweepSetting, read_rows, run_cells


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
        scenario_ids=training_scenario_ids(read_responses(study.run)),
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
