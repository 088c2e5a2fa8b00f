"""A HookedTransformer of TransformerLens 3.x, wrapped: `make test-hooked`, in a venv of its own.

It is held to the conformance suite against plain Hugging Face modules, and to what a bridge makes
of the same weights: the same residual streams, texts, probes and steered texts.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

if version("transformer-lens").split(".")[0] != "3":
    pytest.skip(
        "TransformerLens 4 has no HookedTransformer; run make test-hooked", allow_module_level=True
    )

from conftest import ROOT, STORIES_DIR, attached_hooks
from hooked_models import FAMILIES, context_of, hooked_transformer, plain_model, save_family
from interp_steer.config import FitConfig, SamplingConfig
from interp_steer.conformance import LAWS, Law, ReferencePass, Subject
from interp_steer.errors import ModelError, RunError, SteeringError
from interp_steer.fit_stage import fit
from interp_steer.hooked_transformer import is_hooked_transformer
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.organism import MODEL_DIR, scenarios_path
from interp_steer.probes import ProbeSet
from interp_steer.residuals import stream_token_residuals
from interp_steer.scenarios import load_scenarios, save_scenarios
from interp_steer.steering import SteeringSpec, steer
from interp_steer.steering_files import load_steering, save_steering
from interp_steer.study import Sources, Study, reopen_study, start_study
from interp_steer.tokens import Segment, TokenChunk, TokenizedPrompt
from reference import plain_forward, random_sequences

# The class itself, and that its models load, are announced to be deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer:DeprecationWarning")

# Measured up to 4e-6 of the largest value; see `interp_steer.conformance.subject.NOISE`.
NOISE = 3e-5
SAMPLED = GenerationSettings(max_new_tokens=16, temperature=0.9)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    # TransformerLens takes a path that contains "llama" for a model of Meta's.
    base = tmp_path_factory.mktemp("models")
    return {
        family: save_family(base / f"family{place}", family)
        for place, family in enumerate(FAMILIES)
    }


@pytest.fixture(scope="module")
def lms(directories: dict[str, Path]) -> dict[tuple[str, str], HookedLM]:
    """Every family, with the weights as trained and as `from_pretrained` processes them."""
    return {
        (family, mode): HookedLM(hooked_transformer(directory, processed=mode == "processed"))
        for family, directory in directories.items()
        for mode in ("raw", "processed")
    }


@pytest.fixture
def gpt2(lms: dict[tuple[str, str], HookedLM]) -> HookedLM:
    return lms["gpt2", "raw"]


def against_hugging_face(lm: HookedLM, directory: Path) -> Subject:
    plain = plain_model(directory)

    def reference(token_ids: Sequence[int]) -> ReferencePass:
        logits, residuals = plain_forward(plain, token_ids)
        return ReferencePass(logits=logits, residuals=tuple(residuals))

    return Subject(lm=lm, reference=reference)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("mode", ["raw", "processed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_conforms(
    law: Law, family: str, mode: str, lms: Any, directories: dict[str, Path]
) -> None:
    """Weights as trained against Hugging Face; processed ones against the model's own cache."""
    lm = lms[family, mode]
    is_raw = mode == "raw"
    subject = against_hugging_face(lm, directories[family]) if is_raw else Subject(lm=lm)
    assert law.inapplicable(subject) is None
    law.check(subject)


@pytest.fixture(scope="module", params=["bundled", "stories"])
def trained(request: pytest.FixtureRequest) -> Subject:
    """Trained weights: the bundled model, and one that others made."""
    directory = MODEL_DIR if request.param == "bundled" else STORIES_DIR
    if not directory.exists():
        pytest.skip(f"no {directory.relative_to(ROOT.parent)} beside the repository")
    lm = HookedLM(hooked_transformer(directory, n_ctx=context_of(directory)))
    return against_hugging_face(lm, directory)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_trained_weights_conform(law: Law, trained: Subject) -> None:
    if reason := law.inapplicable(trained):
        pytest.skip(reason)
    law.check(trained)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_bridge_of_this_version_conforms(law: Law, directories: dict[str, Path]) -> None:
    law.check(Subject(lm=HookedLM.load(directories["gpt2"])))


def residuals_of(lm: HookedLM, sequences: Sequence[TokenizedPrompt]) -> list[Tensor]:
    return [part.values for part in stream_token_residuals(lm, sequences)]


