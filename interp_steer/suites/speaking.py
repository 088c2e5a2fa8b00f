"""Generating and forwarding under the configurations of a suite, one batch of any of them.

A row is left alone or steered by one guard of each trait at hand. Guards compose in the order in
which they are given: within a layer the second reads the projection that the first left, and one at
a later layer reads a stream that the first has changed all along. That two edits are on says
nothing of whether each still does what it does alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from interp_steer.cells import Cell
from interp_steer.controls import ControlDirections
from interp_steer.hook_records import Recorder
from interp_steer.model import Generation, GenerationSettings, HookedLM, TokenizedPrompt
from interp_steer.probes import ProbeSet
from interp_steer.steering import SteeringPlan, SteeringSpec, steer
from interp_steer.sweep_rows import steering_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One trait's edit of every row of a batch."""

    specs: tuple[SteeringSpec | None, ...]
    """One a row; None leaves it alone."""
    probes: ProbeSet
    """Probes of the trait."""

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell | None],
        probes: ProbeSet,
        *,
        directions: ControlDirections | None = None,
    ) -> "Guard":
        """The guard of one cell a row; rows of equal cells share a slot of the plan.

        Args:
            cells: configurations; None leaves the row alone.
            probes: probes of the trait.
            directions: of the controls among the cells.

        Raises:
            GridError: a control without directions.
        """
        by_cell = {
            cell: None if cell is None else steering_spec(cell, directions) for cell in cells
        }
        return cls(specs=tuple(by_cell[cell] for cell in cells), probes=probes)


@contextmanager
def guarded(
    lm: HookedLM, guards: Sequence[Guard], *, recorder: Recorder | None = None
) -> Iterator[None]:
    """Steer by all guards within the block, the first one first.

    Raises:
        SteeringError: a guard that does not fit the model, or another number of rows inside.
    """
    with ExitStack() as stack:
        for guard in guards:
            if any(spec is not None for spec in guard.specs):
                plan = SteeringPlan(guard.specs, guard.probes)
                stack.enter_context(steer(lm, plan, recorder=recorder))
        yield


def speak(
    lm: HookedLM,
    prompts: Sequence[TokenizedPrompt],
    guards: Sequence[Guard],
    settings: GenerationSettings,
    *,
    sample_keys: Sequence[str],
) -> list[Generation]:
    """One response a prompt, each under its guards."""
    with guarded(lm, guards):
        return lm.generate(prompts, settings, sample_keys=sample_keys, share_prefixes=True)
