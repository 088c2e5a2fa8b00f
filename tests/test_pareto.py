"""The front: who is on it, who is not, and that choosing a point needs no cell outside it."""

from hypothesis import given
from hypothesis import strategies as st

from interp_steer.candidates import candidates
from interp_steer.pareto import fronts, pareto_front
from interp_steer.scoreboard import Scoreboard
from interp_steer.selection import CellScore
from selection_cases import BASE, SCENARIOS, cell, rows

values = st.sampled_from([0.0, 25.0, 50.0, 75.0, 100.0])


def score(trait: float, coherence: float, layer: int = 0) -> CellScore:
    return CellScore(cell=cell(layer), trait=trait, coherence=coherence, n_rows=1)


def dominates(one: CellScore, other: CellScore) -> bool:
    return (one.trait >= other.trait and one.coherence >= other.coherence) and (
        one.trait > other.trait or one.coherence > other.coherence
    )


@given(points=st.lists(st.tuples(values, values), min_size=1, max_size=12))
def test_exactly_the_cells_that_nobody_dominates(points: list[tuple[float, float]]) -> None:
    scores = [score(t, c, i) for i, (t, c) in enumerate(points)]
    wanted = {s.cell for s in scores if not any(dominates(o, s) for o in scores)}
    assert {s.cell for s in pareto_front(scores)} == wanted


def test_by_falling_trait() -> None:
    front = pareto_front([score(10, 90, 1), score(90, 10, 2), score(50, 50, 3), score(40, 40, 4)])
    assert [s.cell.layer for s in front] == [2, 3, 1]


def test_one_front_a_group() -> None:
    scores = {cell(1): (90.0, 50.0), cell(2): (50.0, 90.0), cell(3): (40.0, 40.0)}
    scores[cell(4, scope="prompt")] = (1.0, 1.0)
    board = Scoreboard(rows({**BASE, **scores}), [s.id for s in SCENARIOS])
    found = fronts(board, candidates(board.cells))
    assert [(f.group.scope, f.n_candidates, len(f.cells)) for f in found] == [
        ("all", 3, 2),
        ("prompt", 1, 1),
    ]
