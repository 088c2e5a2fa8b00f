"""Files of questions that users bring: MT-Bench and AlpacaEval, by the published files' keys.

Neither set comes with this project. A file that does not have the keys is refused with the place of
the item; further keys are ignored, for the published files have several.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp_steer.input_files import parse_json, read_input
from interp_steer.suites.capabilities import Question
from interp_steer.suites.settings import EvaluationError


def read_mt_bench(path: Path) -> tuple[Question, ...]:
    """Questions of MT-Bench: JSONL with question_id, category, turns, and reference where known.

    Raises:
        EvaluationError: no such file, or an item without one of the keys, by its line.
    """
    questions = []
    for place, record in _records(path):
        turns, references = _texts(record.get("turns")), record.get("reference")
        if "question_id" not in record or not turns:
            raise EvaluationError(
                f"{path}, item {place}: expected question_id and turns (a list of texts), the keys "
                f"of MT-Bench's question.jsonl, got {', '.join(record) or 'none'}"
            )
        known = _texts(references)
        if references is not None and not 0 < len(known) <= len(turns):
            raise EvaluationError(
                f"{path}, item {place}: reference must be a list of texts, one a turn"
            )
        padded = [*known, *[None] * (len(turns) - len(known))]
        questions.append(
            Question(
                id=str(record["question_id"]),
                turns=tuple(turns),
                category=str(record.get("category", "")),
                references=tuple(padded),
            )
        )
    return _unique(path, questions)


def read_alpaca_eval(path: Path) -> tuple[Question, ...]:
    """Instructions of AlpacaEval: a JSON list (or JSONL) with the key instruction.

    Whatever else an item has (output, generator, dataset) is not used: the reference is the same
    model unsteered.

    Raises:
        EvaluationError: no such file, or an item without instruction, by its place.
    """
    questions = []
    for place, record in _records(path):
        text = record.get("instruction")
        if not isinstance(text, str) or not text.strip():
            raise EvaluationError(
                f"{path}, item {place}: expected the key instruction with a text, as in "
                f"AlpacaEval's evaluation set, got {', '.join(record) or 'none'}"
            )
        name = str(record.get("id", place))
        category = str(record.get("dataset", ""))
        questions.append(Question(id=name, turns=(text,), category=category))
    return _unique(path, questions)


def _records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = read_input(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"cannot read the questions {path}: {error}") from error
    try:
        found = parse_json(text) if text.lstrip().startswith("[") else _lines(text)
    except ValueError as error:
        raise EvaluationError(f"{path} is neither a JSON list nor JSONL: {error}") from error
    if not found:
        raise EvaluationError(f"{path} holds no questions")
    for place, record in enumerate(found, start=1):
        if not isinstance(record, dict):
            raise EvaluationError(f"{path}, item {place}: expected an object, got {record!r:.40}")
    return list(enumerate(found, start=1))


def _lines(text: str) -> list[Any]:
    return [parse_json(line) for line in text.split("\n") if line.strip()]


def _texts(value: object) -> list[str]:
    """A list of texts as it is; empty for anything else."""
    if not isinstance(value, list) or not all(
        isinstance(one, str) and one.strip() for one in value
    ):
        return []
    return [str(one) for one in value]


def _unique(path: Path, questions: Sequence[Question]) -> tuple[Question, ...]:
    counted = Counter(question.id for question in questions)
    if repeated := sorted(name for name, n in counted.items() if n > 1):
        raise EvaluationError(f"{path}: the id {repeated[0]!r:.80} is used more than once")
    return tuple(questions)
