"""The bundled model's multiple choice, steered: a capability that runs without another package.

The questions are about the facts that honesty scenarios ask for, without a system prompt, answered
greedily; right is the true option and nothing else. It is the bundled model's own test: chance is
25 %, and no other model knows these facts.
"""

import filecmp
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from interp_steer.analysis.frames import rows_where, texts
from interp_steer.cells import CELL_COLUMNS, NEUTRAL
from interp_steer.intervals import PERCENT
from interp_steer.model import Prompt
from interp_steer.organism import MODEL_DIR, multiple_choice_questions
from interp_steer.suites.capabilities import (
    Question,
    QuestionUnit,
    capability_summary,
    question_units,
)
from interp_steer.suites.evaluation import Evaluation, cell_record, study_pins
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.speaking import Guard, speak
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import Measure, Summary, rows_of_cells
from interp_steer.sweep_rows import CELL_FIELDS

NAME = "choice"
SCHEMA = pa.schema(
    [
        pa.field("question", pa.string(), nullable=False),
        *CELL_FIELDS,
        pa.field("answer", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("right", pa.float64(), nullable=False),
    ]
)
ACCURACY = Measure(name="right", title="multiple choice (% right)", bounds=PERCENT)
N_ANSWER_TOKENS = 8


def _is_bundled(model: Path) -> bool:
    """Whether a directory holds the bundled model's weights, wherever it lies."""
    weights = model / "model.safetensors"
    return weights.exists() and filecmp.cmp(weights, MODEL_DIR / weights.name, shallow=False)


def run_choice(subject: Subject) -> tuple[Evaluation, Summary]:
    """Ask the questions that are missing, then summarise.

    Raises:
        EvaluationError: the run is of another model than the bundled one.
        RunError: rows were made under other settings, by name.
    """
    if not _is_bundled(Path(subject.study.run.manifest["sources"]["model"])):
        raise EvaluationError(
            "the questions of the suite choice are about the bundled model's facts, and this run "
            "is of another model; use --suite mmlu"
        )
    settings = replace(subject.settings(), temperature=0.0, max_new_tokens=N_ANSWER_TOKENS)
    evaluation = Evaluation(subject.study.run, NAME, schema=SCHEMA, key=("question", *CELL_COLUMNS))
    questions = _questions()[: subject.config.limit]
    evaluation.pin({**study_pins(subject.study), "questions": [q.turns[0] for q in _questions()]})
    cells = (NEUTRAL, *subject.configurations.steered("neutral"))

    def make(units: Sequence[QuestionUnit]) -> pa.Table:
        lm = subject.study.lm
        made = speak(
            lm,
            [lm.tokenize(Prompt.chat(unit.question.turns[0])) for unit in units],
            [Guard.of([unit.cell for unit in units], subject.probes)],
            settings,
            sample_keys=[unit.question.id for unit in units],
        )
        rows = [
            {
                "question": unit.question.id,
                **cell_record(unit.cell),
                "answer": unit.question.references[0],
                "response": one.text,
                "right": 100.0 * (one.text.strip() == unit.question.references[0]),
            }
            for unit, one in zip(units, made, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    size = max(subject.config.batch_size, 256)
    evaluation.complete(question_units(questions, cells), make, batch_size=size)
    frame = rows_of_cells(evaluation.rows(), cells)
    asked = {question.id for question in questions}
    frame = rows_where(frame, [name in asked for name in texts(frame, "question")])
    frame = frame.assign(item=frame["question"], cluster=frame["question"])
    return evaluation, capability_summary(
        frame,
        ACCURACY,
        subject.configurations,
        name="choice",
        caption=(
            f"The bundled model's {len(questions)} multiple-choice questions, no system prompt, "
            f"greedy, scope {subject.configurations.scope}; chance 25 %; 95 % intervals over "
            "questions."
        ),
    )


def _questions() -> list[Question]:
    return [
        Question(
            id=f"choice {place}",
            turns=(one.question.messages[-1].content,),
            references=(one.answer,),
        )
        for place, one in enumerate(multiple_choice_questions())
    ]
