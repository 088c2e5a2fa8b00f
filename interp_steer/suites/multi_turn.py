"""Up to ten turns: do trait and coherence hold, and does the model begin to repeat itself?

Steering stays on in every turn. Each turn is generated from the whole conversation so far, as a
chat server does it: in scope `all` the earlier answers are edited again while they are read; in
scope `response` only the tokens that are being generated are. Earlier answers are the
configuration's own, so that errors add up as they would in use. A conversation that no longer fits
into the model's context ends there: its later turns are counted as missing.

Source: arXiv 2604.08169v2, section 4.4.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from interp_steer.analysis.frames import numbers, rows_where, texts, values_of
from interp_steer.cells import CELL_COLUMNS
from interp_steer.embedders import SentenceTransformerEmbedder
from interp_steer.judge_settings import read_judge_settings
from interp_steer.judges import judge_pin
from interp_steer.scenarios import Scenario
from interp_steer.suites.configurations import in_order, series_name
from interp_steer.suites.conversations import NO_ROOM, SCHEMA, ConversationUnit, Talk, chat_prompt
from interp_steer.suites.evaluation import Evaluation, study_pins
from interp_steer.suites.follow_ups import (
    ANY_TRAIT,
    SCRIPTED,
    OtherScenarios,
    Script,
    ScriptedTurns,
    SimulatedUser,
    read_follow_ups,
)
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.speaking import Guard, guarded
from interp_steer.suites.subject import Subject, clusters_of
from interp_steer.suites.summaries import (
    COHERENCE,
    TRAIT,
    Measure,
    Summary,
    cells_of,
    configuration_columns,
    configuration_values,
    estimates,
    figure_row,
    measure_columns,
    rows_of_cell,
    rows_of_cells,
    share,
)
from interp_steer.table_files import Column, Table
from interp_steer.traces import TraceRecorder, write_traces

NAME = "multi-turn"
REPETITION: tuple[Measure, ...] = (
    share("sentence_reuse", "sentences reused"),
    share("repeated_within", "4-grams repeated in the turn"),
    share("repeated_across", "4-grams of earlier turns"),
)
MEASURES = (TRAIT, COHERENCE, *REPETITION)


def run_multi_turn(subject: Subject) -> tuple[Evaluation, Summary]:
    """Hold the conversations that are missing, then summarise all of them by turn.

    Raises:
        EvaluationError: scenarios without chats, or follow-ups that cannot be read.
        RunError: rows were made under other settings, by name.
    """
    scenarios, talk = subject.scenarios(), _talk(subject)
    if any(scenario.is_raw for scenario in scenarios):
        raise EvaluationError("multi-turn needs chat scenarios; these are raw prompts")
    evaluation = Evaluation(subject.study.run, NAME, schema=SCHEMA, key=("scenario", *CELL_COLUMNS))
    evaluation.pin(_pins(subject, talk))
    cells = subject.configurations.cells("malicious")
    units = [
        ConversationUnit(scenario=scenario, cell=cell) for scenario in scenarios for cell in cells
    ]
    evaluation.complete(units, talk.hold, batch_size=subject.config.batch_size)
    _write_trace(evaluation, subject, scenarios[0])
    frame = rows_of_cells(evaluation.rows(), cells)
    cluster = clusters_of(scenarios)
    frame = rows_where(frame, [name in cluster for name in texts(frame, "scenario")])
    frame = frame.assign(cluster=[cluster[name] for name in texts(frame, "scenario")])
    return evaluation, _summary(frame, subject, talk)


def _talk(subject: Subject) -> Talk:
    config, study = subject.config, subject.study
    judge = subject.judge()
    embedder = None
    if config.embedder is not None:
        embedder = SentenceTransformerEmbedder(config.embedder, device=str(study.lm.device))
    if config.simulator is not None:
        if config.follow_ups is not None:
            raise EvaluationError("give --follow-ups or --simulator, not both")
        user = SimulatedUser(read_judge_settings(config.simulator).endpoint)
        return Talk(subject=subject, judge=judge, script=None, simulator=user, embedder=embedder)
    script: Script
    if config.follow_ups is not None:
        script = ScriptedTurns(follow_ups=read_follow_ups(config.follow_ups))
    elif judge.name == "exact":  # it, and the model it judges, know nothing but their grammar
        script = OtherScenarios(study.split("test"), seed=study.sampling.seed)
    else:
        script = ScriptedTurns(follow_ups=SCRIPTED.get(study.trait, ANY_TRAIT))
    return Talk(subject=subject, judge=judge, script=script, embedder=embedder)


def _pins(subject: Subject, talk: Talk) -> dict[str, object]:
    config, study = subject.config, subject.study
    user: object = None
    if talk.script is not None:
        turns = {
            s.id: [t.text for t in talk.script.turns(s, config.turns)] for s in study.split("test")
        }
        user = {"scripted": turns}
    elif config.simulator is not None:
        user = {"simulated": read_judge_settings(config.simulator).endpoint.identity()}
    return {
        **study_pins(study),
        "judge": judge_pin(talk.judge, study.scenarios),
        "turns": config.turns,
        "max_new_tokens": subject.settings().max_new_tokens,
        "user": user,
        "embedder": None if talk.embedder is None else talk.embedder.identity(),
    }


def _summary(frame: pd.DataFrame, subject: Subject, talk: Talk) -> Summary:
    points: list[dict[str, object]] = []
    lines = []
    shown = [m for m in MEASURES if talk.embedder is not None or m.name != "sentence_reuse"]
    for cell in in_order(cells_of(frame)):
        mine = rows_of_cell(frame, cell)
        is_drawn = not cell.is_steered or subject.configurations.is_point(cell)
        named = configuration_values(cell, subject.configurations)
        for turn in range(1, subject.config.turns + 1):
            rows = rows_where(mine, mine["turn"] == turn)
            found, n = estimates(rows, shown), len(rows) - _n_full(rows)
            lines.append({**named, "turn": turn, **found, "n": n})
            points += [
                figure_row(m.title, series_name(cell), turn, found[m.name], n)
                for m in shown
                if is_drawn and math.isfinite(found[m.name].value)
            ]
    columns = (*configuration_columns(), Column(name="turn", title="turn"), *measure_columns(shown))
    table = Table(
        name="by_turn",
        caption=(
            f"{subject.study.trait}: {len(values_of(frame, 'scenario'))} conversations of "
            f"{subject.config.turns} turns under each configuration, scope "
            f"{subject.configurations.scope}; 95 % intervals over scenarios."
        ),
        columns=columns,
        rows=tuple(lines),
    )
    notes = tuple(_notes(frame, talk))
    return Summary(tables=(table,), figure=pd.DataFrame(points), notes=notes)


def _n_full(frame: pd.DataFrame) -> int:
    return sum(reason == NO_ROOM for reason in texts(frame, "stop_reason"))


def _notes(frame: pd.DataFrame, talk: Talk) -> Iterator[str]:
    if talk.embedder is None:
        yield "sentence reuse is missing: give --embedder"
    if full := _n_full(frame):
        yield f"{full} turns of {len(frame)} are missing: the conversation filled the context"
    gaps = int(np.isnan(numbers(frame, "trait")).sum()) - full
    if gaps:
        yield f"the judge gave no trait for {gaps} turns; means are over the others"


def _write_trace(evaluation: Evaluation, subject: Subject, scenario: Scenario) -> None:
    """Trace the first scenario's conversation at the first operating point, turn by turn."""
    path = evaluation.store.path / "trace.parquet"
    cells = subject.configurations.steered("malicious")
    cell = next((c for c in cells if subject.configurations.is_point(c)), cells[0])
    if path.exists():
        return
    frame = rows_of_cells(evaluation.rows(), [cell])
    is_said = (frame["scenario"] == scenario.id) & (frame["stop_reason"] != NO_ROOM)
    frame = rows_where(frame, is_said)
    lm = subject.study.lm
    sequences = []
    said: list[tuple[str, str]] = []
    for row in frame.sort_values("turn").to_dict("records"):
        prompt = lm.tokenize(chat_prompt(scenario, cell.side, said, str(row["user"])))
        sequences.append(prompt.with_response([int(token) for token in row["token_ids"]]))
        said.append((str(row["user"]), str(row["response"])))
    recorder = TraceRecorder()
    with guarded(lm, [Guard.of([cell] * len(sequences), subject.probes)], recorder=recorder):
        lm.forward(sequences, return_logits=False)
    table = recorder.table(
        lm,
        sequences,
        samples=[f"{scenario.id}/{cell.label}/turn {t + 1}" for t in range(len(sequences))],
        scenarios=[scenario.id] * len(sequences),
        sides=[cell.side] * len(sequences),
        turns=list(range(1, len(sequences) + 1)),
    )
    write_traces(table, path)