class TestTheSameWeightsInABridge:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_residuals_and_texts_are_the_same(
        self, family: str, lms: Any, directories: dict[str, Path]
    ) -> None:
        hooked, bridge = lms[family, "raw"], HookedLM.load(directories[family])
        sequences = random_sequences(hooked.d_vocab, (40, 3, 23))
        pairs = zip(residuals_of(hooked, sequences), residuals_of(bridge, sequences), strict=True)
        for found, expected in pairs:
            assert float((found - expected).abs().max()) < NOISE * float(expected.abs().max())
        texts = [lm.generate(sequences, SAMPLED, sample_keys="abc") for lm in (hooked, bridge)]
        assert [one.token_ids for one in texts[0]] == [one.token_ids for one in texts[1]]
        assert hooked.stop_ids == bridge.stop_ids

    def test_the_name_and_the_tokens_are_too(self, directories: dict[str, Path]) -> None:
        hooked, bridge = (
            HookedLM(hooked_transformer(directories["mistral"])),
            HookedLM.load(directories["mistral"]),
        )
        assert hooked.model_id == bridge.model_id
        assert (hooked.d_model, hooked.n_layers, hooked.d_vocab, hooked.n_ctx) == (
            *(bridge.d_model, bridge.n_layers, bridge.d_vocab),
            96,
        )
        same = ("dtype", "tokenizer", "chat_template", "weight_processing")
        one, other = hooked.identity(), bridge.identity()
        assert {name: one[name] for name in same} == {name: other[name] for name in same}
        assert one["weights"] != other["weights"]  # other names and shapes: not to be compared


class TestProcessedWeights:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_distribution_is_the_same_and_the_stream_is_where_it_can_be(
        self, family: str, lms: Any
    ) -> None:
        """RMSNorm leaves the mean of the stream in what is read, so nothing is centred there."""
        raw, processed = lms[family, "raw"], lms[family, "processed"]
        sequences = random_sequences(raw.d_vocab, (20, 7))
        logits = [lm.forward(sequences)[:, -7:].log_softmax(-1) for lm in (raw, processed)]
        torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
        moved = [
            float((a - b).abs().max() / a.abs().max())
            for a, b in zip(*(residuals_of(lm, sequences) for lm in (raw, processed)), strict=True)
        ]
        has_layer_norm = family in ("gpt2", "neox")
        assert all(m > 1e-2 for m in moved) if has_layer_norm else all(m < NOISE for m in moved)
        centred = "+center_writing_weights" * has_layer_norm
        assert raw.identity()["weight_processing"] == "none"
        assert processed.identity()["weight_processing"] == f"fold_ln{centred}+center_unembed"

    def test_processing_in_place_is_seen_after_wrapping(self, directories: dict[str, Path]) -> None:
        lm = HookedLM(hooked_transformer(directories["gpt2"]))
        before = lm.identity()
        lm.bridge.process_weights_()
        after = lm.identity()
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"weights", "config", "weight_processing"}

    @pytest.mark.parametrize(("own", "other"), [("raw", "processed"), ("processed", "raw")])
    def test_probes_of_one_are_refused_in_the_other(
        self, own: str, other: str, lms: Any, tmp_path: Path
    ) -> None:
        fitted_on, at_hand = lms["gpt2", own], lms["gpt2", other]
        probes = replace(Subject(lm=fitted_on).probes, provenance=fitted_on.identity())
        spec = SteeringSpec(method="sttp", layer=1, alpha=2.0)
        save_steering(tmp_path, spec, probes, provenance=fitted_on.identity())
        said = f"weight_processing {'none' if own == 'raw' else 'fold_ln'}.*got a model with"
        with pytest.raises(SteeringError, match=said), steer(at_hand, spec, probes):
            pytest.fail("must not be entered")
        with pytest.raises(SteeringError, match=said):
            load_steering(tmp_path).check_model(at_hand)
        load_steering(tmp_path).check_model(fitted_on)


