"""What one guard does to the other trait, and what both do together.

Two runs of one model: scenarios of both are answered unsteered, under the own trait's guard, under
the other's, under both at once (the run's own guard first, `speaking`), and under controls of the
other guard. Judged is the scenario's own trait. A guard that leaves the other trait alone under a
malicious prompt shows no interference on these scenarios; guards may still meet elsewhere.
"""

from collections.abc import Sequence

import pyarrow as pa

from interp_steer.analysis.frames import rows_where
from interp_steer.judges import Answer, judge_pin, score_answers
from interp_steer.model import Generation
from interp_steer.scenarios import scenario_hash
from interp_steer.suites.cross_trait_tables import cross_trait_summary
from interp_steer.suites.evaluation import Evaluation, study_pins
from interp_steer.suites.guard_units import KEY, SCHEMA, GuardedUnit, guard_units
from interp_steer.suites.speaking import Guard, speak
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import Summary
from interp_steer.suites.trait_sides import NAME, Side, both_sides
from interp_steer.sweep_rows import sample_key


def run_cross_trait(subject: Subject) -> tuple[Evaluation, Summary]:
    """Answer what is missing, then summarise.

    Raises:
        EvaluationError: no other run, the same trait, or another model.
        RunError: a run without operating points, or rows made under other settings, by name.
    """
    sides = both_sides(subject)
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
        },
        other_run=str(sides[1].study.run.path.resolve()),
    )
    units = _units(subject, sides)
    evaluation.complete(
        units, lambda some: _answer(subject, sides, some), batch_size=subject.config.batch_size
    )
    wanted = {unit.key for unit in units}
    rows = evaluation.rows()
    keys = list(zip(*rows.select(list(KEY)).to_pydict().values(), strict=True))
    frame = rows_where(rows.to_pandas(), [key in wanted for key in keys])
    return evaluation, cross_trait_summary(frame, sides)


def _units(subject: Subject, sides: Sequence[Side]) -> list[GuardedUnit]:
    config = subject.config
    return [
        unit
        for asked, (side, other) in enumerate((sides, sides[::-1]))
        for scenario in side.scenarios
        for unit in guard_units(
            scenario,
            asked,
            (side.points, other.points),
            methods=config.methods,
            n_draws=config.control_draws,
        )
    ]


def _answer(subject: Subject, sides: Sequence[Side], units: Sequence[GuardedUnit]) -> pa.Table:
    lm = subject.study.lm
    # The run's own trait is the first guard of every row, whichever trait the row is asked about.
    cells = [
        (unit.own, unit.other) if unit.asked == 0 else (unit.other, unit.own) for unit in units
    ]
    guards = [
        Guard.of([pair[place] for pair in cells], side.probes, directions=side.directions)
        for place, side in enumerate(sides)
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
