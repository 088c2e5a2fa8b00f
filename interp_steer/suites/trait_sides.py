"""The two runs that cross-trait compares: one model, two traits, guards and judge of each.

Both are opened on the model of the run that is evaluated, after their hashes of weights and
config were compared: a direction of one model means nothing in another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp_steer.cells import Cell
from interp_steer.controls import ControlDirections
from interp_steer.fit_stage import load_probes
from interp_steer.judges import Judge
from interp_steer.model_identity import IMPLIED
from interp_steer.probes import ProbeSet
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario
from interp_steer.splits import balanced_order
from interp_steer.study import Study, reopen_study
from interp_steer.suites.configurations import Configurations
from interp_steer.suites.settings import EvaluationError, required
from interp_steer.suites.subject import Subject, suite_judge
from interp_steer.sweep_stage import control_directions

NAME = "cross-trait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two traits."""

    study: Study
    """Its run, with the shared model."""
    probes: ProbeSet
    """Its probes."""
    points: Mapping[str, Cell]
    """Its operating point by method."""
    judge: Judge
    """Scores its trait."""
    scenarios: tuple[Scenario, ...]
    """Its test scenarios."""
    directions: ControlDirections | None
    """Of the controls of its guard; None where no control is wanted."""


def both_sides(subject: Subject) -> tuple[Side, Side]:
    """The run's own side, then the other.

    Raises:
        EvaluationError: no other run, the same trait, or another model.
        RunError: a run without operating points.
    """
    return _own_side(subject), _other_side(subject)


def _own_side(subject: Subject) -> Side:
    return Side(
        study=subject.study,
        probes=subject.probes,
        points=_points(subject.study.run, subject.configurations, subject.config.methods),
        judge=subject.judge(),
        scenarios=subject.scenarios(),
        directions=_directions(subject, subject.study),
    )


def _other_side(subject: Subject) -> Side:
    config, study = subject.config, subject.study
    path = required(config.other, option="other", suite=NAME, what="the run of the other trait")
    _refuse_another_model(study.run, Run.open(path))
    other = reopen_study(path, lm=study.lm)
    if other.trait == study.trait:
        raise EvaluationError(
            f"cross-trait compares two traits, and both runs are about {study.trait}; give --other "
            "the run of another trait"
        )
    chosen = Configurations(other.run, config, with_grid=False)
    ordered = balanced_order(other.split("test"), seed=other.sampling.seed)
    return Side(
        study=other,
        probes=load_probes(other.run),
        points=_points(other.run, chosen, config.methods),
        judge=subject.given_judge or suite_judge(other, config),
        scenarios=tuple(ordered[: config.limit]),
        directions=_directions(subject, other),
    )


def _directions(subject: Subject, study: Study) -> ControlDirections | None:
    return control_directions(study) if subject.config.control_draws else None


def _refuse_another_model(run: Run, other: Run) -> None:
    """Compare by the hash of the weights, before the other run is opened on this run's model."""
    pins = [one.manifest["pins"] for one in (run, other)]
    for name in ("weight_processing", "weights", "config"):
        own, its = (one.get(name, IMPLIED.get(name)) for one in pins)
        if own != its and not (name == "config" and None in (own, its)):  # an earlier version's run
            raise EvaluationError(
                f"cross-trait needs two runs of one model: {run.path} has {name} {own!s:.12}, "
                f"{other.path} has {its!s:.12}; directions of one model mean nothing in another"
            )


def _points(run: Run, chosen: Configurations, methods: Sequence[str]) -> dict[str, Cell]:
    found = {method: chosen.point(method) for method in methods}
    if missing := [method for method, point in found.items() if point is None]:
        raise EvaluationError(
            f"the run {run.path} has no operating point of {', '.join(missing)} in scope "
            f"{chosen.scope}; run `interp-steer select {run.path}`, or leave the method out"
        )
    return {method: point for method, point in found.items() if point is not None}
