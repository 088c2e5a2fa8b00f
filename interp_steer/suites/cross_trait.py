"""What one guard does to the other trait, and what both do together.

Two runs of one model: scenarios of both are answered unsteered, under the own trait's guard, under
the other's, and under both at once (the run's own guard first, `speaking`). Judged is the
scenario's own trait. A guard that leaves the other trait alone under a malicious prompt shows no
interference on these scenarios; guards may still meet elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import pyarrow as pa

from interp_steer.analysis.frames import rows_where, texts
from interp_steer.cells import Cell
from interp_steer.fit_stage import load_probes
from interp_steer.intervals import Estimate
from interp_steer.judges import Answer, Judge, judge_pin, score_answers
from interp_steer.model import Generation
from interp_steer.probes import ProbeSet
from interp_steer.report_text import METHOD_NAMES
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario, scenario_hash
from interp_steer.splits import balanced_order
from interp_steer.study import Study, reopen_study
from interp_steer.suites.configurations import Configurations
from interp_steer.suites.evaluation import Evaluation, study_pins
from interp_steer.suites.settings import EvaluationError, required
from interp_steer.suites.speaking import Guard, speak
from interp_steer.suites.subject import Subject, clusters_of, suite_judge
from interp_steer.suites.summaries import (
    COHERENCE,
    TRAIT,
    Summary,
    estimates,
    measure_columns,
    paired_change,
)
from interp_steer.sweep_rows import sample_key
from interp_steer.table_files import Column, Table

NAME = "cross-trait"
Guards = Literal["aligned", "none", "own", "other", "both"]
"""Which guards are on; aligned and none are the unsteered baselines."""
SCHEMA = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("trait_asked", pa.string(), nullable=False),
        pa.field("guards", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("own_layer", pa.int32()),
        pa.field("own_alpha", pa.float64()),
        pa.field("other_layer", pa.int32()),
        pa.field("other_alpha", pa.float64()),
        pa.field("response", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("trait", pa.float64()),
        pa.field("coherence", pa.float64()),
    ]
)
"""own and other are relative to the scenario's trait; null where that guard is off."""
KEY = "scenario trait_asked guards method scope own_layer own_alpha other_layer other_alpha".split()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedUnit:
    """One scenario under some guards."""

    scenario: Scenario
    """What is asked."""
    asked: int
    """0 for a scenario of the run, 1 for one of the other run."""
    guards: Guards
    """Which guards are on."""
    own: Cell | None
    """The guard of the scenario's trait, where it is on."""
    other: Cell | None
    """The other guard, where it is on."""

    @property
    def cell(self) -> Cell:
        """One of its cells; for progress."""
        found = self.own or self.other
        return found if found is not None else Cell(side=self.side, threat=self.threat)

    @property
    def side(self) -> Literal["aligned", "malicious"]:
        """Whose system prompt."""
        return "aligned" if self.guards == "aligned" else "malicious"

    @property
    def threat(self) -> str:
        """As in a sweep's cells."""
        return "none" if self.guards == "aligned" else "malicious_prompt"

    def record(self) -> dict[str, object]:
        """The key as columns."""
        steered = self.own or self.other
        return {
            "scenario": self.scenario.id,
            "trait_asked": self.scenario.trait,
            "guards": self.guards,
            "method": "none" if steered is None else steered.method,
            "scope": "none" if steered is None else steered.scope,
            "own_layer": None if self.own is None else self.own.layer,
            "own_alpha": None if self.own is None else self.own.alpha,
            "other_layer": None if self.other is None else self.other.layer,
            "other_alpha": None if self.other is None else self.other.alpha,
        }

    @property
    def key(self) -> tuple[object, ...]:
        """See `KEY`."""
        return tuple(self.record().values())


def run_cross_trait(subject: Subject) -> tuple[Evaluation, Summary]:
    """Answer what is missing, then summarise.

    Raises:
        EvaluationError: no other run, the same trait, or another model.
        RunError: a run without operating points, or rows made under other settings, by name.
    """
    sides = (_own_side(subject), _other_side(subject))
    evaluation = Evaluation(subject.study.run, NAME, schema=SCHEMA, key=KEY)
    evaluation.pin(
        {
            **study_pins(subject.study),
            "judge": judge_pin(sides[0].judge, sides[0].study.scenarios),
            "other": {
                "scenarios": scenario_hash(sides[1].study.scenarios),
                "probes": study_pins(sides[1].study)["probes"],
                "judge": judge_pin(sides[1].judge, sides[1].study.scenarios),
            },
            "max_new_tokens": subject.settings().max_new_tokens,
        }
    )
    units = _units(sides, subject.config.methods)
    evaluation.complete(
        units, lambda some: _answer(subject, sides, some), batch_size=subject.config.batch_size
    )
    wanted = {unit.key for unit in units}
    rows = evaluation.rows()
    keys = list(zip(*rows.select(list(KEY)).to_pydict().values(), strict=True))
    frame = rows_where(rows.to_pandas(), [key in wanted for key in keys])
    return evaluation, _summary(frame, sides)


