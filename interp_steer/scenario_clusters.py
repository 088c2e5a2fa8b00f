"""Which scenarios are not independent of one another: what the bootstrap resamples as a whole.

Scenarios that share a system prompt, a user prompt or an entity succeed and fail together; counting
them as independent makes intervals too narrow. The rule needs nothing but the scenario file:
scenarios with the same malicious system prompt (or raw prompt), the same aligned one, the same user
turns or the same reference text are one cluster, and so is whatever is linked through a third. A
link that would leave fewer than `MIN_CLUSTERS` clusters is not made: such a prompt (one for all
scenarios, say) is a fixed condition of the study, and intervals are conditional on it. The rule
knows nothing of paraphrases.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from interp_steer.scenarios import Scenario

MIN_CLUSTERS = 5
"""A link that leaves fewer clusters than these is not made: nothing could be resampled."""

MIN_REFERENCE_WORDS = 3
"""A shorter reference ("yes", "B") names no entity and links nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioClusters:
    """The cluster of every scenario of a set."""

    of: Mapping[str, str]
    """By scenario id, the cluster: the id of its first member, in the order of ids."""
    linked_by: tuple[str, ...]
    """Links that joined scenarios; empty where every scenario is its own cluster."""
    fixed: tuple[str, ...]
    """Links that were not made because too few clusters would be left."""

    def __len__(self) -> int:
        return len(set(self.of.values()))

    @property
    def meaning(self) -> str:
        """What a cluster is, in words."""
        what = "single scenarios"
        if self.linked_by:
            what = f"scenarios with the same {' or '.join(self.linked_by)}"
        return what + (f", given the {' and '.join(self.fixed)}" if self.fixed else "")


def cluster_scenarios(
    scenarios: Sequence[Scenario], *, min_clusters: int = MIN_CLUSTERS
) -> ScenarioClusters:
    """Cluster scenarios by what they share (see the module).

    Args:
        scenarios: the test scenarios.
        min_clusters: the least number of clusters that a link must leave.
    """
    of = {scenario.id: scenario.id for scenario in sorted(scenarios, key=lambda s: s.id)}
    linked, fixed = [], []
    for name, key in _LINKS.items():
        joined = _joined(of, {scenario.id: key(scenario) for scenario in scenarios})
        n_before, n_after = len(set(of.values())), len(set(joined.values()))
        if n_after == n_before:
            continue
        if n_after < min_clusters:
            fixed.append(name)
        else:
            of = joined
            linked.append(name)
    return ScenarioClusters(of=of, linked_by=tuple(linked), fixed=tuple(fixed))


def _joined(of: Mapping[str, str], keys: Mapping[str, Hashable]) -> dict[str, str]:
    """Merge clusters whose members share a key; None links nothing."""
    parent = {cluster: cluster for cluster in of.values()}

    def root(cluster: str) -> str:
        while parent[cluster] != cluster:
            cluster = parent[cluster]
        return cluster

    first: dict[Hashable, str] = {}
    for scenario, cluster in of.items():
        if keys[scenario] is not None:
            one, other = root(first.setdefault(keys[scenario], cluster)), root(cluster)
            parent[max(one, other)] = min(one, other)
    return {scenario: root(cluster) for scenario, cluster in of.items()}


def _entity(scenario: Scenario) -> Hashable:
    text = scenario.reference or ""
    return text if len(text.split()) >= MIN_REFERENCE_WORDS else None


_LINKS: Mapping[str, Callable[[Scenario], Hashable]] = {
    "malicious prompt": lambda s: s.prompt_malicious if s.is_raw else s.system_malicious,
    "aligned prompt": lambda s: s.prompt_aligned if s.is_raw else s.system_aligned,
    "user prompt": lambda s: s.user or None,
    "reference": _entity,
}
