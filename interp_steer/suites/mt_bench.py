"""MT-Bench: the user's file of questions, two turns each, every answer rated 1 to 10.

A score is the mean over questions of the mean over turns. The ratings are of this project's wording
and of the judge at hand: compare configurations with one another, not with published tables.
"""

from interp_steer.analysis.frames import rows_where, texts
from interp_steer.suites.capabilities import Question, capability_summary
from interp_steer.suites.evaluation import Evaluation
from interp_steer.suites.question_files import read_mt_bench
from interp_steer.suites.questions import answered, quality_judge
from interp_steer.suites.ratings import Exchange
from interp_steer.suites.settings import required
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import Measure, Summary, rows_of_cells

SCORE = Measure(name="rating", title="MT-Bench (1-10)", bounds=(1.0, 10.0), digits=2)


def run_mt_bench(subject: Subject) -> tuple[Evaluation, Summary]:
    """Answer and rate what is missing, then summarise.

    Raises:
        EvaluationError: no file of questions, or one that does not fit.
        EndpointError: the judge's endpoint cannot be used.
    """
    path = required(
        subject.config.questions, option="questions", suite="mt-bench", what="question.jsonl"
    )
    questions = read_mt_bench(path)
    evaluation, cells = answered(subject, "mt-bench", questions)
    frame = rows_of_cells(evaluation.rows(), cells)
    by_id = {question.id: question for question in questions[: subject.config.limit]}
    frame = rows_where(frame, [name in by_id for name in texts(frame, "question")])
    judge = quality_judge(subject)
    ratings = judge.rate(_exchanges(frame.to_dict("records"), by_id))
    names = texts(frame, "question")
    frame = frame.assign(rating=[float("nan") if r is None else float(r) for r in ratings])
    frame = frame.assign(item=names, cluster=names)
    missing = sum(rating is None for rating in ratings)
    notes = [f"the judge gave no rating for {missing} of {len(ratings)} answers"] if missing else []
    return evaluation, capability_summary(
        frame,
        SCORE,
        subject.configurations,
        name="mt_bench",
        caption=(
            f"{len(by_id)} questions of {path.name}, no system prompt, rated by {judge.name}; "
            "means over answers, 95 % intervals over questions."
        ),
        notes=notes,
    )


def _exchanges(rows: list[dict], questions: dict[str, Question]) -> list[Exchange]:
    """Every answer with the turns before it."""
    said: dict[tuple[object, ...], dict[int, str]] = {}
    for row in rows:
        said.setdefault((row["question"], row["cell"]), {})[row["turn"]] = row["response"]
    exchanges = []
    for row in rows:
        question, turn = questions[row["question"]], row["turn"]
        answers = said[row["question"], row["cell"]]
        references = question.references or (None,) * len(question.turns)
        exchanges.append(
            Exchange(
                users=question.turns[:turn],
                answers=tuple(answers[place + 1] for place in range(turn)),
                reference=references[turn - 1],
            )
        )
    return exchanges
