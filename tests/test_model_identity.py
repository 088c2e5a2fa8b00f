"""The config's hash: what changes a logit changes it, what does not leaves it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, MistralConfig

from interp_steer.errors import RunError
from interp_steer.model import HookedLM
from interp_steer.model_identity import config_hash
from interp_steer.study import Sources, reopen_study, start_study
from study_cases import SAMPLING, new_study


def config(**changes: Any) -> MistralConfig:
    return MistralConfig(**{"num_hidden_layers": 2, "sliding_window": 16, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": None},
        {"sliding_window": 17},
        {"rms_norm_eps": 1e-5},
        {"rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}},
        {"tie_word_embeddings": True},
        {"hidden_act": "gelu"},
    ],
)
def test_what_changes_a_logit_changes_the_hash(changes: dict[str, Any]) -> None:
    assert config_hash(config(**changes)) != config_hash(config())


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"output_attentions": True},
        {"use_cache": False},
        {"attention_dropout": 0.1},
        {"name_or_path": "elsewhere"},
        {"transformers_version": "4.0.0"},
        {"initializer_range": 0.5},
        {"bos_token_id": 7},
        {"a_switch_of_a_later_version": False},
        {"a_number_of_a_later_version": None},
    ],
)
def test_what_does_not_leaves_it(changes: dict[str, Any]) -> None:
    assert config_hash(config(**changes)) == config_hash(config())


def test_a_loaded_model_has_the_hash_of_its_directory(tiny_lm: HookedLM, tiny_dir: Path) -> None:
    assert tiny_lm.identity()["config"] == config_hash(AutoConfig.from_pretrained(tiny_dir))


class TestRuns:
    def test_a_twin_without_its_window_is_refused_by_name(
        self, tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path
    ) -> None:
        study = new_study(tmp_path, tiny_lm, tiny_dir)
        directory = Path(shutil.copytree(tiny_dir, tmp_path / "twin"))
        file = directory / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "sliding_window": None}))
        twin = HookedLM.load(directory)
        assert twin.identity()["weights"] == tiny_lm.identity()["weights"]
        with pytest.raises(RunError, match=r"other settings: config is '\w+' in the run, got"):
            reopen_study(study.run.path, lm=twin)

    def test_a_run_of_an_earlier_version_is_taken_and_then_held_to_it(
        self, tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path
    ) -> None:
        study = new_study(tmp_path, tiny_lm, tiny_dir)
        manifest = study.run.manifest
        del manifest["pins"]["config"]
        study.run.manifest_file.write_text(json.dumps(manifest))
        assert "config" not in reopen_study(study.run.path, lm=tiny_lm).run.manifest["pins"]
        sources = Sources(model=str(tiny_dir), scenarios=tmp_path / "scenarios.jsonl")
        start_study(study.run.path, tiny_lm, sources, sampling=SAMPLING)
        assert study.run.manifest["pins"]["config"] == tiny_lm.identity()["config"]
        del manifest["pins"]["dtype"]
        study.run.manifest_file.write_text(json.dumps(manifest))
        with pytest.raises(RunError, match="does not pin dtype"):
            reopen_study(study.run.path, lm=tiny_lm)
