"""MMLU, or any other multiple-choice task, through lm-evaluation-harness (the extra `eval`).

Prompts, options and scoring are the harness's; steering is ours, and a scored continuation is the
response. A configuration is one unit: a kill loses the configuration under way. Answers under a few
examples in plain text are not how a chat model is used; a capability that stays here may still be
lost in conversation.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from interp_steer.cells import CELL_COLUMNS, NEUTRAL, Cell
from interp_steer.intervals import PERCENT
from interp_steer.suites.capabilities import capability_summary
from interp_steer.suites.evaluation import (
    Evaluation,
    cell_key,
    cell_record,
    study_pins,
)
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import Measure, Summary, rows_of_cells
from interp_steer.sweep_rows import CELL_FIELDS

NAME = "mmlu"
SCHEMA = pa.schema(
    [
        *CELL_FIELDS,
        pa.field("task", pa.string(), nullable=False),
        pa.field("question", pa.int32(), nullable=False),
        pa.field("right", pa.float64(), nullable=False),
    ]
)
"""One row a question; right is 0 or 100."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellUnit:
    """All tasks under one configuration."""

    cell: Cell
    """The configuration."""

    @property
    def key(self) -> tuple[object, ...]:
        """The configuration."""
        return cell_key(self.cell)


def run_mmlu(subject: Subject) -> tuple[Evaluation, Summary]:
    """Run the tasks under the configurations that are missing, then summarise.

    Raises:
        EvaluationError: the extra `eval` is not installed, a task is unknown, or has no accuracy.
        RunError: rows were made under other settings, by name.
    """
    config = subject.config
    version = _harness_version()
    evaluation = Evaluation(subject.study.run, NAME, schema=SCHEMA, key=CELL_COLUMNS)
    evaluation.pin(
        {
            **study_pins(subject.study),
            "tasks": list(config.tasks),
            "few_shot": config.few_shot,
            "limit": config.limit,
            "harness": version,
        }
    )
    cells = (NEUTRAL, *subject.configurations.steered("neutral"))

    def make(units: Sequence[CellUnit]) -> pa.Table:
        rows = [row for unit in units for row in _run_tasks(subject, unit.cell)]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    evaluation.complete([CellUnit(cell=cell) for cell in cells], make, batch_size=1)
    frame = rows_of_cells(evaluation.rows(), cells)
    items = [f"{t} {q}" for t, q in zip(frame["task"], frame["question"], strict=True)]
    frame = frame.assign(item=items, cluster=items)
    tasks = ", ".join(config.tasks)
    return evaluation, capability_summary(
        frame,
        Measure(name="right", title=f"{tasks} (% right)", bounds=PERCENT),
        subject.configurations,
        name="mmlu",
        caption=(
            f"{tasks} by lm-evaluation-harness {version}, scope {subject.configurations.scope}, "
            "plain prompts; every question counts alike; 95 % intervals over questions."
        ),
    )


def _harness_version() -> str:
    try:
        import lm_eval
    except ImportError as error:
        raise EvaluationError(
            "the suite mmlu needs lm-evaluation-harness, which is not installed; run: pip install "
            "'interp-steer[eval]'"
        ) from error
    return str(lm_eval.__version__)


def _run_tasks(subject: Subject, cell: Cell) -> list[dict[str, Any]]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from interp_steer.suites.steered_lm import SteeredLM

    config = subject.config
    folder = None if config.task_folder is None else str(config.task_folder)
    # The harness's own thousands of tasks take a minute to list.
    manager = TaskManager(include_path=folder, include_defaults=folder is None)
    known = set(manager.all_tasks)
    if missing := [name for name in config.tasks if name not in known]:
        raise EvaluationError(
            f"lm-evaluation-harness knows no task {', '.join(missing)}; give --task-folder with "
            "its YAML file, or a name of `lm-eval ls tasks`"
        )
    model = SteeredLM(subject.study.lm, cell, subject.probes, batch_size=config.batch_size)
    run: Any = simple_evaluate  # a decorator of the harness hides its parameters from checkers
    found = run(
        model=model,
        tasks=list(config.tasks),
        num_fewshot=config.few_shot,
        limit=config.limit,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    if found is None:
        raise EvaluationError("lm-evaluation-harness returned no results")
    return [row for task, rows in found["samples"].items() for row in _rows(cell, task, rows)]


def _rows(cell: Cell, task: str, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for sample in samples:
        if "acc" not in sample:
            raise EvaluationError(
                f"the task {task} has no accuracy (acc) for its questions, only "
                f"{', '.join(map(str, sample.get('metrics', [])))}; choose a multiple-choice task"
            )
        right = 100.0 * float(sample["acc"])
        rows.append(
            {**cell_record(cell), "task": task, "question": int(sample["doc_id"]), "right": right}
        )
    return rows
