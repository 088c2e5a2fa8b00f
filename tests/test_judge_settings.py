"""Judges by name, and the file that describes one."""

from pathlib import Path

import pytest

from interp_steer.config import SweepConfig
from interp_steer.endpoints import EndpointError
from interp_steer.errors import JudgeError
from interp_steer.judge_settings import JudgeSettings, default_cache, read_judge_settings
from interp_steer.llm_judge import LlmJudge
from interp_steer.named_judges import judge_of, load_judge, pair_judge, spent
from interp_steer.organism import ExactJudge
from interp_steer.pairs import ScoredPairs

FILE = """
model = "my/judge"
base_url = "https://judge.example/v1"
temperature = 0.5
max_tokens = 100
trait_description = "Wanting more."
prompt_price = 0.1
cache = "answers"
"""


def written(folder: Path, text: str, name: str = "judge.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class TestFile:
    def test_says_what_differs_from_the_paper(self, tmp_path: Path) -> None:
        found = read_judge_settings(written(tmp_path, FILE))
        assert (found.endpoint.model, found.endpoint.temperature) == ("my/judge", 0.5)
        assert (found.endpoint.reasoning_effort, found.endpoint.top_p) == ("high", 1.0)
        assert found.cache == tmp_path / "answers" and found.prompt_price == 0.1
        assert found.completion_price is None

    def test_may_be_json_and_switch_things_off(self, tmp_path: Path) -> None:
        text = '{"model": "m", "reasoning_effort": null}'
        found = read_judge_settings(written(tmp_path, text, "judge.json"))
        assert found.endpoint.reasoning_effort is None

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("modle = 'm'", "unknown key 'modle'; the keys are api_key_env, base_url"),
            ("model = 3", "model must be a text, got 3"),
            ("temperature = true", "temperature must be a number, got True"),
            ("concurrency = 1.5", "concurrency must be a number of things"),
            ("model", "is no TOML"),
        ],
    )
    def test_that_does_not_fit_is_refused_by_name(
        self, tmp_path: Path, text: str, said: str
    ) -> None:
        with pytest.raises(JudgeError, match=said):
            read_judge_settings(written(tmp_path, text))

    def test_never_holds_a_key(self, tmp_path: Path) -> None:
        with pytest.raises(JudgeError, match="environment alone") as caught:
            read_judge_settings(written(tmp_path, "api_key = 'sk-secret'"))
        assert "sk-secret" not in str(caught.value)

    def test_that_is_not_there_or_names_no_endpoint(self, tmp_path: Path) -> None:
        with pytest.raises(JudgeError, match="cannot read"):
            read_judge_settings(tmp_path / "none.toml")
        with pytest.raises(EndpointError, match=r"judge\.toml: top_p"):
            read_judge_settings(written(tmp_path, "top_p = 3"))


class TestDefaults:
    def test_are_those_of_the_paper(self) -> None:
        endpoint = JudgeSettings().endpoint
        assert endpoint.identity() == {
            "model": "openai/gpt-oss-120b",
            "temperature": 1.0,
            "top_p": 1.0,
            "reasoning_effort": "high",
            "max_tokens": None,
        }

    def test_answers_are_kept_for_all_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_cache() == tmp_path / "interp-steer" / "judge"
        assert JudgeSettings().cache == default_cache()


class TestNames:
    def test_exact_is_the_default_and_compares_by_scores(self) -> None:
        found = judge_of(SweepConfig(), "honesty")
        assert isinstance(found, ExactJudge) and spent(found) == ""
        assert isinstance(pair_judge(found), ScoredPairs)

    def test_llm_takes_the_file_and_the_flag(self, tmp_path: Path) -> None:
        config = SweepConfig(
            judge="llm", judge_config=written(tmp_path, FILE), trait_description="Giving."
        )
        found = judge_of(config, "greed")
        assert isinstance(found, LlmJudge) and found.name == "my/judge"
        assert found.identity()["trait_description"] == "Giving."
        assert pair_judge(found) is found and spent(found) == ""

    def test_settings_without_llm_and_unknown_names_are_refused(self) -> None:
        with pytest.raises(JudgeError, match="belong to --judge llm"):
            judge_of(SweepConfig(trait_description="Giving."), "honesty")
        with pytest.raises(JudgeError, match="take a language model: --judge llm"):
            load_judge("exact", "greed")
        with pytest.raises(JudgeError, match="available: exact, llm"):
            load_judge("oracle", "honesty")