def _own_side(subject: Subject) -> Side:
    return Side(
        study=subject.study,
        probes=subject.probes,
        points=_points(subject.study.run, subject.configurations, subject.config.methods),
        judge=subject.judge(),
        scenarios=subject.scenarios(),
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
    )


def _refuse_another_model(run: Run, other: Run) -> None:
    """Compare by the hash of the weights, before the other run is opened on this run's model."""
    own, its = (one.manifest["pins"].get("weights") for one in (run, other))
    if own != its:
        raise EvaluationError(
            f"cross-trait needs two runs of one model: {run.path} has weights {own!s:.12}, "
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


def _units(sides: Sequence[Side], methods: Sequence[str]) -> list[GuardedUnit]:
    units = []
    for asked, (side, other) in enumerate((sides, sides[::-1])):
        for scenario in side.scenarios:
            for guards in ("aligned", "none"):
                units.append(_unit(scenario, asked, guards, None, None))
            for method in methods:
                own, its = side.points[method], other.points[method]
                units += [
                    _unit(scenario, asked, "own", own, None),
                    _unit(scenario, asked, "other", None, its),
                    _unit(scenario, asked, "both", own, its),
                ]
    return units


def _unit(scenario: Scenario, asked: int, guards: Guards, *cells: Cell | None) -> GuardedUnit:
    own, other = cells
    return GuardedUnit(scenario=scenario, asked=asked, guards=guards, own=own, other=other)


def _answer(subject: Subject, sides: Sequence[Side], units: Sequence[GuardedUnit]) -> pa.Table:
    lm = subject.study.lm
    # The run's own trait is the first guard of every row, whichever trait the row is asked about.
    cells = [
        (unit.own, unit.other) if unit.asked == 0 else (unit.other, unit.own) for unit in units
    ]
    guards = [
        Guard.of([pair[place] for pair in cells], side.probes) for place, side in enumerate(sides)
    ]
    made = speak(
        lm,
        [lm.tokenize(unit.scenario.prompt(unit.side)) for unit in units],
        guards,
        subject.settings(),
        sample_keys=[sample_key(unit.scenario.id, 0) for unit in units],
    )
    return pa.Table.from_pylist(_scored(sides, units, made), schema=SCHEMA)


def _scored(
    sides: Sequence[Side], units: Sequence[GuardedUnit], made: Sequence[Generation]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for asked, side in enumerate(sides):
        pairs = [(u, m) for u, m in zip(units, made, strict=True) if u.asked == asked]
        answers = [
            Answer(scenario=u.scenario, text=m.text, stopped=m.stop_reason == "stop_token")
            for u, m in pairs
        ]
        for (unit, one), score in zip(pairs, score_answers(side.judge, answers), strict=True):
            rows.append(
                {
                    **unit.record(),
                    "response": one.text,
                    "n_tokens": len(one.token_ids),
                    "stop_reason": one.stop_reason,
                    "judge": side.judge.name,
                    "trait": score.trait,
                    "coherence": score.coherence,
                }
            )
    return rows


def _summary(frame: pd.DataFrame, sides: Sequence[Side]) -> Summary:
    cluster = {key: c for side in sides for key, c in clusters_of(side.scenarios).items()}
    frame = frame.assign(
        item=frame["scenario"], cluster=[cluster[s] for s in texts(frame, "scenario")]
    )
    lines: list[dict[str, str | int | float | Estimate | None]] = []
    for side in sides:
        asked = rows_where(frame, frame["trait_asked"] == side.study.trait)
        none = rows_where(asked, asked["guards"] == "none")
        for method in dict.fromkeys(["none", *side.points]):
            for guards in get_args(Guards):
                is_it = (asked["guards"] == guards) & (asked["method"] == method)
                rows = rows_where(asked, is_it)
                if rows.empty:
                    continue
                lines.append(
                    {
                        "asked": side.study.trait,
                        "guards": guards if method != "none" else f"unsteered, {_baseline(guards)}",
                        "method": METHOD_NAMES.get(method, ""),
                        **estimates(rows, (TRAIT, COHERENCE)),
                        "change": None if guards == "none" else paired_change(rows, none, TRAIT),
                        "n": len(rows),
                    }
                )
    trait, coherence, n = measure_columns((TRAIT, COHERENCE))
    table = Table(
        name="cross_trait",
        caption=(
            f"Guards of {sides[0].study.trait} and {sides[1].study.trait} on each other's "
            "scenarios, malicious prompt unless named; own is the guard of the trait that is asked "
            "and judged; 95 % intervals over scenarios."
        ),
        columns=(
            Column(name="asked", title="scenarios and judge"),
            Column(name="method", title="method"),
            Column(name="guards", title="guards"),
            trait,
            Column(name="change", title="trait against unsteered", digits=1),
            coherence,
            n,
        ),
        rows=tuple(lines),
    )
    return Summary(tables=(table,))


def _baseline(guards: str) -> str:
    return "aligned prompt" if guards == "aligned" else "malicious prompt"
