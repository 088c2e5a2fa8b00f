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

PREFILL = "prefill"
"""The threat that starts a response with tokens of the malicious baseline's own."""

THREATENED = ("malicious", "defended")
"""Sides whose system prompt is itself the threat."""

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

CONTROL_KINDS = ("random_direction", "shuffled_labels")
"""The controls of method.md that replace the direction; each has draws."""
MEAN_DIFFERENCE = "mean_difference"
"""Baseline direction in the place of a control: same gate and signed shift, edited along the unit
mean difference."""


class GridError(InterpSteerError):
    """A cell or a grid that cannot be run."""


def parse_control(control: str) -> tuple[str, int]:
    """Split "random_direction:3" into kind and draw; mean_difference has the one draw 0.

    Raises:
        GridError: an unknown kind, or a draw that is no number.
    """
    if control == MEAN_DIFFERENCE:
        return control, 0
    kind, _, draw = control.partition(":")
    if kind not in CONTROL_KINDS or not draw.isdecimal():
        raise GridError(
            f"control must be {MEAN_DIFFERENCE} or one of "
            f"{', '.join(f'{k}:I' for k in CONTROL_KINDS)} with a draw I from 0, got {control!r}"
        )
    return kind, int(draw)


def parse_threat(threat: str) -> int | None:
    """Return K of "prefill:K", None for the other threats.

    Raises:
        GridError: an unknown threat, or a K that is not a number from 1.
    """
    if threat in (NONE, "malicious_prompt"):
        return None
    kind, _, count = threat.partition(":")
    if kind != PREFILL or not (count.isascii() and count.isdecimal()) or int(count) < 1:
        raise GridError(
            f"threat must be malicious_prompt, prefill:K with K from 1, or none, got {threat!r}"
        )
    return int(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One configuration of a sweep."""

    side: Side
    """Whose system prompt the model is given: aligned, malicious, neutral or defended."""
    threat: str = NONE
    """malicious_prompt, prefill:K (the response starts with K tokens of the malicious baseline's
    own), or none."""
    control: str = NONE
    """random_direction:I, shuffled_labels:I (draw I), mean_difference, or none for the trait's own
    direction."""
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
        parse_threat(self.threat)
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
        where = "" if self.is_usual_threat else f" under {self.threat}, {self.side} prompt"
        if not self.is_steered:
            return f"{self.side} baseline{where}"
        name = f"{self.method} layer {self.layer} alpha {self.alpha:g} scope {self.scope}"
        name = name if self.direction == "aligned" else f"{name} {self.direction}"
        return name + where + (f" ({self.control})" if self.control != NONE else "")

    @property
    def is_usual_threat(self) -> bool:
        """Whether side and threat are those of an unsteered baseline or of the malicious prompt."""
        return self.threat == ("malicious_prompt" if self.side in THREATENED else NONE) and (
            not self.is_steered or self.side == "malicious"
        )

    @property
    def is_guard(self) -> bool:
        """Whether it steers where there is no threat: what a guard costs when it is not needed."""
        return self.is_steered and self.threat == NONE

    @property
    def prefill(self) -> int | None:
        """K of the threat prefill:K, None for the others."""
        return parse_threat(self.threat)

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

    def as_guard(self, side: Side) -> "Cell":
        """The same edit under the aligned or the neutral prompt, without a threat."""
        return replace(self, side=side, threat=NONE)

    def under(self, threat: str) -> "Cell":
        """The same edit, or none, under malicious_prompt or prefill:K."""
        side: Side = "malicious" if parse_threat(threat) is None else "aligned"
        return replace(self, side=side, threat=threat)


ALIGNED = Cell(side="aligned")
"""Baseline: aligned prompt, unsteered."""
MALICIOUS = Cell(side="malicious", threat="malicious_prompt")
"""Baseline: malicious prompt, unsteered."""
NEUTRAL = Cell(side="neutral")
"""No system prompt, unsteered: what the price of a guard is measured against."""
DEFENDED = Cell(side="defended", threat="malicious_prompt")
"""Prompt-only defence: the aligned instruction after the malicious one, unsteered."""
BASELINES = (ALIGNED, MALICIOUS)


def prefilled(k: int) -> Cell:
    """The unsteered baseline of the threat prefill:K, under the aligned prompt."""
    return Cell(side="aligned", threat=f"{PREFILL}:{k}")


def steered_cell(
    *, method: str, layer: int, alpha: float, scope: str, threat: str = "malicious_prompt"
) -> Cell:
    """The cell that steers towards the aligned side under a threat."""
    unthreatened = Cell(
        side="malicious",
        direction="aligned",
        method=method,
        layer=int(layer),
        alpha=float(alpha),
        scope=scope,
    )
    return unthreatened.under(threat)


def steered_grid(
    *,
    layers: Sequence[int],
    alphas: Mapping[str, Sequence[float]],
    scopes: Sequence[str],
    threats: Sequence[str] = ("malicious_prompt",),
) -> tuple[Cell, ...]:
    """Every method of `alphas` at every layer, coefficient and scope, under every threat.

    Raises:
        GridError: an empty grid, by the name of what is empty.
    """
    for name, values in (
        ("layers", layers),
        ("methods", alphas),
        ("scopes", scopes),
        ("threats", threats),
    ):
        if not values:
            raise GridError(f"the grid is empty: no {name} were given")
    for method, values in alphas.items():
        if not values:
            raise GridError(f"the grid is empty: no alphas were given for {method}")
    return tuple(
        steered_cell(method=method, layer=layer, alpha=alpha, scope=scope, threat=threat)
        for threat in dict.fromkeys(threats)
        for layer in dict.fromkeys(layers)
        for method, values in alphas.items()
        for alpha in dict.fromkeys(float(value) for value in values)
        for scope in dict.fromkeys(scopes)
    )


def control_cells(cells: Sequence[Cell], *, n_draws: int) -> tuple[Cell, ...]:
    """Every cell with both kinds of control, draws 0 to n_draws - 1."""
    return tuple(
        cell.with_control(f"{kind}:{draw}")
        for cell in cells
        for kind in CONTROL_KINDS
        for draw in range(n_draws)
    )


def _is_null(value: Any) -> bool:
    return value is None or bool(value != value)
