"""The gaps of evaluations, asked for again: multi-turn, cross-trait and transfer.

MT-Bench and AlpacaEval keep answers and not verdicts; their judge is asked whenever their table is
made, so that running them again fills their gaps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interp_steer.cells import CELL_COLUMNS
from interp_steer.errors import RunError
from interp_steer.judges import Answer, Judge
from interp_steer.rescoring import Filling, Rescored, fill, missing_scores
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario, scenario_hash
from interp_steer.shards import read_shard
from interp_steer.study import run_scenarios
from interp_steer.suites.conversations import NO_ROOM, turn_answer
from interp_steer.suites.evaluation import evaluation_folder
from interp_steer.suites.follow_ups import UserTurn
from interp_steer.suites.foreign_files import read_foreign
from interp_steer.suites.settings import EvaluationError

SCORED = ("multi-turn", "cross-trait")
"""Evaluations whose rows hold a judge's scores, beside transfer-NAME."""
Row = Mapping[str, Any]


def gappy_evaluations(run: Run) -> tuple[str, ...]:
    """Names of the evaluations of a run that have a score missing."""
    folder = run.path / "evaluations"
    found = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    return tuple(name for name in found if _n_missing(Run(folder / name), name))


def rescore_multi_turn(run: Run, filling: Filling) -> Rescored:
    """Fill the gaps of conversations, each turn read after those before it.

    Raises:
        RunError: another judge, another writer, or a full disk.
        JudgeError: the judge failed; what was filled stays.
    """
    store = Run(evaluation_folder(run, "multi-turn"))
    scenarios = run_scenarios(run)
    by_id = {scenario.id: scenario for scenario in scenarios}
    is_scripted = "scripted" in (store.manifest["pins"].get("user") or {})

    def answers(rows: Sequence[dict[str, Any]], places: Sequence[int]) -> list[Answer]:
        talks: dict[tuple[object, ...], dict[int, Row]] = {}
        for row in rows:
            talks.setdefault(_talk(row), {})[row["turn"]] = row
        return [
            _turn(rows[i], talks[_talk(rows[i])], by_id[rows[i]["scenario"]], is_scripted)
            for i in places
        ]

    return fill(store, "", filling, scenarios, answers, part="multi-turn", is_asked=_is_said)


def rescore_cross_trait(
    run: Run, filling: Filling, *, other: Run | None, other_judge: Judge | None
) -> tuple[Rescored, ...]:
    """Fill the gaps of both traits' scenarios, each with its own judge.

    Args:
        run: the run that was evaluated.
        filling: who fills what is about the run's own trait.
        other: the run of the other trait; None where it is not known.
        other_judge: the judge of the other trait.

    Raises:
        EvaluationError: the other run is not known.
        RunError: another judge, another run, another writer, or a full disk.
        JudgeError: a judge failed; what was filled stays.
    """
    store = Run(evaluation_folder(run, "cross-trait"))
    if other is None or other_judge is None:
        raise EvaluationError(
            f"the gaps of {store.path} are about two runs, and it does not say which the other is; "
            "give --other"
        )
    filled = []
    for place, (one, judge) in enumerate(((run, filling.judge), (other, other_judge))):
        scenarios = run_scenarios(one)
        by_id = {scenario.id: scenario for scenario in scenarios}
        trait = scenarios[0].trait
        filled.append(
            fill(
                _OtherPins(store.path) if place else store,
                "",
                replace(filling, judge=judge),
                scenarios,
                lambda rows, places, by_id=by_id: _plain(rows, places, by_id),
                part=f"cross-trait, {trait}",
                is_asked=lambda row, trait=trait: row["trait_asked"] == trait,
            )
        )
    return tuple(filled)


def rescore_transfer(
    run: Run, name: str, filling: Filling, *, file: Path | None, source: str
) -> Rescored:
    """Fill the gaps of an evaluation on other scenarios.

    Args:
        run: the run that was evaluated.
        name: transfer-NAME.
        filling: who fills.
        file: the file that it was made with.
        source: what the file is.

    Raises:
        EvaluationError: no such evaluation, or no file.
        RunError: other scenarios, another judge, another writer, or a full disk.
        JudgeError: the judge failed; what was filled stays.
    """
    store = Run(evaluation_folder(run, name))
    if not name.startswith("transfer-") or not store.manifest_file.exists():
        raise EvaluationError(
            f"the run {run.path} has no evaluation {name!r} with a judge's scores; they are "
            f"{', '.join(SCORED)}, transfer-NAME"
        )
    if file is None:
        raise EvaluationError(
            f"the gaps of {name} are about other scenarios; give --scenarios FILE"
        )
    scenarios = read_foreign(file, source=source, trait=str(run.manifest["trait"]))
    store.check_pins({"transfer": {"source": source, "scenarios": scenario_hash(scenarios)}})
    by_id = {scenario.id: scenario for scenario in scenarios}
    return fill(
        store,
        "sweep",
        filling,
        scenarios,
        lambda rows, places: _plain(rows, places, by_id),
        part=name,
    )


class _OtherPins(Run):
    """A cross-trait folder whose judge is that of the other trait."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, with the other trait's pins in the place of its own."""
        found = Run(self.path).manifest
        return {**found, "pins": found["pins"]["other"]}


def other_run(run: Run, given: Path | None) -> Run | None:
    """The other run of cross-trait: the one given, or the one that its rows were made with.

    Raises:
        RunError: there is no run, or one with other scenarios than the rows were made with.
    """
    store = Run(evaluation_folder(run, "cross-trait"))
    manifest = store.manifest
    path = given or manifest.get("other_run")
    if path is None:
        return None
    other = Run.open(path)
    made_with = manifest["pins"]["other"]["scenarios"]
    if other.manifest["pins"]["scenarios"] != made_with:
        raise RunError(
            f"the run {other.path} is not the one that {store.path} was made with: its scenarios "
            f"are {other.manifest['pins']['scenarios']!s:.12}, expected {made_with!s:.12}; give "
            "that one with --other"
        )
    return other


def _n_missing(store: Run, name: str) -> int:
    folder = "sweep" if name.startswith("transfer-") else ""
    if name not in SCORED and not folder:
        return 0
    tables = (read_shard(path) for path in store.shards(folder))
    rows = (row for table in tables for row in table.to_pylist())
    return sum(len(missing_scores(row)) for row in rows if _is_said(row))


def _plain(
    rows: Sequence[Row], places: Sequence[int], by_id: Mapping[str, Scenario]
) -> list[Answer]:
    return [
        Answer(
            scenario=by_id[rows[i]["scenario"]],
            text=rows[i]["response"],
            stopped=rows[i]["stop_reason"] == "stop_token",
        )
        for i in places
    ]


def _turn(row: Row, talk: Mapping[int, Row], scenario: Scenario, is_scripted: bool) -> Answer:
    turn = row["turn"]
    before = [(talk[t]["user"], talk[t]["response"]) for t in range(1, turn)]
    reference = scenario.reference if turn == 1 or is_scripted else None
    user = UserTurn(text=row["user"], reference=reference)
    stopped = row["stop_reason"] == "stop_token"
    return turn_answer(scenario, user, before, text=row["response"], stopped=stopped)


def _talk(row: Row) -> tuple[object, ...]:
    return (row["scenario"], *(row[name] for name in CELL_COLUMNS))


def _is_said(row: Row) -> bool:
    return row["stop_reason"] != NO_ROOM
