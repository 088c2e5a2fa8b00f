"""How a request is steered, as options of a command line spell it (`-M method=sttp -M alpha=6`).

What is left open is the run's operating point of the method and scope. An option that would change
nothing is refused, because a log that shows it would say that it had.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import cast

from interp_steer.cells import METHODS, NONE, Cell, steered_cell
from interp_steer.config import MethodName
from interp_steer.runs import Run
from interp_steer.suites.configurations import Configurations
from interp_steer.suites.settings import EvaluationError, SuiteConfig

_KINDS = {"layer": (int, "a whole number"), "alpha": ((int, float), "a number")}
"""Types of the options that are no texts, and their names in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringChoice:
    """One configuration of a run.

    Raises:
        EvaluationError: a value outside what the fields name.
    """

    method: str = NONE
    """swfc, sttp, stmp, or none for the model as it is."""
    layer: int | None = None
    """Steered layer, zero-based; that of the operating point by default."""
    alpha: float | None = None
    """Coefficient; that of the operating point by default."""
    scope: str = "all"
    """Which tokens: all, response, prompt, first:K."""
    direction: str = "aligned"
    """aligned: towards the trait. reversed: towards its opposite."""
    control: str = NONE
    """random_direction:I, shuffled_labels:I, mean_difference: edited along another unit vector."""

    def __post_init__(self) -> None:
        if self.method not in (NONE, *METHODS):
            raise EvaluationError(
                f"method must be none or one of {', '.join(METHODS)}, got {self.method!r}"
            )
        if self.direction not in ("aligned", "reversed"):
            raise EvaluationError(f"direction must be aligned or reversed, got {self.direction!r}")
        changed = [name for name, value in self.options().items() if name != "method"]
        if self.method == NONE and changed:
            raise EvaluationError(
                f"{', '.join(changed)} would change nothing without a method; give method=swfc, "
                "sttp or stmp, or leave it out"
            )

    @classmethod
    def of(cls, options: Mapping[str, object]) -> "SteeringChoice":
        """Read options by name.

        Raises:
            EvaluationError: an unknown option, or a value that does not fit.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise EvaluationError(
                f"unknown option {', '.join(unknown)} of a steered model; there are "
                f"{', '.join(known)}"
            )
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            kind, what = _KINDS.get(name, (str, "a text"))
            if isinstance(value, bool) or not isinstance(value, kind):
                raise EvaluationError(f"{name} must be {what}, got {value!r}")
        if "alpha" in given:
            given["alpha"] = float(cast(float, given["alpha"]))
        return cls(**given)  # pyright: ignore[reportArgumentType]

    def options(self) -> dict[str, object]:
        """What differs from the defaults, as `of` takes it."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    def cell(self, run: Run) -> Cell | None:
        """The configuration with the run's operating point filled in; None for no steering.

        Raises:
            RunError: the operating point is needed and the run has none.
            GridError: an unknown control.
            SteeringError: a scope that cannot be read.
        """
        if self.method == NONE:
            return None
        method = cast(MethodName, self.method)
        layer, alpha = self.layer, self.alpha
        if layer is None or alpha is None:
            point = self._point(run, method)
            layer = point.layer if layer is None else layer
            alpha = point.alpha if alpha is None else alpha
        if layer is None or alpha is None:
            raise EvaluationError(f"{method} needs a layer and an alpha, got {layer} and {alpha}")
        cell = steered_cell(method=method, layer=layer, alpha=alpha, scope=self.scope)
        return replace(cell, direction=self.direction, control=self.control)

    def _point(self, run: Run, method: MethodName) -> Cell:
        """The operating point of the method in the scope, or the error that says how to get one."""
        config = SuiteConfig(methods=(method,), scope=self.scope)
        chosen = Configurations(run, config, with_grid=False)
        return chosen.point(method) or chosen.steered("malicious")[0]
