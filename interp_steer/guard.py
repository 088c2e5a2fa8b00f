"""The price of a guard: what a chosen configuration does where there is no threat.

A guard runs all the time, and threats are rare. The same cell is therefore run under the aligned
and under the neutral prompt, beside the unsteered model on the same scenarios: does it fire, does
it move the next token, does it change trait, coherence or length. Little price on these scenarios
says nothing about prompts unlike them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interp_steer.assignments import GUARD_SIDES, Assignment, as_guard, everywhere, restricted
from interp_steer.candidates import Group
from interp_steer.cells import ALIGNED, NEUTRAL
from interp_steer.comparisons import Extras, PointArm
from interp_steer.intervals import SHARE, Estimate, difference_estimate, mean_estimate
from interp_steer.measuring import Measurer
from interp_steer.scenarios import Side
from interp_steer.statistics import Sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardMeasures:
    """One side with or without the guard; None where the sweep did not measure it."""

    trait: Estimate
    """Mean trait, 0-100."""
    coherence: Estimate
    """Mean coherence, 0-100."""
    fired_share: Estimate | None
    """False-fire rate: mean share of the tokens in scope that fired, 0-1; None unsteered."""
    kl: Estimate | None
    """Next-token KL divergence from the unsteered model, nats per token; None unsteered."""
    n_tokens: Estimate | None
    """Mean length of the response, tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPrice:
    """One operating point under one prompt that does not threaten."""

    group: Group
    """The method whose operating point stands guard, its scope and threat."""
    side: Side
    """aligned or neutral."""
    steered: GuardMeasures
    """With the guard."""
    unsteered: GuardMeasures
    """Without it, on the same scenarios."""
    trait_change: Estimate
    """Steered minus unsteered trait, points."""
    coherence_change: Estimate
    """Steered minus unsteered coherence, points."""
    n_scenarios: int
    """Scenarios behind the numbers."""


def guard_prices(
    extras: Extras, point: PointArm, answering: Sequence[str], *, chats: Sequence[str]
) -> list[GuardPrice]:
    """The price of one operating point under the aligned and the neutral prompt.

    Args:
        extras: looks up rows.
        point: the operating point.
        answering: scenarios that the guards answer.
        chats: those of them that have a neutral side (raw pairs have none).
    """
    prices = []
    for side in GUARD_SIDES:
        there = restricted(point.assignment, answering if side == "aligned" else chats)
        steered = as_guard(there, side)
        unsteered = everywhere(ALIGNED if side == "aligned" else NEUTRAL, there)
        what = f"the guard of {point.group.method} in {point.group.scope}, {side} prompt"
        if extras.is_there(what, steered, unsteered):
            prices.append(_price(extras.measurer, point.group, side, (steered, unsteered)))
    return prices


def _price(
    measurer: Measurer, group: Group, side: Side, rows: tuple[Assignment, Assignment]
) -> GuardPrice:
    steered, unsteered = (_measures(measurer, assignment) for assignment in rows)

    def change(column: str) -> Estimate:
        one, other = (measurer.arm(assignment) for assignment in rows)
        moved: Sampled = getattr(one, column).minus(getattr(other, column))
        of = getattr(steered, column), getattr(unsteered, column)
        return difference_estimate(moved, one.resamples, of=of, kind="conditional_bootstrap")

    return GuardPrice(
        group=group,
        side=side,
        steered=steered,
        unsteered=unsteered,
        trait_change=change("trait"),
        coherence_change=change("coherence"),
        n_scenarios=len(rows[0]),
    )


def _measures(measurer: Measurer, assignment: Assignment) -> GuardMeasures:
    arm = measurer.arm(assignment)

    def column(name: str, bounds: tuple[float, float] | None) -> Estimate | None:
        sampled = measurer.column(assignment, name)
        if sampled is None:
            return None
        kind = "conditional_bootstrap"
        return mean_estimate(sampled, arm.resamples, kind=kind, bounds=bounds)

    return GuardMeasures(
        trait=arm.measured.trait,
        coherence=arm.measured.coherence,
        fired_share=column("fired_share", SHARE),
        kl=column("kl_to_unsteered", None),
        n_tokens=column("n_tokens", None),
    )
