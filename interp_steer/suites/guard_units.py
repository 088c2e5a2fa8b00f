"""One scenario under the guards of two traits: which are on, and the row that it becomes.

The control keeps the other guard's gate and signed shift and edits along another unit vector
(`controls`): what it changes is what an edit of that size does to this trait by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from interp_steer.cells import CONTROL_KINDS, Cell
from interp_steer.scenarios import Scenario

ALWAYS = ("aligned", "none")
"""Unsteered baselines: the aligned prompt, and the malicious one without a guard."""
STEERED = ("own", "other", "both")
"""Guards of the scenario's own trait, of the other one, and both; a control is named after its
direction (random_direction:I, shuffled_labels:I) and stands in the place of the other guard."""
SCHEMA = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("trait_asked", pa.string(), nullable=False),
        pa.field("guards", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("own_layer", pa.int32()),
        pa.field("own_alpha", pa.float64()),
        pa.field("other_layer", pa.int32()),
        pa.field("other_alpha", pa.float64()),
        pa.field("response", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("trait", pa.float64()),
        pa.field("coherence", pa.float64()),
    ]
)
"""own and other are relative to the scenario's trait; null where that guard is off."""
KEY = "scenario trait_asked guards method scope own_layer own_alpha other_layer other_alpha".split()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedUnit:
    """One scenario under some guards."""

    scenario: Scenario
    """What is asked."""
    asked: int
    """0 for a scenario of the run, 1 for one of the other run."""
    guards: str
    """Which guards are on: one of `ALWAYS`, of `STEERED`, or a control."""
    own: Cell | None = None
    """The guard of the scenario's trait, where it is on."""
    other: Cell | None = None
    """The other guard, or its control, where it is on."""

    @property
    def cell(self) -> Cell:
        """One of its cells; for progress."""
        found = self.own or self.other
        return found if found is not None else Cell(side=self.side, threat=self.threat)

    @property
    def side(self) -> Literal["aligned", "malicious"]:
        """Whose system prompt."""
        return "aligned" if self.guards == "aligned" else "malicious"

    @property
    def threat(self) -> str:
        """As in a sweep's cells."""
        return "none" if self.guards == "aligned" else "malicious_prompt"

    def record(self) -> dict[str, object]:
        """The key as columns."""
        steered = self.own or self.other
        return {
            "scenario": self.scenario.id,
            "trait_asked": self.scenario.trait,
            "guards": self.guards,
            "method": "none" if steered is None else steered.method,
            "scope": "none" if steered is None else steered.scope,
            "own_layer": None if self.own is None else self.own.layer,
            "own_alpha": None if self.own is None else self.own.alpha,
            "other_layer": None if self.other is None else self.other.layer,
            "other_alpha": None if self.other is None else self.other.alpha,
        }

    @property
    def key(self) -> tuple[object, ...]:
        """See `KEY`."""
        return tuple(self.record().values())


def guard_units(
    scenario: Scenario,
    asked: int,
    points: Sequence[Mapping[str, Cell]],
    *,
    methods: Sequence[str],
    n_draws: int,
) -> list[GuardedUnit]:
    """Everything that one scenario is answered under.

    Args:
        scenario: what is asked.
        asked: see `GuardedUnit`.
        points: operating points by method, of the scenario's own trait and of the other.
        methods: interventions.
        n_draws: draws of each kind of control of the other guard.
    """
    units = [GuardedUnit(scenario=scenario, asked=asked, guards=name) for name in ALWAYS]
    for method in methods:
        own, other = (point[method] for point in points)
        on: dict[str, tuple[Cell | None, Cell | None]] = {
            "own": (own, None),
            "other": (None, other),
            "both": (own, other),
        }
        for control in control_names(n_draws):
            on[control] = (None, other.with_control(control))
        units += [
            GuardedUnit(scenario=scenario, asked=asked, guards=name, own=one, other=two)
            for name, (one, two) in on.items()
        ]
    return units


def control_names(n_draws: int) -> tuple[str, ...]:
    """Both kinds of control, draws 0 to n_draws - 1."""
    return tuple(f"{kind}:{draw}" for kind in CONTROL_KINDS for draw in range(n_draws))
