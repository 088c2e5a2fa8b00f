"""Which scenarios choose and which report.

Choosing a configuration and reporting it on the same scenarios flatters it. Two protocols avoid
that. `split`: some test scenarios choose, the others report; cheap, because the grid is run on the
first alone. `two_fold`: every scenario answers the grid, each half chooses for the other, and all
scenarios report. Both depend on nothing but the ids and texts of the scenarios. Neither makes up
for scenarios that are alike in a way their texts do not show.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from interp_steer.config import Protocol
from interp_steer.errors import InterpSteerError
from interp_steer.scenario_clusters import ScenarioClusters
from interp_steer.scenarios import Scenario


class SelectionError(InterpSteerError):
    """A split or a set of rows from which no operating point can be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSplit:
    """The test scenarios, by what they are for."""

    selection: tuple[Scenario, ...]
    """Scenarios that choose the operating point; in a two-fold protocol all of them."""
    reporting: tuple[Scenario, ...]
    """Scenarios that reported numbers come from; any prefix is balanced by category."""
    halves: tuple[tuple[Scenario, ...], ...] = ()
    """Two halves, each of which chooses for the other; empty in the protocol `split`."""
    answering: tuple[Scenario, ...] = ()
    """Reporting scenarios that controls, baselines and guards answer."""

    @property
    def protocol(self) -> Protocol:
        """How choosing and reporting are kept apart."""
        return "two_fold" if self.halves else "split"

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """Every scenario that chooses or reports, each once."""
        return tuple({s.id: s for s in (*self.selection, *self.reporting)}.values())

    def with_answering(self, n: int | None) -> "ScenarioSplit":
        """The same, with at most `n` scenarios for the extras, taken from both halves in turn."""
        if not self.halves:
            return replace(self, answering=self.reporting[:n])
        n = len(self.reporting) if n is None else n
        first, second = self.halves
        n_second = min(n // 2, len(second))
        chosen = {s.id for s in (*first[: n - n_second], *second[:n_second])}
        return replace(self, answering=tuple(s for s in self.reporting if s.id in chosen))


def balanced_order(scenarios: Sequence[Scenario], *, seed: int = 42) -> tuple[Scenario, ...]:
    """Order scenarios so that every prefix takes the categories in turn.

    Within a category the order is that of a hash of (seed, id): it depends neither on the order of
    the file nor on which other scenarios there are.
    """
    by_category: dict[str, list[Scenario]] = {}
    for scenario in sorted(scenarios, key=lambda s: _rank(seed, s.id)):
        by_category.setdefault(scenario.category, []).append(scenario)
    ranked = [
        (place, category, scenario)
        for category, members in by_category.items()
        for place, scenario in enumerate(members)
    ]
    return tuple(scenario for _, _, scenario in sorted(ranked, key=lambda entry: entry[:2]))


def split_scenarios(
    scenarios: Sequence[Scenario], *, n_selection: int, seed: int = 42
) -> ScenarioSplit:
    """Split test scenarios, balanced by category, into selection and reporting.

    Args:
        scenarios: the test scenarios.
        n_selection: how many of them choose.
        seed: seed of the order (see `balanced_order`).

    Raises:
        SelectionError: one side of the split would be empty.
    """
    if not 0 < n_selection < len(scenarios):
        raise SelectionError(
            f"{n_selection} selection scenarios out of {len(scenarios)} test scenarios leave one "
            f"side empty; choose 1 to {len(scenarios) - 1}"
        )
    order = balanced_order(scenarios, seed=seed)
    return ScenarioSplit(selection=order[:n_selection], reporting=order[n_selection:])


def halve_scenarios(
    scenarios: Sequence[Scenario], clusters: ScenarioClusters, *, seed: int = 42
) -> ScenarioSplit:
    """Halve test scenarios for the two-fold protocol: whole clusters, balanced by category.

    Clusters go, the largest first, to the half that leaves sizes and categories most even (sum of
    squared differences); so no half is judged on a system prompt or an entity that chose for it.

    Args:
        scenarios: the test scenarios.
        clusters: their clusters.
        seed: seed of the order (see `balanced_order`).

    Raises:
        SelectionError: fewer than two clusters.
    """
    order = balanced_order(scenarios, seed=seed)
    members: dict[str, list[Scenario]] = {}
    for scenario in order:
        members.setdefault(clusters.of[scenario.id], []).append(scenario)
    if len(members) < 2:
        raise SelectionError(
            f"two-fold selection needs at least 2 independent test scenarios, got {len(members)} "
            f"({len(scenarios)} scenarios); add test scenarios, or use --protocol split"
        )
    half_of: dict[str, int] = {}
    leads: Counter[str] = Counter()  # by category, and "" for size: first half minus second
    for cluster, group in sorted(members.items(), key=lambda entry: -len(entry[1])):
        gain = {"": len(group), **Counter(scenario.category for scenario in group)}
        half = int(_unevenness(leads, gain) > _unevenness(leads, {k: -v for k, v in gain.items()}))
        leads.update({key: -n if half else n for key, n in gain.items()})
        half_of[cluster] = half
    halves = tuple(tuple(s for s in order if half_of[clusters.of[s.id]] == half) for half in (0, 1))
    return ScenarioSplit(selection=order, reporting=order, halves=halves)


def _unevenness(leads: Counter[str], gain: dict[str, int]) -> int:
    return sum((leads[key] + n) ** 2 - leads[key] ** 2 for key, n in gain.items())


def _rank(seed: int, scenario_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{scenario_id}".encode(), digest_size=8).digest()
