"""What the bootstrap resamples as a whole, for any scenario file."""

from hypothesis import given
from hypothesis import strategies as st

from interp_steer.organism import scenarios_path
from interp_steer.scenario_clusters import MIN_CLUSTERS, cluster_scenarios
from interp_steer.scenarios import load_scenarios
from selection_cases import SCENARIOS, raw_scenario, scenario


def test_scenarios_that_share_nothing_are_clusters_of_their_own() -> None:
    found = cluster_scenarios(SCENARIOS)
    assert len(found) == 24
    assert found.meaning == "single scenarios"


def test_a_repeated_system_prompt_makes_a_cluster() -> None:
    found = cluster_scenarios([scenario(i, system_malicious=f"lie {i % 6}") for i in range(24)])
    assert len(found) == 6
    assert found.of["s000"] == found.of["s006"] == "s000" != found.of["s001"]
    assert found.meaning == "scenarios with the same malicious prompt"


def test_so_does_an_entity_but_not_a_short_reference() -> None:
    entity = [scenario(i, reference=f"the capital is {i // 2}") for i in range(12)]
    assert len(cluster_scenarios(entity)) == 6
    short = [scenario(i, reference="yes" if i % 2 else "no") for i in range(12)]
    assert len(cluster_scenarios(short)) == 12


def test_links_through_a_third_join_all_of_them() -> None:
    chain = [
        scenario(0, system_malicious="a"),
        scenario(1, system_malicious="a", user="u"),
        scenario(2, user="u"),
        *(scenario(i) for i in range(3, 9)),
    ]
    found = cluster_scenarios(chain)
    assert found.of["s000"] == found.of["s001"] == found.of["s002"]
    assert len(found) == 7
    assert found.linked_by == ("malicious prompt", "user prompt")


def test_one_prompt_for_all_is_a_condition_not_a_cluster() -> None:
    found = cluster_scenarios([scenario(i, system_aligned="be good") for i in range(24)])
    assert len(found) == 24
    assert found.meaning == "single scenarios, given the aligned prompt"


def test_the_bundled_scenarios() -> None:
    for path, n in ((scenarios_path("honesty"), 112), (scenarios_path("compassion"), 5)):
        test = [s for s in load_scenarios(path) if s.split == "test"]
        assert len(cluster_scenarios(test)) == n


def test_raw_pairs_are_linked_by_their_prompts() -> None:
    raw = [raw_scenario(i) for i in range(8)]
    assert len(cluster_scenarios(raw)) == 8


@given(prompts=st.lists(st.integers(0, 9), min_size=1, max_size=30), seed=st.randoms())
def test_the_order_does_not_matter_and_no_prompt_is_torn(prompts: list[int], seed) -> None:
    scenarios = [scenario(i, system_malicious=f"lie {p}") for i, p in enumerate(prompts)]
    found = cluster_scenarios(scenarios)
    shuffled = list(scenarios)
    seed.shuffle(shuffled)
    assert cluster_scenarios(shuffled).of == found.of
    distinct = len(set(prompts))
    expected = distinct if distinct >= MIN_CLUSTERS else len(prompts)
    assert len(found) == expected
