"""Who competes for an operating point, and the one rule that picks the best of them.

What is chosen is chosen by downstream generations alone; how well a layer's probe separates plays
no part. The same rule serves the choice that is shown, the choices of two halves, and every choice
inside a bootstrap, so it works on many samples of the scenarios at once. That a cell is the best of
a sample does not say that it is better than the next one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp_steer.cells import MALICIOUS, METHODS, Cell, prefilled

SLACK = 1e-9
"""Two means (0-100) nearer than this are equal: they come from sums in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What one operating point is chosen for."""

    method: str
    """swfc, sttp or stmp."""
    scope: str
    """Scope of the edit."""
    threat: str = "malicious_prompt"
    """malicious_prompt or prefill:K."""

    @classmethod
    def of(cls, cell: Cell) -> "Group":
        """The group that a steered cell competes in."""
        return cls(method=cell.method, scope=cell.scope, threat=cell.threat)

    @property
    def order(self) -> tuple[object, ...]:
        """Place in tables: the malicious prompt first, then prefills by length."""
        usual = self.threat == MALICIOUS.threat
        return (not usual, len(self.threat), self.threat, METHODS.index(self.method), self.scope)

    @property
    def unsteered(self) -> Cell:
        """The baseline that shows the threat undisturbed."""
        return unsteered(self.threat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The cells that compete for one operating point."""

    group: Group
    """What they compete for."""
    cells: tuple[Cell, ...]
    """The cells, by alpha and then layer: where all else is equal, the first wins."""
    neighbours: Float[np.ndarray, "cell cell"]
    """Row i averages the neighbours of cell i (same layer with other coefficients, same coefficient
    in the next layers); a cell without neighbours is its own."""


def unsteered(threat: str) -> Cell:
    """The baseline under a threat: malicious prompt, or aligned prompt with the prefilled start."""
    k = Cell(side="aligned", threat=threat).prefill
    return MALICIOUS if k is None else prefilled(k)


def candidates(cells: Iterable[Cell]) -> list[Candidates]:
    """Steered cells without a control, grouped by what they compete for."""
    groups: dict[Group, list[Cell]] = {}
    for cell in cells:
        if cell.is_trait_steering and not cell.is_guard:
            groups.setdefault(Group.of(cell), []).append(cell)
    return [
        _candidates(group, members)
        for group, members in sorted(groups.items(), key=lambda entry: entry[0].order)
    ]


def best_cells(
    trait: Float[np.ndarray, "sample cell"],
    coherence: Float[np.ndarray, "sample cell"],
    *,
    floor: Float[np.ndarray, "sample"],
    neighbours: Float[np.ndarray, "cell cell"],
) -> tuple[Int[np.ndarray, "sample"], Bool[np.ndarray, "sample"]]:
    """The best cell of every sample, and whether it keeps enough coherence.

    Best is the highest trait among cells with coherence >= floor (method.md, "Operating point").
    Few scenarios leave many ties, broken by coherence, then by the mean trait of the neighbours (a
    plateau is safer than a peak), then by the order of the cells. Where no cell keeps enough, the
    most coherent one stands in, and is reported as not keeping it. A mean that does not exist (NaN:
    the judge scored none of the rows) is never the best.
    """
    has_gap = np.isnan(trait) | np.isnan(coherence)
    coherence = np.where(has_gap, -np.inf, coherence)
    eligible = np.asarray(coherence >= floor[:, None] - SLACK)
    keeps = np.asarray(eligible.any(axis=1))
    most_coherent = _highest(coherence, np.full(coherence.shape, True))
    left = np.where(keeps[:, None], eligible, most_coherent)
    left = _highest(coherence, _highest(np.where(has_gap, -np.inf, trait), left))
    tied = left.sum(axis=1) > 1
    if tied.any():
        left[tied] = _highest(_neighbour_means(trait[tied], neighbours), left[tied])
    return left.argmax(axis=1), keeps


def _candidates(group: Group, members: Sequence[Cell]) -> Candidates:
    cells = tuple(sorted(members, key=lambda cell: (cell.alpha, cell.layer)))
    layer = np.array([cell.layer for cell in cells])
    alpha = np.array([cell.alpha for cell in cells])
    same_layer = layer[:, None] == layer
    next_layer = (alpha[:, None] == alpha) & (abs(layer[:, None] - layer) == 1)
    near = ((same_layer & (alpha[:, None] != alpha)) | next_layer).astype(np.float64)
    alone = near.sum(axis=1) == 0
    near[alone] = np.eye(len(cells))[alone]
    return Candidates(group=group, cells=cells, neighbours=near / near.sum(axis=1, keepdims=True))


def _neighbour_means(
    trait: Float[np.ndarray, "sample cell"], neighbours: Float[np.ndarray, "cell cell"]
) -> Float[np.ndarray, "sample cell"]:
    """Mean trait of every cell's neighbours, of those that have one."""
    known = np.isfinite(trait)
    if known.all():
        return trait @ neighbours.T
    total, weight = (v @ neighbours.T for v in (np.where(known, trait, 0.0), known.astype(float)))
    return np.divide(total, weight, out=np.full(total.shape, -np.inf), where=weight > 0)


def _highest(
    values: Float[np.ndarray, "sample cell"], among: Bool[np.ndarray, "sample cell"]
) -> Bool[np.ndarray, "sample cell"]:
    """Which of `among` have the highest value of their sample."""
    highest = np.where(among, values, -np.inf).max(axis=1, keepdims=True)
    return among & (values >= highest - SLACK)
