"""What a sweep sets out to do, and what its manifest says about it afterwards.

From a config: which scenarios choose, report and answer the extras; the grid, checked before
anything is generated; the rows that an operating point is held against. From a manifest: the plan
of the report, so that `select` looks for exactly what `sweep` was told to make.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from interp_steer.assignments import (
    Assignment,
    as_guard,
    by_cell,
    control_assignments,
    everywhere,
    restricted,
    with_control,
)
from interp_steer.candidates import unsteered
from interp_steer.cells import (
    BASELINES,
    DEFENDED,
    NEUTRAL,
    NONE,
    Cell,
    GridError,
    steered_grid,
)
from interp_steer.config import SweepConfig
from interp_steer.operating_points import Chosen, Plan
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.scenarios import Scenario
from interp_steer.scopes import Scope
from interp_steer.splits import (
    ScenarioSplit,
    SelectionError,
    balanced_order,
    halve_scenarios,
    split_scenarios,
)
from interp_steer.sweep_rows import Block


def planned_split(test: Sequence[Scenario], config: SweepConfig, *, seed: int) -> ScenarioSplit:
    """Which of the test scenarios choose, report and answer the extras.

    Raises:
        SelectionError: too few test scenarios for the protocol.
    """
    used = balanced_order(test, seed=seed)[: config.test_scenarios]
    if config.protocol == "two_fold":
        split = halve_scenarios(used, cluster_scenarios(used), seed=seed)
    else:
        n_selection = min(config.selection_scenarios, len(used) // 2)
        parted = split_scenarios(used, n_selection=n_selection, seed=seed)
        split = ScenarioSplit(
            selection=parted.selection, reporting=parted.reporting[: config.reporting_scenarios]
        )
    return split.with_answering(config.control_scenarios)


def grid_record(config: SweepConfig, layers: Sequence[int]) -> dict[str, Any]:
    """The grid as the manifest has it; `layers` are those with a probe.

    Raises:
        GridError: an empty grid, a layer without a probe, a threat that is none, an alpha that is
            not finite, or a number that makes no sense; by name.
        SteeringError: a scope that cannot be read.
    """
    _check_numbers(config)
    chosen = layers if config.layers is None else config.layers
    missing = sorted(set(chosen) - set(layers))
    if missing:
        raise GridError(
            f"no probe for layer {', '.join(map(str, missing))}; this run has probes for layers "
            f"{', '.join(map(str, layers))}"
        )
    if NONE in config.threats:
        raise GridError(
            "threats must be malicious_prompt or prefill:K, got none; what an operating point does "
            "without a threat is the extra `guard`"
        )
    record = {
        "protocol": config.protocol,
        "layers": list(chosen),
        "alphas": {method: list(alphas) for method, alphas in config.grid().items()},
        "scopes": [str(Scope.parse(scope)) for scope in config.scopes],
        "threats": list(config.threats),
    }
    grid_cells(record)
    return record


def grid_cells(record: Mapping[str, Any]) -> tuple[Cell, ...]:
    """The cells of a recorded grid.

    Raises:
        GridError: it is empty, or a cell of it makes no sense.
    """
    names = ("layers", "alphas", "scopes", "threats")
    return steered_grid(**{name: record[name] for name in names})


def screen_blocks(grid: Sequence[Cell], split: ScenarioSplit) -> list[Block]:
    """The baselines of every scenario, and the grid on those that choose."""
    threats = dict.fromkeys(cell.threat for cell in grid)
    baselines = dict.fromkeys([*BASELINES, *(unsteered(threat) for threat in threats)])
    return [
        Block(cells=tuple(baselines), scenarios=split.scenarios),
        Block(cells=tuple(grid), scenarios=split.selection),
    ]


def beside_blocks(
    points: Sequence[Chosen], split: ScenarioSplit, config: SweepConfig
) -> list[Block]:
    """Finalists on the reporting scenarios, and everything that stands beside the points."""
    reporting = [scenario.id for scenario in split.reporting]
    chats = [scenario.id for scenario in split.reporting if not scenario.is_raw]
    answering = [scenario.id for scenario in split.answering]
    talking = [scenario for scenario in answering if scenario in set(chats)]
    wanted: list[Assignment] = []
    if not split.halves:
        finalists = [score.cell for point in points for score in point.choice.best]
        wanted += [everywhere(cell, reporting) for cell in finalists]
    if "defence" in config.extras:
        wanted.append(everywhere(DEFENDED, chats))
    if "guard" in config.extras:
        wanted.append(everywhere(NEUTRAL, talking))
    for point in points:
        there = restricted(point.assignment, answering)
        for draws in control_assignments(there, n_draws=config.control_draws).values():
            wanted += draws
        if "mean_difference" in config.extras:
            wanted.append(with_control(there))
        if "guard" in config.extras:
            wanted += [
                as_guard(there, "aligned"),
                as_guard(restricted(there, talking), "neutral"),
            ]
    return _blocks(wanted, split.reporting)


def sweep_record(
    config: SweepConfig,
    split: ScenarioSplit,
    grid: Mapping[str, Any],
    *,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """What the manifest says about a sweep: its config, its scenarios, and all grids, this last.

    Args:
        config: of this sweep.
        split: of this sweep.
        grid: of this sweep (see `grid_record`).
        before: what the manifest said before.
    """
    grids = [earlier for earlier in before.get("grids", []) if earlier != grid]
    paths = {
        name: path and str(path)
        for name, path in (("embedder", config.embedder), ("judge_config", config.judge_config))
    }
    return {
        "config": asdict(config) | paths,
        "grids": [*grids, dict(grid)],
        "selection": [scenario.id for scenario in split.selection],
        "reporting": [scenario.id for scenario in split.reporting],
        "halves": [[scenario.id for scenario in half] for half in split.halves],
        "answering": [scenario.id for scenario in split.answering],
    }


def plan_of(
    record: Mapping[str, Any],
    scenarios: Iterable[Scenario],
    *,
    coherence_share: float | None = None,
    seed: int,
) -> Plan:
    """The plan of a report, from what the manifest says about the sweep.

    Args:
        record: see `sweep_record`; those of earlier versions have fewer keys.
        scenarios: all scenarios of the run.
        coherence_share: share of the aligned coherence to keep; None takes the sweep's.
        seed: seed of the bootstrap.
    """
    by_id, config = {scenario.id: scenario for scenario in scenarios}, record["config"]

    def of(ids: Sequence[str]) -> tuple[Scenario, ...]:
        return tuple(by_id[scenario] for scenario in ids)

    reporting, limit = record["reporting"], config["control_scenarios"]
    split = ScenarioSplit(
        selection=of(record["selection"]),
        reporting=of(reporting),
        halves=tuple(of(half) for half in record.get("halves", [])),
        answering=of(record.get("answering", reporting[:limit])),
    )
    grids = [grid for grid in record.get("grids", []) if grid["protocol"] == split.protocol]
    share = config["coherence_share"] if coherence_share is None else coherence_share
    return Plan(
        split=split,
        coherence_share=_checked_share(share),
        finalists=config["finalists"],
        control_draws=config["control_draws"],
        extras=tuple(config.get("extras", ())),
        screened=grid_cells(grids[-1]) if grids else None,
        earlier=tuple(grid_cells(grid) for grid in grids[:-1]),
        is_strict=share == config["coherence_share"],
        seed=seed,
    )


def _blocks(wanted: Sequence[Assignment], scenarios: Sequence[Scenario]) -> list[Block]:
    """One block for each set of scenarios, in their order."""
    together: dict[tuple[Scenario, ...], list[Cell]] = {}
    for cell, ids in by_cell(wanted).items():
        answering = set(ids)
        there = tuple(scenario for scenario in scenarios if scenario.id in answering)
        together.setdefault(there, []).append(cell)
    return [Block(cells=tuple(cells), scenarios=there) for there, cells in together.items()]


def _check_numbers(config: SweepConfig) -> None:
    _checked_share(config.coherence_share)
    least = {"selection_scenarios": 1, "finalists": 1, "control_draws": 0, "batch_size": 1}
    optional = {"test_scenarios": 2, "reporting_scenarios": 1, "control_scenarios": 1}
    for name, lowest in (least | optional).items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise GridError(f"{name} must be at least {lowest}, got {value}")


def _checked_share(share: float) -> float:
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise SelectionError(
            f"coherence_share must be a number from 0 to 1 (0.9: keep 90 %), got {share}"
        )
    return share
