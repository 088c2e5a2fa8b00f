"""What steering costs in time: latency and throughput, each method, with and without diagnostics.

Every prompt is timed under every configuration in turn, in an order that rotates from prompt to
prompt, and configurations are compared prompt by prompt: a machine that slows down half way slows
all of them. Steered texts have other lengths, so the ratio is of the time a token. Times are of
this machine and this load; the ratios travel better, but a small model overstates them, because
what a hook costs does not grow with the model as fast as the model does.

Source: arXiv 2604.08169v2, table C.2 (80 first turns of MT-Bench, greedy, at most 2048 new tokens,
2 warm-ups, device events).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from interp_steer.cells import CELL_COLUMNS, NEUTRAL, Cell
from interp_steer.model import HookedLM, Prompt, TokenizedPrompt
from interp_steer.suites.cost_tables import cost_summary
from interp_steer.suites.evaluation import Evaluation, study_pins
from interp_steer.suites.question_files import read_mt_bench
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import Summary, rows_of_cells
from interp_steer.suites.timing import SCHEMA, Stopwatch, TimedUnit

NAME = "cost"
MAX_NEW_TOKENS = 2048


def run_cost(subject: Subject) -> tuple[Evaluation, Summary]:
    """Time what is missing, then summarise.

    Raises:
        EvaluationError: no prompts.
        RunError: rows were made under other settings, by name.
    """
    lm = subject.study.lm
    texts = _texts(subject)
    settings = replace(subject.settings(MAX_NEW_TOKENS), temperature=0.0)
    key = ("item", "mode", *CELL_COLUMNS, "diagnostics")
    evaluation = Evaluation(subject.study.run, NAME, schema=SCHEMA, key=key)
    evaluation.pin(
        {
            **study_pins(subject.study),
            "prompts": texts,
            "max_new_tokens": settings.max_new_tokens,
            "batch_size": subject.config.batch_size,
            "device": _device(lm),
        }
    )
    cells = (NEUTRAL, *subject.configurations.steered("neutral"))
    prompts = [lm.tokenize(Prompt.chat(text)) for text in texts]
    units = _units(prompts, cells, batch_size=subject.config.batch_size)
    n_states = len(units) // max(1, len({(unit.item, unit.mode) for unit in units}))
    evaluation.complete(units, Stopwatch(subject, settings).make, batch_size=n_states)
    frame = rows_of_cells(evaluation.rows(), cells)
    return evaluation, cost_summary(frame, subject.configurations, device=_device(lm))


def _texts(subject: Subject) -> list[str]:
    config = subject.config
    if config.questions is not None:
        texts = [question.turns[0] for question in read_mt_bench(config.questions)]
    else:
        chats = [s for s in subject.study.split("test") if not s.is_raw]
        texts = [scenario.user[0] for scenario in chats]
    texts = texts[: config.limit or 80]
    if not texts:
        raise EvaluationError("cost needs chat prompts: give --questions FILE")
    return texts


def _device(lm: HookedLM) -> str:
    if lm.device.type == "cuda":
        return torch.cuda.get_device_name(lm.device)
    return f"{lm.device.type}, {torch.get_num_threads()} threads"


def _units(
    prompts: Sequence[TokenizedPrompt], cells: Sequence[Cell], *, batch_size: int
) -> list[TimedUnit]:
    """Item by item, configurations in an order that rotates by one from item to item."""
    items = [(f"prompt {i}", "single", (prompt,)) for i, prompt in enumerate(prompts)]
    items += [
        (f"batch {start}", "batch", tuple(prompts[start : start + batch_size]))
        for start in range(0, len(prompts), batch_size)
    ]
    # Without a hook there is nothing to record.
    states = [(c, d) for c in cells for d in (False, True) if c.is_steered or not d]
    return [
        TimedUnit(item=item, mode=mode, prompts=together, cell=cell, diagnostics=diagnostics)
        for place, (item, mode, together) in enumerate(items)
        for cell, diagnostics in _rotated(states, place)
    ]


def _rotated(states: Sequence[tuple[Cell, bool]], by: int) -> list[tuple[Cell, bool]]:
    by %= len(states)
    return [*states[by:], *states[:by]]
