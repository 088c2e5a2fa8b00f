"""What knows a model again: the config's hash, and how its weights were processed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, MistralConfig

from conftest import save_tiny
from interp_steer.errors import ProbeError, RunError, SteeringError
from interp_steer.model import HookedLM
from interp_steer.model_identity import config_hash, is_centred
from interp_steer.probes import ProbeSet
from interp_steer.residuals import stream_token_residuals
from interp_steer.steering import SteeringPlan, SteeringSpec, steer
from interp_steer.steering_files import load_steering, save_steering
from interp_steer.study import Sources, reopen_study, start_study
from reference import random_sequences
from steering_cases import make_probes
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


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2: LayerNorm, so that what is written to the residual stream can be centred."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny-gpt2", "gpt2")


@pytest.fixture(scope="module")
def raw(directory: Path) -> HookedLM:
    return HookedLM.load(directory)


@pytest.fixture(scope="module")
def processed(directory: Path) -> HookedLM:
    lm = HookedLM.load(directory)
    before = lm.identity()
    lm.bridge.enable_compatibility_mode()  # seen though the model is wrapped already
    assert lm.identity()["weights"] != before["weights"]
    return lm


class TestWeightProcessing:
    """Folding and centring: another residual stream under the same logits."""

    def test_a_bridge_says_what_was_done(self, directory: Path, processed: HookedLM) -> None:
        lm = HookedLM.load(directory)
        before = lm.identity()
        assert before["weight_processing"] == "none"
        lm.bridge.enable_compatibility_mode(no_processing=True)  # names of hooks alone
        assert lm.identity() == before
        found = processed.identity()["weight_processing"]
        assert found == "compatibility_mode+center_writing_weights"

    def test_logits_are_the_same_and_residuals_are_not(
        self, raw: HookedLM, processed: HookedLM
    ) -> None:
        sequences = random_sequences(raw.d_vocab, (20, 7))
        seen = [
            [part.values for part in stream_token_residuals(lm, sequences)]
            for lm in (raw, processed)
        ]
        logits = [lm.forward(sequences) for lm in (raw, processed)]
        said = [one[:, -7:].log_softmax(-1) for one in logits if one is not None]
        torch.testing.assert_close(*said, rtol=0, atol=1e-4)
        for one, other in zip(*seen, strict=True):
            assert float((one - other).abs().max()) > 0.1

    @pytest.mark.parametrize("fitted_on", ["raw", "processed"])
    def test_probes_of_one_are_refused_in_the_other(
        self, raw: HookedLM, processed: HookedLM, fitted_on: str, tmp_path: Path
    ) -> None:
        """Taken in hand, out of a file of steering, and out of a file of probes."""
        own, other = (raw, processed) if fitted_on == "raw" else (processed, raw)
        made = make_probes(3, layers=(1,), d_model=own.d_model)
        probes = replace(made, provenance=own.identity())
        spec = SteeringSpec(method="sttp", layer=1, alpha=2.0)
        said = {
            "raw": r"weight_processing none, got a model with weight_processing compatibility_mode"
            r".*from_pretrained_no_processing.*or fit probes on this one",
            "processed": r"weight_processing compatibility_mode\+center_writing_weights, got a "
            r"model with weight_processing none.*process the weights as then",
        }[fitted_on]
        save_steering(tmp_path, spec, probes, provenance=own.identity())
        saved = load_steering(tmp_path)
        probes.save(tmp_path)
        expected = {"weight_processing": other.weight_processing}
        with pytest.raises(SteeringError, match=said), steer(other, spec, probes):
            pytest.fail("must not be entered")
        with pytest.raises(SteeringError, match=said):
            saved.check_model(other)
        with pytest.raises(ProbeError, match="were fitted with weight_processing = "):
            ProbeSet.load(tmp_path, provenance=expected)
        saved.check_model(own)
        with steer(own, spec, probes):
            own.forward(random_sequences(own.d_vocab, (5,)))

    def test_what_does_not_say_was_not_processed(
        self, raw: HookedLM, processed: HookedLM, tmp_path: Path
    ) -> None:
        """Artifacts of earlier versions; and probes that name no model are held to nothing."""
        identity = raw.identity()
        del identity["weight_processing"]
        made = make_probes(3, layers=(1,), d_model=raw.d_model)
        probes, spec = (
            replace(made, provenance=identity),
            SteeringSpec(method="sttp", layer=1, alpha=2.0),
        )
        with pytest.raises(SteeringError, match="weight_processing none, got"):
            SteeringPlan([spec], probes).check_fits(processed)
        SteeringPlan([spec], probes).check_fits(raw)
        SteeringPlan([spec], made).check_fits(processed)
        probes.save(tmp_path)
        ProbeSet.load(tmp_path, provenance={"weight_processing": "none"})

    @pytest.mark.parametrize("has_pin", [True, False])
    def test_a_run_is_held_to_it_by_name(
        self, raw: HookedLM, processed: HookedLM, directory: Path, tmp_path: Path, has_pin: bool
    ) -> None:
        study = new_study(tmp_path, raw, directory)
        manifest = study.run.manifest
        assert manifest["pins"]["weight_processing"] == "none"
        if not has_pin:  # made by an earlier version
            del manifest["pins"]["weight_processing"]
            study.run.manifest_file.write_text(json.dumps(manifest))
        reopen_study(study.run.path, lm=raw)
        said = r"was made with weight_processing none, got a model with weight_processing comp"
        with pytest.raises(RunError, match=said):
            reopen_study(study.run.path, lm=processed)
        with pytest.raises(RunError, match=said):
            sources = Sources(model=str(directory), scenarios=tmp_path / "scenarios.jsonl")
            start_study(study.run.path, processed, sources, sampling=SAMPLING)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_centred_weights_are_told_from_others(self, dtype: torch.dtype) -> None:
        """Also after rounding; weights of many sizes, with an offset that all rows share."""
        rows = torch.randn(3000, 256, generator=torch.Generator().manual_seed(1)) * 0.02
        assert not is_centred(rows.to(dtype))
        assert not is_centred((rows + 0.001).to(dtype))
        assert is_centred((rows - rows.mean(dim=-1, keepdim=True)).to(dtype))
