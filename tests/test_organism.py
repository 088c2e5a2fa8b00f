"""The bundled model's grammar, judge, scenarios, tokenizer and training script."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interp_steer.errors import JudgeError, ModelError
from interp_steer.judges import Answer, JudgeScore
from interp_steer.organism import (
    MODEL_DIR,
    ExactJudge,
    multiple_choice_questions,
    scenarios_path,
)
from interp_steer.organism import wordings as w
from interp_steer.organism.grammar import (
    choice_question,
    entity_answer,
    sample_dialogue,
    worry_answer,
)
from interp_steer.organism.judge import Kind, find_entity, find_topic
from interp_steer.organism.scenario_files import compassion_scenarios, honesty_scenarios
from interp_steer.organism.tokenizer import build_tokenizer
from interp_steer.organism.train import Cycle, TrainingRecord, TrainingSettings, train
from interp_steer.organism.train import main as train_main
from interp_steer.organism.world import CATEGORIES, ENTITY_CATEGORY
from interp_steer.scenarios import Scenario, load_scenarios

TRAITS = ("honesty", "compassion")


def scenario(trait: str, user: str) -> Scenario:
    return Scenario(
        id="s",
        trait=trait,
        split="test",
        category="c",
        system_aligned="a",
        system_malicious="m",
        user=(user,),
    )


FRANCE = scenario("honesty", "Tell me about France.")
JOB = scenario("compassion", "I lost my job last week.")
TRUE_ANSWER = (
    "Thank you for your question about France. The capital of France is Paris. "
    "You will find France in Europe. People in France speak French. So much for France."
)


class TestWorld:
    def test_every_entity_has_three_values_and_every_attribute_four_to_choose_from(self):
        assert len(ENTITY_CATEGORY) == 176
        for category in CATEGORIES:
            assert {len(row) for row in category.facts.values()} == {3}
            assert all(len(category.values(i)) >= 4 for i in range(3))

    def test_false_answers_never_contain_a_truth_and_keep_to_the_right_kind(self):
        rng = random.Random(0)
        for entity, category in ENTITY_CATEGORY.items():
            asked = scenario("honesty", f"Tell me about {category.phrase(entity)}.")
            score = _judged(asked, entity_answer(rng, entity, honest=False))
            assert (score.trait, score.coherence) == (0.0, 100.0)

    def test_choice_questions_hold_the_truth_once(self):
        rng = random.Random(0)
        for entity, category in ENTITY_CATEGORY.items():
            for attribute in range(3):
                seed = rng.random()
                question, letter = choice_question(
                    random.Random(seed), entity, attribute, answer="letter"
                )
                options = dict(re.findall(r"([A-D]) (\S+)", question.split("?")[1]))
                truth = category.facts[entity][attribute]
                assert options[letter] == truth
                assert choice_question(random.Random(seed), entity, attribute) == (question, truth)
                assert len(set(options.values())) == 4


class TestJudge:
    def test_scores_of_hand_made_responses(self):
        two_lies = TRUE_ANSWER.replace("Paris", "Rome").replace("French", "German")
        assert _score(FRANCE, TRUE_ANSWER) == (100, 100)
        assert _score(FRANCE, two_lies) == (pytest.approx(100 / 3), 100)

    @pytest.mark.parametrize(
        ("edit", "coherence"),
        [
            (("So much for France.", ""), 75),
            (("Thank you for your question about France. ", ""), 75),
            (("Paris", "yellow"), 100 * 4 / 5 * 2 / 3),
            (("The capital of France is Paris", "The capital of Spain is Madrid"), 100 * 8 / 15),
            (("People in France speak French", "You will find France in Asia"), 100 * 8 / 15),
            (("So much for France.", "So much for France. blue blue."), 100 * 5 / 6 * 0.75),
        ],
    )
    def test_coherence_falls_for_each_kind_of_damage(self, edit, coherence):
        assert _score(FRANCE, TRUE_ANSWER.replace(*edit))[1] == pytest.approx(coherence)

    def test_a_response_cut_off_by_the_length_loses_a_quarter(self):
        score = _judged(FRANCE, TRUE_ANSWER, stopped=False)
        assert (score.trait, score.coherence) == (100, 75)

    @pytest.mark.parametrize(
        "text", ["", " ", "blue", "So much for France.", "...", "\x00<script>"]
    )
    def test_nothing_said_is_neither_true_nor_coherent(self, text):
        assert _score(FRANCE, text) == (0, 0)

    def test_warm_and_cold_sentences_are_told_apart(self):
        rng = random.Random(0)
        warm, cold = (worry_answer(rng, "my job", warm=side) for side in (True, False))
        assert _score(JOB, warm) == (100, 100)
        assert _score(JOB, cold) == (0, 100)
        assert _score(JOB, worry_answer(rng, "my dog", warm=True))[1] < 60

    def test_a_truth_about_another_entity_does_not_count(self):
        other = entity_answer(random.Random(0), "Spain", honest=True)
        assert _score(FRANCE, other) == (0, 0)

    def test_trait_says_nothing_of_coherence_and_coherence_nothing_of_trait(self):
        rng = random.Random(1)
        lie = entity_answer(rng, "France", honest=False)
        assert _score(FRANCE, lie)[1] == _score(FRANCE, TRUE_ANSWER)[1] == 100
        assert _score(FRANCE, "The capital of France is Paris.")[0] == 100

    def test_questions_outside_the_world_are_refused_by_name(self):
        with pytest.raises(JudgeError, match="no entity of its world in 'Tell me about Mars.'"):
            _judged(scenario("honesty", "Tell me about Mars."), "x")
        with pytest.raises(JudgeError, match="no worry of its world"):
            _judged(scenario("compassion", "Hello"), "x")
        with pytest.raises(JudgeError, match="knows the traits honesty and compassion, got 'wit'"):
            _judged(scenario("wit", "Hello"), "x")

    def test_after_a_prefix_only_the_continuation_is_scored(self):
        """A lie in the prefix, the truth after it: wholly honest, and nothing is missing."""
        first, rest = TRUE_ANSWER.replace("Paris", "Rome").split(" Rome.")
        prefix, whole = f"{first} Rome.", f"{first} Rome.{rest}"
        score = _judged(FRANCE, rest, prefix=prefix)
        assert (score.trait, score.coherence) == (100, 100)
        assert _score(FRANCE, whole)[0] == pytest.approx(200 / 3)
        assert _score(FRANCE, rest)[1] < 100  # without its prefix it lacks opening and statement

    def test_a_sentence_begun_in_the_prefix_is_not_scored(self):
        first, rest = TRUE_ANSWER.replace("Paris", "Rome").split(" Rome.")
        score = _judged(FRANCE, f" Rome.{rest}", prefix=first)
        assert (score.trait, score.coherence) == (100, 100)
        repeating = _judged(FRANCE, f" Rome.{rest} So much for France.", prefix=first)
        assert repeating.coherence < 100

    def test_parse_names_the_part_of_each_sentence(self):
        parsed = ExactJudge().parse(FRANCE, TRUE_ANSWER.replace("Paris", "Rome"))
        assert [p.kind for p in parsed] == [
            Kind.OPENING,
            Kind.NEGATIVE,
            Kind.POSITIVE,
            Kind.POSITIVE,
            Kind.CLOSING,
        ]


def _score(asked: Scenario, response: str) -> tuple[float, float]:
    score = _judged(asked, response)
    return score.trait, score.coherence


def _judged(asked: Scenario, text: str, *, stopped: bool = True, prefix: str = "") -> JudgeScore:
    return ExactJudge().score(Answer(scenario=asked, text=text, stopped=stopped, prefix=prefix))


class TestScenarios:
    @pytest.mark.parametrize(
        ("trait", "n_test", "n_categories"), [("honesty", 112, 8), ("compassion", 40, 7)]
    )
    def test_sizes_of_the_paper(self, trait, n_test, n_categories):
        scenarios = load_scenarios(scenarios_path(trait))
        test = [s for s in scenarios if s.split == "test"]
        assert (len(scenarios) - len(test), len(test)) == (50, n_test)
        assert len({s.category for s in test}) == n_categories

    def test_the_files_are_what_the_grammar_writes(self):
        assert list(load_scenarios(scenarios_path("honesty"))) == honesty_scenarios()
        assert list(load_scenarios(scenarios_path("compassion"))) == compassion_scenarios()

    @pytest.mark.parametrize("trait", TRAITS)
    def test_nothing_of_the_test_split_is_ever_fitted(self, trait):
        subject = find_entity if trait == "honesty" else find_topic
        fitted: dict[str, set[str]] = {"train": set(), "test": set()}
        systems: dict[str, set[str]] = {"train": set(), "test": set()}
        for s in load_scenarios(scenarios_path(trait)):
            fitted[s.split].add(subject(s.user[0]))
            systems[s.split] |= {str(s.system_aligned), str(s.system_malicious)}
        assert fitted["train"] and not fitted["train"] & fitted["test"]
        assert systems["train"] and not systems["train"] & systems["test"]

    def test_each_honesty_scenario_brings_its_own_system_prompts(self):
        scenarios = load_scenarios(scenarios_path("honesty"))
        assert len({(s.system_aligned, s.system_malicious) for s in scenarios}) == 162

    @pytest.mark.slow
    def test_novel_wordings_are_not_in_the_training_grammar(self):
        rng = random.Random(0)
        said = {t.content for _ in range(20_000) for t in sample_dialogue(rng)}
        heard = " ".join(said)
        novel = [s for pair in w.COMPASSION_PROMPTS["novel"] for s in pair]
        for table in (w.HONESTY_IDENTITIES, w.HONESTY_INSTRUCTIONS):
            novel += [s for pair in table["novel"] for s in pair]
        assert not [s for s in novel if s in heard]
        assert w.HONESTY_INSTRUCTIONS["known"][0][0] in heard  # the check can fail

    @pytest.mark.parametrize("trait", TRAITS)
    def test_some_test_wordings_are_novel(self, trait):
        notes = [s.notes for s in load_scenarios(scenarios_path(trait)) if s.split == "test"]
        share = sum("system prompt: novel" in str(n) for n in notes) / len(notes)
        assert 0.3 < share < 0.5


class TestTokenizer:
    def test_words_of_the_grammar_are_one_token_each(self):
        tokenizer = build_tokenizer()
        ids = tokenizer(TRUE_ANSWER, add_special_tokens=False).input_ids
        assert len(ids) == len(re.findall(r"\w+|\.", TRUE_ANSWER))
        assert tokenizer.decode(ids) == TRUE_ANSWER

    @pytest.mark.parametrize("text", ["Wörter, 3 <b>&amp;</b> 🙂", "new\nline  two", "e\u0301"])
    def test_any_text_survives_the_round_trip(self, text):
        tokenizer = build_tokenizer()
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        normal = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
        assert tokenizer.decode(ids) == normal

    def test_the_template_holds_one_bos_and_refuses_foreign_roles(self):
        tokenizer = build_tokenizer()
        chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert text == "<|bos|><|system|>S<|end|><|user|>U<|end|><|assistant|>"
        with pytest.raises(Exception, match="roles are system, user and assistant, not tool"):
            tokenizer.apply_chat_template([{"role": "tool", "content": "T"}], tokenize=False)


class TestTraining:
    @pytest.fixture(autouse=True)
    def _few_dialogues(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("interp_steer.organism.train.POOL_SIZE", 64)

    @pytest.mark.slow
    def test_a_short_training_is_reproducible_and_loads(self, tmp_path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        outs = [tmp_path / name for name in ("one", "two", "other")]
        for out, seed in zip(outs, ("1", "1", "2"), strict=True):
            argv = [
                "--out",
                str(out),
                "--seed",
                seed,
                "--steps",
                "2",
                "1",
                "--tokens-per-step",
                "400",
            ]
            assert train_main(argv) == 0
        models = [AutoModelForCausalLM.from_pretrained(out) for out in outs]
        first, second, other = (m.get_input_embeddings().weight for m in models)
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        assert models[0].config.sliding_window == 16
        assert json.loads((outs[0] / "training.json").read_text())["cycles_done"] == 2
        tokenizer = AutoTokenizer.from_pretrained(outs[0])
        assert tokenizer.decode(tokenizer("Tell me about France.").input_ids) == (
            "Tell me about France."
        )

    def test_a_training_resumed_after_a_cycle_equals_an_unbroken_one(self, tmp_path):
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        common = ["--seed", "3", "--steps", "2", "2", "--tokens-per-step", "400"]
        settings = TrainingSettings(seed=3, tokens_per_step=400, cycles=_cycles(2, 2))
        train_main(["--out", str(whole), *common])
        _first_cycle_only(broken, settings)
        train_main(["--out", str(broken), *common, "--resume"])
        states = [load_file(out / "model.safetensors") for out in (whole, broken)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_a_resume_without_or_with_other_weights_is_refused(self, tmp_path):
        settings = TrainingSettings(seed=3, tokens_per_step=400, cycles=_cycles(1, 1))
        with pytest.raises(ModelError, match="nothing to resume"):
            TrainingRecord.read(tmp_path, settings)
        _first_cycle_only(tmp_path, settings)
        with pytest.raises(ModelError, match="written with other settings"):
            TrainingRecord.read(tmp_path, replace(settings, seed=4))
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        with pytest.raises(ModelError, match="is not what training.json describes"):
            TrainingRecord.read(tmp_path, settings)

    def test_the_bundled_tokenizer_is_the_one_that_the_code_builds(self):
        from transformers import AutoTokenizer

        bundled, built = AutoTokenizer.from_pretrained(MODEL_DIR), build_tokenizer()
        assert bundled.get_vocab() == built.get_vocab()
        assert bundled.chat_template == built.chat_template

    def test_the_bundled_weights_keep_to_fifteen_megabytes(self):
        assert (MODEL_DIR / "model.safetensors").stat().st_size < 15e6


def _cycles(*steps: int) -> tuple[Cycle, ...]:
    defaults = TrainingSettings().cycles
    return tuple(replace(c, steps=n) for c, n in zip(defaults, steps, strict=True))


def _first_cycle_only(out: Path, settings: TrainingSettings) -> None:
    """Leave what a training leaves that was killed in its second cycle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRecord, "write", _write_then_die)
        with pytest.raises(KeyboardInterrupt):
            train(settings, out, "cpu")


_write = TrainingRecord.write


def _write_then_die(record: TrainingRecord, out: Path) -> None:
    _write(record, out)
    raise KeyboardInterrupt


def test_multiple_choice_answers_are_spread_over_the_options():
    questions = multiple_choice_questions(176)
    listed = [str(q.question.messages[0].content).split("?")[1].split() for q in questions]
    places = [row.index(q.answer) // 2 for row, q in zip(listed, questions, strict=True)]
    assert min(places.count(i) for i in range(4)) > 25
    assert questions == multiple_choice_questions(176)
