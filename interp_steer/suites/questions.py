"""Answers of every configuration to a file of questions, kept apart from what judges say of them.

What MT-Bench and AlpacaEval share: one or more user turns without a system prompt, answered under
steering, one row a turn. Answers cost the model's time, ratings cost the judge's; ratings have a
cache of their own (`judge_cache`), so that either can be had anew without the other.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from interp_steer.cells import CELL_COLUMNS, NEUTRAL, Cell
from interp_steer.judge_settings import JudgeSettings, read_judge_settings
from interp_steer.model import Prompt
from interp_steer.scenarios import Message
from interp_steer.suites.capabilities import Question, QuestionUnit, question_units
from interp_steer.suites.evaluation import Evaluation, cell_record, study_pins
from interp_steer.suites.ratings import QualityJudge
from interp_steer.suites.settings import EvaluationError, SuiteName
from interp_steer.suites.speaking import Guard, speak
from interp_steer.suites.subject import Subject
from interp_steer.sweep_rows import CELL_FIELDS

SCHEMA = pa.schema(
    [
        pa.field("question", pa.string(), nullable=False),
        *CELL_FIELDS,
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
    ]
)
"""One row a turn, counted from 1."""
MAX_NEW_TOKENS = 1024


def answered(
    subject: Subject, suite: SuiteName, questions: Sequence[Question]
) -> tuple[Evaluation, tuple[Cell, ...]]:
    """Answer every question under every configuration; the rows, and whose they are.

    Raises:
        EvaluationError: a question that leaves no room in the model's context.
        RunError: rows were made under other settings, by name.
    """
    key = ("question", *CELL_COLUMNS)
    evaluation = Evaluation(subject.study.run, suite, schema=SCHEMA, key=key)
    settings = subject.settings(MAX_NEW_TOKENS)
    evaluation.pin(
        {
            **study_pins(subject.study),
            "questions": {q.id: list(q.turns) for q in questions},
            "max_new_tokens": settings.max_new_tokens,
        }
    )
    cells = (NEUTRAL, *subject.configurations.steered("neutral"))

    def make(units: Sequence[QuestionUnit]) -> pa.Table:
        return pa.Table.from_pylist(_rows(subject, units), schema=SCHEMA)

    asked = questions[: subject.config.limit]
    evaluation.complete(question_units(asked, cells), make, batch_size=subject.config.batch_size)
    return evaluation, cells


def quality_judge(subject: Subject) -> QualityJudge:
    """The judge of quality at the endpoint of --judge-config, or of the paper's defaults."""
    path = subject.config.judge_config
    return QualityJudge(JudgeSettings() if path is None else read_judge_settings(path))


def _rows(subject: Subject, units: Sequence[QuestionUnit]) -> list[dict[str, Any]]:
    lm, settings = subject.study.lm, subject.settings(MAX_NEW_TOKENS)
    said: list[list[Message]] = [[] for _ in units]
    rows: list[dict[str, Any]] = []
    for turn in range(max(len(unit.question.turns) for unit in units)):
        asked = [i for i, unit in enumerate(units) if turn < len(unit.question.turns)]
        for i in asked:
            said[i].append(Message(role="user", content=units[i].question.turns[turn]))
        prompts = [lm.tokenize(Prompt(messages=tuple(said[i]))) for i in asked]
        for i, prompt in zip(asked, prompts, strict=True):
            if len(prompt) >= lm.n_ctx:
                raise EvaluationError(
                    f"question {units[i].question.id}, turn {turn + 1}, has {len(prompt)} tokens "
                    f"and the model's context is {lm.n_ctx}; leave it out of the file, or lower "
                    "--max-new-tokens"
                )
        made = speak(
            lm,
            prompts,
            [Guard.of([units[i].cell for i in asked], subject.probes)],
            settings,
            sample_keys=[f"{units[i].question.id}\x1fturn {turn + 1}" for i in asked],
        )
        for i, one in zip(asked, made, strict=True):
            said[i].append(Message(role="assistant", content=one.text or " "))
            rows.append(
                {
                    "question": units[i].question.id,
                    **cell_record(units[i].cell),
                    "turn": turn + 1,
                    "response": one.text,
                    "n_tokens": len(one.token_ids),
                    "stop_reason": one.stop_reason,
                }
            )
    return rows
