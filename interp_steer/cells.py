"""The cell of a sweep: one configuration, its key in tables, and the grids made of cells.

A sweep is the product of scenarios and cells. A cell says everything about a row except which
scenario it answers and which of its responses it is, so rows of different cells can be packed in
one batch, and a row is found again by its key alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp_steer.errors import InterpSteerError
from interp_steer.scenarios import Side

NONE = "none"
"""What a column holds where it does not apply; null in the two numeric columns, layer and alpha."""

METHODS = ("swfc", "sttp", "stmp")
"""The interventions, in the order of method.md."""

CELL_COLUMNS = (
    "side",
    "threat",
    "control",
    "direction",
    "method",
    "layer",
    "alpha",
    "scope",
)
"""Columns that name a cell."""

KEY_COLUMNS = ("scenario", "response_index", *CELL_COLUMNS)
"""Columns that together are unique in a sweep."""


class GridError(InterpSteerError):
    """A cell or a grid that cannot be run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One configuration of a sweep."""

    side: Side
    """Whose system prompt the model is given: aligned, malicious or neutral."""
    threat: str = NONE
    """malicious_prompt, or none."""
    control: str = NONE
    """random_direction:I, shuffled_labels:I (draw I), or none for the trait's own direction."""
    direction: str = NONE
    """aligned, reversed, or none where nothing is steered."""
    method: str = NONE
    """swfc, sttp, stmp, or none for a baseline."""
    layer: int | None = None
    """Steered layer, zero-based; None for a baseline."""
    alpha: float | None = None
    """Coefficient of the method; None for a baseline."""
    scope: str = NONE
    """all, response, prompt, first:K, or none for a baseline."""

    def __post_init__(self) -> None:
        applies = [
            self.method != NONE,
            self.layer is not None,
            self.alpha is not None,
            self.scope != NONE,
            self.direction != NONE,
        ]
        if any(applies) != all(applies):
            raise GridError(
                "a steered cell needs method, layer, alpha, scope and direction, a baseline none "
                f"of them, got {self.as_row()}"
            )
        if self.method not in (*METHODS, NONE):
            raise GridError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise GridError(f"alpha must be a finite number, got {self.alpha}")
        if self.control != NONE:
            if not self.is_steered:
                raise GridError(f"a baseline has no control, got {self.control!r}")
            parse_control(self.control)

    @property
    def is_steered(self) -> bool:
        """Whether anything is edited."""
        return self.method != NONE

    @property
    def is_trait_steering(self) -> bool:
        """Whether it steers along the trait's own direction (no control)."""
        return self.is_steered and self.control == NONE

    @property
    def label(self) -> str:
        """Short name for messages: "sttp layer 4 alpha 12 scope all"."""
        if not self.is_steered:
            return f"{self.side} baseline"
        name = f"{self.method} layer {self.layer} alpha {self.alpha:g} scope {self.scope}"
        return name if self.control == NONE else f"{name} ({self.control})"

    def as_row(self) -> dict[str, Any]:
        """The cell as table columns."""
        return {column: getattr(self, column) for column in CELL_COLUMNS}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Cell":
        """Rebuild a cell from table columns; null and NaN both mean "does not apply"."""
        layer, alpha = row["layer"], row["alpha"]
        return cls(
            **{c: row[c] for c in CELL_COLUMNS if c not in ("layer", "alpha")},
            layer=None if _is_null(layer) else int(layer),
            alpha=None if _is_null(alpha) else float(alpha),
        )

    def with_control(self, control: str) -> "Cell":
        """The same gate and signed shift, edited along the control's direction."""
        return replace(self, control=control)


ALIGNED = Cell(side="aligned")
"""Baseline: aligned prompt, unsteered."""
MALICIOUS = Cell(side="malicious", threat="malicious_prompt")
"""Baseline: malicious prompt, unsteered."""
BASELINES = (ALIGNED, MALICIOUS)


def steered_cell(*, method: str, layer: int, alpha: float, scope: str) -> Cell:
    """The cell that steers towards the aligned side under the malicious prompt."""
    return Cell(
        side="malicious",
        threat="malicious_prompt",
        direction="aligned",
        method=method,
        layer=int(layer),
        alpha=float(alpha),
        scope=scope,
    )


def steered_grid(
    *, layers: Sequence[int], alphas: Mapping[str, Sequence[float]], scopes: Sequence[str]
) -> tuple[Cell, ...]:
    """Every method of `alphas` at every layer, coefficient and scope.

    Raises:
        GridError: an empty grid, by the name of what is empty.
    """
    for name, values in (("layers", layers), ("methods", alphas), ("scopes", scopes)):
        if not values:
            raise GridError(f"the grid is empty: no {name} were given")
    for method, values in alphas.items():
        if not values:
            raise GridError(f"the grid is empty: no alphas were given for {method}")
    return tuple(
        steered_cell(method=method, layer=layer, alpha=alpha, scope=scope)
        for layer in dict.fromkeys(layers)
        for method, values in alphas.items()
        for alpha in dict.fromkeys(float(value) for value in values)
        for scope in dict.fromkeys(scopes)
    )


CONTROL_KINDS = ("random_direction", "shuffled_labels")
"""The controls of method.md that replace the direction."""


def control_cells(cells: Sequence[Cell], *, n_draws: int) -> tuple[Cell, ...]:
    """Every cell with both kinds of control, draws 0 to n_draws - 1."""
    return tuple(
        cell.with_control(f"{kind}:{draw}")
        for cell in cells
        for kind in CONTROL_KINDS
        for draw in range(n_draws)
    )


def parse_control(control: str) -> tuple[str, int]:
    """Split "random_direction:3" into kind and draw.

    Raises:
        GridError: an unknown kind, or a draw that is no number.
    """
    kind, _, draw = control.partition(":")
    if kind not in CONTROL_KINDS or not draw.isdecimal():
        raise GridError(
            f"control must be one of {', '.join(f'{k}:I' for k in CONTROL_KINDS)} with a draw I "
            f"from 0, got {control!r}"
        )
    return kind, int(draw)


def _is_null(value: Any) -> bool:
    return value is None or value != value