class TestWrapping:
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("is_training", [False, True])
    def test_neither_padding_side_nor_training_mode_matter(
        self, directories: dict[str, Path], gpt2: HookedLM, side: str, is_training: bool
    ) -> None:
        transformer = hooked_transformer(directories["gpt2"]).train(is_training)
        transformer.tokenizer.padding_side = side
        sequences = random_sequences(gpt2.d_vocab, (9, 4))
        found = HookedLM(transformer).forward(sequences)
        assert torch.equal(found, gpt2.forward(sequences))
        assert transformer.tokenizer.padding_side == side

    def test_special_tokens_in_a_text_are_text(
        self, directories: dict[str, Path], gpt2: HookedLM
    ) -> None:
        """TransformerLens takes padding and end-of-text tokens at the end for padding by itself."""
        for ids in ((2, 2, 9, 0, 11, 2, 12), (0, 0, 9, 8), (9, 8, 2, 2)):
            sequence = TokenizedPrompt(token_ids=ids, segments=(int(Segment.USER),) * len(ids))
            found = gpt2.forward([sequence, *random_sequences(gpt2.d_vocab, (9,))])
            expected, _ = plain_forward(plain_model(directories["gpt2"]), ids)
            torch.testing.assert_close(found[0, -len(ids) :], expected, rtol=0, atol=2e-4)

    def test_the_callers_own_hooks_stay_and_fire(self, gpt2: HookedLM) -> None:
        fired: list[str] = []

        def own(_tensor: Tensor, hook: Any) -> None:
            fired.append(hook.name)

        names = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_pattern"]
        for name in names:
            gpt2.bridge.hook_dict[name].add_hook(own)
        try:
            with gpt2.hooks({0: lambda resid, _chunk: resid + 1}):
                gpt2.forward(random_sequences(gpt2.d_vocab, (5,)))
            assert fired == names
            assert attached_hooks(gpt2)[names[0]] == 2  # the caller's, and PyTorch's of it
        finally:
            gpt2.bridge.reset_hooks()

    def test_a_reset_inside_the_context_is_survived(self, gpt2: HookedLM) -> None:
        sequences = random_sequences(gpt2.d_vocab, (5,))
        before = gpt2.forward(sequences)
        with gpt2.hooks({0: lambda resid, _chunk: resid + 1}):
            gpt2.bridge.reset_hooks()
            assert torch.equal(gpt2.forward(sequences), before)
        assert torch.equal(gpt2.forward(sequences), before)

    def test_hooks_refuse_to_run_without_knowing_their_tokens(self, gpt2: HookedLM) -> None:
        with (
            pytest.raises(ModelError, match=r"outside HookedLM\.forward"),
            gpt2.hooks({0: lambda _resid, _chunk: None}),
        ):
            gpt2.bridge(torch.tensor([[1, 8, 9]]))

    def test_only_wanted_positions_are_unembedded(self, gpt2: HookedLM) -> None:
        widths: list[int] = []
        handle = gpt2.bridge.unembed.register_forward_hook(
            lambda _module, inputs, _output: widths.append(inputs[0].shape[1])
        )
        try:
            prompts = random_sequences(gpt2.d_vocab, (9, 4))
            gpt2.generate(prompts, GenerationSettings(max_new_tokens=3), sample_keys="ab")
            gpt2.forward(prompts)
            gpt2.forward(prompts, return_logits=False)
        finally:
            handle.remove()
        assert set(widths[:-2]) == {1} and widths[-2:] == [9, 1]

    def test_a_shorter_dtype_stays_within_its_rounding(
        self, directories: dict[str, Path], lms: Any
    ) -> None:
        """bfloat16 keeps 8 bits; a dozen roundings a block. Cached as whole, and edited in it."""
        rounded = HookedLM(hooked_transformer(directories["llama"], dtype=torch.bfloat16))
        seen: list[torch.dtype] = []

        def edit(resid: Tensor, _chunk: TokenChunk) -> Tensor:
            seen.append(resid.dtype)
            return resid + 1

        sequences = random_sequences(rounded.d_vocab, (20, 7))
        for chunk in (None, 5):
            logits = []
            for lm in (lms["llama", "raw"], rounded):
                with lm.hooks({1: edit}):
                    logits.append(lm.forward(sequences, chunk=chunk)[:, -7:].float())
            error = float((logits[1] - logits[0]).abs().max() / logits[0].abs().max())
            assert error < 0.08
        assert rounded.dtype == torch.bfloat16 and set(seen) == {torch.float32, torch.bfloat16}

    def test_without_a_tokenizer_tokens_still_run(self, directories: dict[str, Path]) -> None:
        transformer = hooked_transformer(directories["mistral"])
        transformer.tokenizer = None
        lm = HookedLM(transformer)
        (made,) = lm.generate(
            random_sequences(lm.d_vocab, (5,)),
            GenerationSettings(max_new_tokens=3),
            sample_keys="a",
        )
        assert len(made.token_ids) == 3 and lm.stop_ids == frozenset()
        assert lm.identity()["tokenizer"] is None

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"attention_dir": "bidirectional"}, "a causal language model, got attention_dir 'bi"),
            ({"d_vocab_out": 3}, "puts out the tokens it takes, got d_vocab 48 and d_vocab_out 3"),
            (
                {"use_dynamic_ntk_rope": True, "train_seq_length": 32},
                r"beyond 32 positions makes a row's text depend on .*load it with n_ctx=32",
            ),
        ],
    )
    def test_what_would_be_wrong_is_refused(
        self, gpt2: HookedLM, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in changes.items():
            monkeypatch.setattr(gpt2.bridge.cfg, name, value)
        with pytest.raises(ModelError, match=said):
            HookedLM(gpt2.bridge)

    def test_it_is_told_from_a_bridge(self, gpt2: HookedLM, directories: dict[str, Path]) -> None:
        assert is_hooked_transformer(gpt2.bridge)
        assert not is_hooked_transformer(HookedLM.load(directories["gpt2"]).bridge)
        with pytest.raises(ModelError, match="reference is of a TransformerBridge, got Hooked"):
            HookedLM(gpt2.bridge, reference=True)
        assert not gpt2.takes_positions
        with pytest.raises(ModelError, match="takes no position ids"):
            gpt2.forward(random_sequences(gpt2.d_vocab, (5,)), first_positions=[3])


class TestTheBundledModel:
    """From scenarios to a steered text, beside the same through a bridge."""

    @pytest.fixture(scope="class")
    @staticmethod
    def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Study]:
        folder = tmp_path_factory.mktemp("bundled")
        file = folder / "scenarios.jsonl"
        known = load_scenarios(scenarios_path("honesty"))
        chosen = [
            one
            for split in ("train", "test")
            for one in [s for s in known if s.split == split][:10]
        ]
        save_scenarios(file, chosen)
        n_ctx = context_of(MODEL_DIR)
        lms = (
            HookedLM(hooked_transformer(MODEL_DIR, n_ctx=n_ctx)),
            HookedLM.load(MODEL_DIR),
        )
        made = []
        for name, lm in zip(("hooked", "bridge"), lms, strict=True):
            sources = Sources(model=str(MODEL_DIR), scenarios=file)
            sampling = SamplingConfig(max_new_tokens=24, seed=42)
            study = start_study(folder / name, lm, sources, sampling=sampling)
            fit(study, FitConfig(responses_per_scenario=2))
            made.append(study)
        return made[0], made[1]

    def test_probes_are_the_bridges(self, studies: tuple[Study, Study]) -> None:
        hooked, bridge = (ProbeSet.load(study.run.path) for study in studies)
        cosines = (hooked.v_hat * bridge.v_hat).sum(dim=-1)
        assert float(cosines.min()) > 0.9999
        for one, other in zip(hooked.probes, bridge.probes, strict=True):
            assert one.boundary == pytest.approx(other.boundary, abs=1e-2 * other.sigma_pos)
            assert one.crossfit.auroc == pytest.approx(other.crossfit.auroc, abs=0.02)
        assert max(probe.crossfit.auroc for probe in hooked.probes) > 0.9

    def test_steered_texts_are_the_bridges(self, studies: tuple[Study, Study]) -> None:
        probes = ProbeSet.load(studies[1].run.path)
        probes = replace(probes, provenance={})  # the same stream, under other hashes
        asked = [one.prompt("malicious") for one in studies[0].split("test")]
        keys, texts = [str(row) for row in range(len(asked))], {}
        for alpha in (None, 6.0):
            for study in studies:
                lm, prompts = study.lm, [study.lm.tokenize(one) for one in asked]
                spec = SteeringSpec(method="sttp", layer=3, alpha=alpha or 0.0)
                if alpha is None:
                    made = lm.generate(prompts, study.settings, sample_keys=keys)
                else:
                    with steer(lm, spec, probes):
                        made = lm.generate(prompts, study.settings, sample_keys=keys)
                texts.setdefault(alpha, []).append([one.text for one in made])
        for hooked, bridge in texts.values():
            same = sum(a == b for a, b in zip(hooked, bridge, strict=True))
            assert same >= len(asked) - 1  # rounding may turn one draw
        changed = sum(a != b for a, b in zip(texts[None][0], texts[6.0][0], strict=True))
        assert changed > len(asked) // 2  # control: steering did something

    def test_a_run_goes_on_with_its_own_weights_alone(self, studies: tuple[Study, Study]) -> None:
        run, lm = studies[0].run, studies[0].lm
        assert reopen_study(run.path, lm=lm).run.manifest["pins"]["weight_processing"] == "none"
        processed = HookedLM(
            hooked_transformer(MODEL_DIR, processed=True, n_ctx=context_of(MODEL_DIR))
        )
        with pytest.raises(RunError, match=r"made with weight_processing none, got .* fold_ln"):
            reopen_study(run.path, lm=processed)
        with pytest.raises(RunError, match="weights is"):
            reopen_study(run.path, lm=studies[1].lm)
