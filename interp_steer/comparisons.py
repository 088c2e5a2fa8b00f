"""What an operating point is held against: controls, other directions, a prompt, other methods.

Everything goes through the rows of the same sweep and the same resamples. Differences are paired
(same scenarios, same random numbers, same bootstrap draws), because two intervals that overlap may
still belong to two methods of which one is better everywhere. A difference does not say why.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from interp_steer.assignments import (
    Assignment,
    control_assignments,
    everywhere,
    restricted,
    with_control,
)
from interp_steer.candidates import Group
from interp_steer.cells import DEFENDED, MEAN_DIFFERENCE
from interp_steer.intervals import IntervalKind
from interp_steer.measuring import Arm, Contrast, Measured, Measurer, contrast
from interp_steer.splits import SelectionError

DEFENCE = "defence"
"""Name of the prompt-only defence: the aligned instruction after the malicious one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSummary:
    """Draws of one kind of control at one operating point."""

    kind: str
    """random_direction or shuffled_labels."""
    group: Group
    """The method whose gate and signed shift were kept, its scope and threat."""
    recovered: tuple[float, ...]
    """Recovered share of each draw, on the scenarios that the controls answered."""
    coherence: float
    """Mean coherence over the draws, 0-100."""
    n_scenarios: int
    """Scenarios behind each draw."""

    @property
    def method(self) -> str:
        """swfc, sttp or stmp."""
        return self.group.method

    @property
    def scope(self) -> str:
        """Scope of the edit."""
        return self.group.scope

    @property
    def mean(self) -> float:
        """Mean recovered share over the draws."""
        return sum(self.recovered) / len(self.recovered)

    @property
    def max(self) -> float:
        """Largest recovered share of a draw."""
        return max(self.recovered)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineResult:
    """A baseline of reviewers: another direction under the same gate, or no steering at all."""

    name: str
    """mean_difference or defence."""
    group: Group | None
    """Whose gate and signed shift it keeps; None for the defence, which steers nothing."""
    measured: Measured
    """Its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference, `of` minus `minus`."""

    of: str
    """A method."""
    minus: str
    """Another method, mean_difference or defence."""
    scope: str
    """Scope of what is compared."""
    threat: str
    """Threat under which both stand."""
    contrast: Contrast
    """The differences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointArm:
    """An operating point with the arm that reports it."""

    group: Group
    """Method, scope and threat."""
    assignment: Assignment
    """The cell of each reporting scenario."""
    arm: Arm
    """Its numbers there."""
    kind: IntervalKind
    """What its resamples include: the choice, or not."""


class Extras:
    """Looks up what was run beside the operating points, and says what is not there."""

    def __init__(self, measurer: Measurer, *, is_strict: bool, left_out: list[str]) -> None:
        """Keep the measurer.

        Args:
            measurer: rows of the reporting scenarios.
            is_strict: whether missing rows are refused; otherwise they are named in `left_out`.
            left_out: gets one line for whatever is left out.
        """
        self.measurer = measurer
        self._is_strict, self.left_out = is_strict, left_out

    def is_there(self, what: str, *assignments: Assignment) -> bool:
        """Whether all rows of some assignments are there.

        Raises:
            SelectionError: they are not, although the sweep was told to make them.
        """
        n = sum(self.measurer.missing(assignment) for assignment in assignments)
        total = sum(len(assignment) for assignment in assignments)
        if n == 0:
            return total > 0
        lacks = f"{n} of {total} rows of {what}"
        if self._is_strict:
            raise SelectionError(
                f"the sweep is incomplete: it lacks {lacks}. Run `interp-steer sweep` on this run "
                "again, it adds what is missing"
            )
        self.left_out.append(f"{what}: the sweep lacks {lacks} for these operating points")
        return False


def control_summaries(
    extras: Extras, point: PointArm, answering: Sequence[str], *, n_draws: int
) -> list[ControlSummary]:
    """Mean and maximum of the draws of each kind at one operating point."""
    group, there = point.group, restricted(point.assignment, answering)
    found = []
    for kind, draws in control_assignments(there, n_draws=n_draws).items():
        if not extras.is_there(f"the {kind} controls of {_name(group)}", *draws):
            continue
        arms = [extras.measurer.arm(draw, threat=group.threat).measured for draw in draws]
        found.append(
            ControlSummary(
                kind=kind,
                group=group,
                recovered=tuple(arm.recovered.value for arm in arms),
                coherence=math.fsum(arm.coherence.value for arm in arms) / len(arms),
                n_scenarios=arms[0].n_scenarios,
            )
        )
    return found


def against_mean_difference(
    extras: Extras, point: PointArm, answering: Sequence[str]
) -> tuple[BaselineResult, Difference] | None:
    """The same gate and signed shift along the mean difference, and what the probe's adds to it."""
    group, there = point.group, restricted(point.assignment, answering)
    assignment = with_control(there)
    if not extras.is_there(f"the mean difference of {_name(group)}", assignment):
        return None
    arm = extras.measurer.arm(assignment, threat=group.threat)
    own = extras.measurer.arm(there, threat=group.threat)
    result = BaselineResult(name=MEAN_DIFFERENCE, group=group, measured=arm.measured)
    return result, _difference(point, MEAN_DIFFERENCE, contrast(own, arm))


def against_defence(
    extras: Extras, points: Sequence[PointArm], scenarios: Sequence[str]
) -> tuple[BaselineResult, list[Difference]] | None:
    """The prompt-only defence, and what each method under the malicious prompt adds to it."""
    assignment = everywhere(DEFENDED, scenarios)
    if not extras.is_there("the prompt-only defence", assignment):
        return None
    arm = extras.measurer.arm(assignment, kind="cluster_bootstrap")
    differences = []
    for point in points:
        if point.group.threat != DEFENDED.threat:
            continue
        own, kind = point.arm, point.kind
        if own.scenarios != arm.scenarios:
            own = extras.measurer.arm(restricted(point.assignment, arm.scenarios))
            kind = "conditional_bootstrap"
        differences.append(_difference(point, DEFENCE, contrast(own, arm, kind=kind)))
    return BaselineResult(name=DEFENCE, group=None, measured=arm.measured), differences


def between_methods(points: Sequence[PointArm]) -> list[Difference]:
    """Every two methods of one scope and threat."""
    groups: dict[tuple[str, str], list[PointArm]] = {}
    for point in points:
        groups.setdefault((point.group.threat, point.group.scope), []).append(point)
    return [
        _difference(one, other.group.method, contrast(one.arm, other.arm, kind=one.kind))
        for members in groups.values()
        for one, other in combinations(members, 2)
    ]


def _difference(point: PointArm, minus: str, found: Contrast) -> Difference:
    group = point.group
    return Difference(
        of=group.method, minus=minus, scope=group.scope, threat=group.threat, contrast=found
    )


def _name(group: Group) -> str:
    usual = group.threat == DEFENDED.threat
    return f"{group.method} in {group.scope}" + ("" if usual else f" under {group.threat}")
