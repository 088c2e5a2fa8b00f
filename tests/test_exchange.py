"""Other people's formats: what is written steers as before when it is read back, or is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from exchange_cases import (
    ALWAYS,
    CARRIED,
    PAIRS,
    PROVENANCE,
    SPECS,
    add,
    cap,
    clamp,
    file_for,
    outgoing,
    payload,
    probes_for,
    residuals,
    token_ids,
)
from interp_steer.errors import SteeringError
from interp_steer.exchange.carried import ModelFacts, Outgoing
from interp_steer.exchange.choices import ReadOptions, WriteOptions
from interp_steer.exchange.formats import (
    FORMATS,
    export_steering,
    import_steering,
    recognised,
)
from interp_steer.exchange.torch_files import read_torch, write_torch
from interp_steer.layer_hooks import LayerHook
from interp_steer.model import HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan
from interp_steer.steering_files import load_steering
from planted import Planted, makes_folder
from reference import plain_forward
from steering_cases import D_MODEL, chunk_of, make_probe, normals, probe_set

EXACT = {"steering", "lm-eval", "vllm", "assistant-axis"}
"""Formats whose round trip changes no bit of a float32 model; the others hold the product shift *
v_hat, which is divided by its norm again (two units in the last place)."""


def scale(values: list[torch.Tensor]) -> float:
    return max(float(v.abs().max()) for v in values)


@pytest.fixture(scope="module")
def plain(tiny_dir: Path) -> PreTrainedModel:
    """The tiny model's weights without this library."""
    return AutoModelForCausalLM.from_pretrained(tiny_dir).eval()


@pytest.mark.parametrize("form", CARRIED)
def test_what_is_imported_steers_the_bundled_model_alike(
    organism_lm: HookedLM, tmp_path: Path, form: str
) -> None:
    check_round_trip(organism_lm, tmp_path, form, CARRIED[form][0])


@pytest.mark.slow
@pytest.mark.parametrize(("form", "name"), PAIRS)
def test_everything_steers_the_bundled_model_alike(
    organism_lm: HookedLM, tmp_path: Path, form: str, name: str
) -> None:
    check_round_trip(organism_lm, tmp_path, form, name)


def check_round_trip(lm: HookedLM, folder: Path, form: str, name: str) -> None:
    """Out, in, and through the model: bit for bit, or within the rounding of one division."""
    sent = outgoing(lm, name)
    path = file_for(folder, form)
    export_steering(path, form, sent)
    if form == "steering":
        got = load_steering(path)
    else:
        got = import_steering(path, form, provenance=PROVENANCE).save(folder / "own")
    before = residuals(lm, sent.spec, sent.probes)
    after = residuals(lm, got.spec, got.probes)
    assert not torch.equal(before[-1], residuals(lm, None, None)[-1])  # control: it does something
    if form in EXACT:
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    else:  # measured 2e-6 of the largest after eight layers; a wrong layer gives more than 1e-2
        difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
        assert difference <= 2e-5 * scale(before)


@pytest.mark.parametrize(("form", "name"), [pair for pair in PAIRS if pair[0] != "steering"])
def test_the_tool_that_reads_a_file_does_the_same(
    tiny_lm: HookedLM, plain: PreTrainedModel, tmp_path: Path, form: str, name: str
) -> None:
    """The file's numbers under the tool's own arithmetic, on plain Hugging Face modules."""
    sent = outgoing(tiny_lm, name)
    path = file_for(tmp_path, form)
    export_steering(path, form, sent)
    before = residuals(tiny_lm, sent.spec, sent.probes)
    _, after = plain_forward(plain, token_ids(tiny_lm), _edits(form, path))
    difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    assert difference <= 1e-4 * scale(before)


def _edits(form: str, path: Path) -> dict[int, Any]:
    """By block whose output is edited, what the tool does with the file."""
    if form == "gguf":
        import gguf

        reader = gguf.GGUFReader(path)
        named = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}
        return {int(name.split(".")[1]): add(vector) for name, vector in named.items()}
    if form == "svec":  # added to the input of block L: to what left block L - 1
        record = json.loads(path.read_text(encoding="utf-8"))
        return {int(k) - 1: add(torch.tensor(v)) for k, v in record["directions"].items()}
    if form == "vllm":
        record = json.loads(path.read_text(encoding="utf-8"))
        return {int(layer): payload(entry) for layer, entry in record["payloads"].items()}
    content = torch.load(path, weights_only=True)
    if form == "assistant-axis":
        (experiment,) = content["experiments"]
        found = [(content["vectors"][i["vector"]], i["cap"]) for i in experiment["interventions"]]
        return {entry["layer"]: cap(entry["vector"], tau) for entry, tau in found}
    edits = {}
    for hookpoint, entry in content.items():
        vector, value = entry["steering_vector"], entry["steering_coefficient"]
        edit = add(vector * value) if entry["action"] == "add" else clamp(vector, value)
        edits[int(hookpoint.removeprefix("layers."))] = edit
    return edits


@pytest.mark.parametrize("form", [form for form in CARRIED if form != "steering"])
@pytest.mark.parametrize("name", SPECS)
def test_what_a_format_cannot_carry_is_refused_with_those_that_can(
    tiny_lm: HookedLM, tmp_path: Path, form: str, name: str
) -> None:
    sent = outgoing(tiny_lm, name)
    path = file_for(tmp_path, form)
    if name in CARRIED[form] or (form, name) == ("svec", "swfc"):
        return
    with pytest.raises(
        SteeringError, match=rf"{form} \(.*It cannot carry {sent.spec.method}"
    ) as no:
        export_steering(path, form, sent)
    assert not path.exists()
    offered = str(no.value).rpartition("use --format ")[2].split(" or ")
    able = [
        other for other in CARRIED if name in CARRIED[other] or (other, name) == ("svec", "swfc")
    ]
    assert offered == able


@pytest.mark.parametrize("form", [form for form in CARRIED if form != "steering"])
def test_a_scope_is_refused_by_a_format_that_steers_every_token(
    tiny_lm: HookedLM, tmp_path: Path, form: str
) -> None:
    sent = outgoing(tiny_lm, CARRIED[form][0], scope="response")
    with pytest.raises(
        SteeringError, match=r"cannot carry the scope 'response'; use --format steer"
    ):
        export_steering(file_for(tmp_path, form), form, sent)


def test_layers_that_a_tool_cannot_steer_are_refused(tiny_lm: HookedLM, tmp_path: Path) -> None:
    first, last = (outgoing(tiny_lm, "swfc", layer=layer) for layer in (0, 2))
    with pytest.raises(SteeringError, match=r"from 1 on, got layer 0: llama\.cpp refuses"):
        export_steering(tmp_path / "x.gguf", "gguf", first)
    with pytest.raises(SteeringError, match=r"before the last one \(2\), got layer 2"):
        export_steering(tmp_path / "x.svec", "svec", last)
    export_steering(tmp_path / "x.svec", "svec", first)
    with pytest.raises(SteeringError, match="ending with .pt and a hookpoint"):
        export_steering(tmp_path / "x.bin", "lm-eval", first)
    with pytest.raises(SteeringError, match="can only be read"):
        export_steering(tmp_path / "x", "aisteer360", first)
    control = make_control(tiny_lm)
    with pytest.raises(SteeringError, match="got a control"):
        outgoing(tiny_lm, "sttp", edit_direction=control)


def test_svec_for_aisteer360_is_at_the_output(
    tiny_lm: HookedLM, plain: PreTrainedModel, tmp_path: Path
) -> None:
    """Its CAA adds [1, d_model] to what leaves block L; the last block too."""
    sent, path = outgoing(tiny_lm, "swfc"), tmp_path / "x.svec"
    export_steering(path, "svec", sent, options=WriteOptions(svec_site="block_output"))
    record = json.loads(path.read_text(encoding="utf-8"))
    edits = {int(k): add(torch.tensor(v)[0]) for k, v in record["directions"].items()}
    assert set(edits) == {1, 2}
    before = residuals(tiny_lm, sent.spec, sent.probes)
    _, after = plain_forward(plain, token_ids(tiny_lm), edits)
    got = import_steering(path)
    for other in (after, residuals(tiny_lm, got.spec, got.probes)):
        difference = max(float((a - b).abs().max()) for a, b in zip(before, other, strict=True))
        assert difference <= 1e-4 * scale(before)


def make_control(lm: HookedLM) -> torch.Tensor:
    return probes_for(lm).probe(1).v_hat


def test_hookpoints_follow_the_architecture(tiny_lm: HookedLM, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    sent = outgoing(tiny_lm, "swfc")
    for model_type, template, names in (
        ("mistral", None, {"layers.1", "layers.2"}),
        ("gpt2", None, {"h.1", "h.2"}),
        ("opt", None, {"decoder.layers.1", "decoder.layers.2"}),
        ("gemma3", "language_model.layers.{layer}", {f"language_model.layers.{n}" for n in (1, 2)}),
    ):
        facts = ModelFacts(model_type=model_type)
        export_steering(
            path, "lm-eval", replace(sent, model=facts), options=WriteOptions(hookpoint=template)
        )
        assert set(read_torch(path)) == names
        assert import_steering(path).spec.layers == (1, 2)


class TestImports:
    """Files as other tools write them, made by hand."""

    vector = torch.tensor([3.0, 0.0, -4.0, 0.0])

    def test_svec_at_either_side_of_a_block(self, tmp_path: Path) -> None:
        """activation-steering adds to a block's input; AISteer360 after it, with an axis more."""
        path = tmp_path / "x.svec"
        record = {
            "model_type": "llama",
            "directions": {"2": self.vector.tolist(), "3": [0.0] * 4},
        }
        path.write_text(json.dumps(record), encoding="utf-8")
        got = import_steering(path)
        assert got.spec.layers == (1,)
        probe = got.probes.probe(1)
        assert (probe.delta_mu, probe.v_hat.tolist()) == (5.0, pytest.approx([0.6, 0, -0.8, 0]))
        assert "block input" in got.notes[0]
        assert "left out: [2]" in got.notes[1]
        assert got.provenance["imported"]["model_type"] == "llama"
        after = import_steering(path, options=ReadOptions(svec_site="block_output"))
        assert after.spec.layers == (2,)
        record["directions"] = {"2": [self.vector.tolist()]}
        path.write_text(json.dumps(record), encoding="utf-8")
        nested = import_steering(path)
        assert (nested.spec.layers, nested.probes.probe(2).delta_mu) == ((2,), 5.0)
        assert "block output" in nested.notes[0]
        path.write_text(json.dumps({"directions": {"0": [1.0]}}), encoding="utf-8")
        with pytest.raises(SteeringError, match="got block 0, whose input is the embedding"):
            import_steering(path)

    def test_probe_of_aisteer360(self, tmp_path: Path) -> None:
        probe = self.write_probe(tmp_path / "probe", location="layer_input", layer_ids=[2])
        got = import_steering(probe, options=ReadOptions(alpha=2.0))
        assert (got.spec.method, got.spec.alpha, got.spec.layers) == ("stmp", 2.0, (1,))
        assert got.spec.cap_sigmas is None
        stand_in = got.probes.probe(1)
        assert stand_in.boundary == pytest.approx(-1.5 / 5)
        h = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        positive = h @ self.vector + 1.5 >= 0
        assert torch.equal(stand_in.project(h) >= stand_in.boundary, positive)
        assert "says nothing of strength" in got.notes[0]
        self.write_probe(probe, location="layer_output", layer_ids=[2])
        assert import_steering(probe).spec.layers == (2,)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"polarity": "positives_low"}, "polarity positives_high, got 1 and 'positives_low'"),
            ({"format_version": 2}, "got 2 and"),
            ({"layer_ids": [1, 2]}, r"of one layer, got layers \[1, 2\]"),
            ({"layer_ids": [0], "location": "layer_input"}, r"input of block 0"),
            ({"location": "attention"}, "expected location"),
            ({"bias": "x"}, "finite number at bias, got 'x'"),
            ({"bias": float("nan")}, "finite number at bias"),
        ],
    )
    def test_a_probe_that_says_something_else(
        self, tmp_path: Path, changes: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(SteeringError, match=said):
            import_steering(self.write_probe(tmp_path, **changes))

    def write_probe(self, folder: Path, **changes: Any) -> Path:
        from safetensors.torch import save_file

        folder.mkdir(exist_ok=True)
        record = {
            "format_version": 1,
            "polarity": "positives_high",
            "model_type": "llama",
            "location": "layer_output",
            "pooling": "mean",
            "layer_ids": [2],
            "bias": 1.5,
            "meta": {},
        } | changes
        tensors = {f"weights.{layer}": self.vector.clone() for layer in record["layer_ids"]}
        save_file(tensors, folder / "probe.safetensors")
        (folder / "probe.json").write_text(json.dumps(record), encoding="utf-8")
        return folder

    def test_clamp_with_a_bias(self, tmp_path: Path) -> None:
        bias = torch.tensor([1.0, 2.0, 3.0, 4.0])
        entry = {
            "action": "clamp",
            "steering_vector": self.vector,
            "steering_coefficient": 2.0,
            "bias": bias,
        }
        write_torch(tmp_path / "x.pt", {"layers.3": entry})
        got = import_steering(tmp_path / "x.pt")
        probe = got.probes.probe(3)
        unit = self.vector / 5
        h = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
        # lm-eval: subtract the bias, set the component, add the bias
        wanted = clamp(self.vector, 2.0)(h - bias) + bias
        from interp_steer.interventions import edit, move, project
        from interp_steer.specs import resolve

        law = resolve(got.spec, probe).law
        shift = move(project(h, probe.v_hat), law).shift
        assert torch.allclose(edit(h, unit, shift), wanted, atol=1e-5)
        assert probe.boundary == ALWAYS

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ({"action": "add", "head_index": 1}, "got a head_index"),
            ({"action": "scale"}, "expected action add .* got 'scale'"),
            ({"action": "add", "bias": torch.ones(4)}, "expected action add"),
            ({"action": "add", "steering_coefficient": float("inf")}, "finite number"),
            ({"action": "add", "steering_vector": "x"}, "vector of numbers"),
            ({"action": "add", "steering_vector": torch.ones(2, 2)}, r"got shape \[2, 2\]"),
            ({"action": "clamp", "steering_vector": torch.zeros(4)}, "with a direction"),
        ],
    )
    def test_an_lm_eval_entry_that_cannot_be_had(
        self, tmp_path: Path, entry: dict[str, Any], said: str
    ) -> None:
        whole = {"steering_vector": self.vector, "steering_coefficient": 1.0} | entry
        write_torch(tmp_path / "x.pt", {"layers.3": whole})
        with pytest.raises(SteeringError, match=said):
            import_steering(tmp_path / "x.pt")
        write_torch(tmp_path / "y.pt", {"layers.3.mlp": whole})
        with pytest.raises(SteeringError, match=r"expected blocks .* got 'layers\.3\.mlp'"):
            import_steering(tmp_path / "y.pt")

    def test_a_negative_strength_turns_the_vector_round(self, tmp_path: Path) -> None:
        entry = {"action": "add", "steering_vector": self.vector, "steering_coefficient": -2.0}
        write_torch(tmp_path / "x.pt", {"layers.3": entry})
        bare = {"v_hat": (self.vector / 5).tolist(), "shift": -10.0, "direction": "reversed"}
        (tmp_path / "x.json").write_text(json.dumps(bare), encoding="utf-8")
        for name, layers in (("x.pt", ()), ("x.json", (3,))):
            got = import_steering(tmp_path / name, options=ReadOptions(layers=layers))
            probe = got.probes.probe(3)
            assert (probe.delta_mu, got.spec.direction) == (10.0, "aligned")
            assert torch.allclose(probe.delta_mu * probe.v_hat, -2 * self.vector)

    def test_experiments_are_chosen_by_id(self, tmp_path: Path) -> None:
        vectors = {
            "a": {"layer": 3, "vector": self.vector},
            "b": {"layer": 5, "vector": self.vector},
        }
        experiments = [
            {"id": "one", "interventions": [{"vector": "a", "cap": 2.5}, {"vector": "b"}]},
            {"id": "two", "interventions": [{"vector": n, "cap": 1.0} for n in ("a", "b", "a")]},
        ]
        path = tmp_path / "caps.pt"
        write_torch(path, {"vectors": vectors, "experiments": experiments})
        assert recognised(path) == "assistant-axis"
        with pytest.raises(SteeringError, match=r"id of an experiment \('one', 'two'\), got None"):
            import_steering(path)
        got = import_steering(path, options=ReadOptions(experiment="one"))
        assert (got.spec.layers, got.spec.direction) == ((3,), "reversed")
        assert got.notes == ("1 interventions without a cap left out",)
        with pytest.raises(
            SteeringError, match=r"one intervention a layer, got layers \[3, 3, 5\]"
        ):
            import_steering(path, options=ReadOptions(experiment="two"))

    def test_a_bare_payload_needs_its_layer(self, tmp_path: Path) -> None:
        unit = self.vector / 5
        bare = {"v_hat": unit, "threshold": 1.0, "coefficient": 2.0, "cap": 9.0, "direction": 1}
        write_torch(tmp_path / "p.pt", bare)
        with pytest.raises(SteeringError, match="give --layers L"):
            import_steering(tmp_path / "p.pt")
        got = import_steering(tmp_path / "p.pt", options=ReadOptions(layers=(26,)))
        assert (got.spec.method, got.spec.alpha, got.spec.layers) == ("stmp", 2.0, (26,))
        (tmp_path / "p.json").write_text(json.dumps({**bare, "v_hat": unit.tolist()}))
        assert import_steering(
            tmp_path / "p.json", options=ReadOptions(layers=(1,))
        ).spec.layers == (1,)
        for changes, said in (
            ({"direction": -1}, "cap with direction aligned alone"),
            ({"direction": "up"}, "expected direction aligned or reversed"),
            ({"cap": 0.5}, "cap at or above the threshold"),
            ({"coefficient": -1}, "not negative"),
            ({"v_hat": [3.0, 4.0]}, "expected a unit vector .* got norm 5"),
            ({"cap": None}, "finite number at the payload.cap"),
        ):
            path = tmp_path / "q.json"
            path.write_text(json.dumps({**bare, "v_hat": unit.tolist(), **changes}))
            with pytest.raises(SteeringError, match=said):
                import_steering(path, options=ReadOptions(layers=(1,)))

    def test_a_file_for_another_model_is_refused(self, tiny_lm: HookedLM, tmp_path: Path) -> None:
        path = tmp_path / "x.gguf"
        export_steering(path, "gguf", outgoing(tiny_lm, "swfc"))
        fits = ModelFacts(model_type="mistral", n_layers=3, d_model=tiny_lm.d_model)
        assert import_steering(path, model=fits).notes == ()
        with pytest.raises(SteeringError, match=r"width 8 like the model, got 32"):
            import_steering(path, model=ModelFacts(d_model=8))
        with pytest.raises(SteeringError, match=r"layers 0 to 1 of the model, got layer 2"):
            import_steering(path, model=ModelFacts(n_layers=2))
        told = import_steering(path, model=ModelFacts(model_type="llama"))
        assert told.notes == ("the file says model type 'mistral', the model is 'llama'",)
        with pytest.raises(SteeringError, match=r"layers of the file \(1, 2\), got 7"):
            import_steering(path, options=ReadOptions(layers=(7,)))
        assert import_steering(path, options=ReadOptions(layers=(2,))).spec.layers == (2,)

    def test_what_is_no_file_of_these_is_refused(self, tmp_path: Path) -> None:
        for name in ("x.gguf", "x.svec", "x.json", "x.bin"):
            with pytest.raises(SteeringError, match=rf"there is no .*{name} to import; check"):
                import_steering(tmp_path / name)
            (tmp_path / name).touch()
        with pytest.raises(SteeringError, match=r"expected a \.gguf, \.svec"):
            import_steering(tmp_path / "x.bin")
        with pytest.raises(SteeringError, match="expected a format .*got 'onnx'"):
            import_steering(tmp_path / "x.bin", "onnx")
        for name in ("x.gguf", "x.svec", "x.json"):
            with pytest.raises(SteeringError, match=r"cannot import .*x\."):
                import_steering(tmp_path / name)
        (tmp_path / "x.pt").write_bytes(b"not a zip")
        with pytest.raises(SteeringError, match="expected a torch file"):
            import_steering(tmp_path / "x.pt")


def test_an_import_says_that_nothing_was_measured(tiny_lm: HookedLM, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    export_steering(path, "gguf", outgoing(tiny_lm, "swfc"))
    saved = import_steering(path).save(tmp_path / "own")
    record = json.loads((tmp_path / "own" / "steering.json").read_text(encoding="utf-8"))
    assert record["statistics"] == "stand_in"
    assert record["layers"][0]["mu_neg"] is None
    assert record["provenance"]["weights"] is None
    assert record["provenance"]["imported"]["file"] == "x.gguf"
    with pytest.raises(SteeringError, match=r"imported from 'x\.gguf', which does not; import it"):
        saved.check_model(tiny_lm)
    known = import_steering(path, provenance=tiny_lm.identity()).save(tmp_path / "own")
    known.check_model(tiny_lm)
    stronger = SteeringSpec(method="swfc", layer=(1, 2), alpha=2.0)
    assert not torch.equal(
        residuals(tiny_lm, stronger, known.probes)[-1],
        residuals(tiny_lm, known.spec, known.probes)[-1],
    )


def test_code_in_a_torch_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"layers.1": Planted(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(SteeringError, match="without running code in it"):
        import_steering(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()
    assert makes_folder(tmp_path / "x.pt", tmp_path / "ran")  # the control: it is armed


def test_every_format_is_in_the_table_and_documented() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "exchange.md").read_text(
        encoding="utf-8"
    )
    table = page.partition("## What each format can carry")[2].partition("\n\nA format")[0]
    rows = [line.split("|")[1].split("`")[1] for line in table.splitlines() if line[:3] == "| `"]
    assert dict.fromkeys(rows[1:]) == dict.fromkeys(FORMATS)  # the first row is the head
    assert {name for name, form in FORMATS.items() if form.write} == set(CARRIED)
    assert {name for name, form in FORMATS.items() if form.read} == (set(FORMATS) - {"steering"})


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["swfc", "sttp", "stmp"]),
    direction=st.sampled_from(["aligned", "reversed"]),
    alpha=st.sampled_from([0.5, 1.0]) | st.floats(0.1, 6),
    sigmas=st.none() | st.sampled_from([0.5, 1.0]),
    cap_sigmas=st.none() | st.floats(2, 60),
    seed=st.integers(0, 999),
)
def test_any_intervention_comes_back_from_every_format_that_takes_it(
    tmp_path: Path,
    method: str,
    direction: str,
    alpha: float,
    sigmas: float | None,
    cap_sigmas: float | None,
    seed: int,
) -> None:
    """On tokens alone, no model: the hook of what is read does what that of what was sent did."""
    threshold = "boundary" if sigmas is None or method == "swfc" else ("sigma", sigmas)
    spec = SteeringSpec(
        method=method,
        layer=1,
        alpha=alpha,
        direction=direction,
        threshold=threshold,
        cap_sigmas=cap_sigmas,
    )
    probes = probe_set((make_probe(seed, layer=1),))
    sent = Outgoing(spec=spec, probes=probes, provenance=dict(PROVENANCE))
    h = 4 * normals(seed + 1, 1, 29, D_MODEL)
    wanted = hooked(spec, probes, h)
    assert not torch.equal(wanted, h)
    able = [name for name, form in FORMATS.items() if sent.operations() & form.carries]
    assert {"steering", "vllm"} <= set(able)
    for form in able:
        path = file_for(tmp_path, form)
        if form == "steering":
            continue
        export_steering(path, form, sent)
        got = import_steering(path, form)
        found = hooked(got.spec, got.probes, h)
        if form in EXACT:
            assert torch.equal(found, wanted), form
        else:
            assert torch.allclose(found, wanted, rtol=0, atol=1e-5), form


def hooked(spec: SteeringSpec, probes: ProbeSet, h: torch.Tensor) -> torch.Tensor:
    found = LayerHook(SteeringPlan.uniform(spec, probes).compiled[1])(h, chunk_of(1, h.shape[1]))
    assert found is not None
    return found


def test_names_in_a_file_are_shown_escaped(tmp_path: Path) -> None:
    """A terminal would obey what an error message passes on."""
    evil = "\x1b[31mred"
    entry = {"action": "scale", "steering_vector": torch.ones(2), "steering_coefficient": 1.0}
    write_torch(tmp_path / "a.pt", {f"{evil}.layers.1": entry})
    write_torch(tmp_path / "b.pt", {"vectors": {}, "experiments": [{"id": evil}, {"id": "x"}]})
    records = {"c.svec": {"directions": {evil: [1.0]}}, "d.json": {"format": evil}}
    records["e.json"] = {"format": "interp-steer vllm payloads", "format_version": 1}
    records["e.json"]["payloads"] = {evil: {}}
    for name, record in records.items():
        (tmp_path / name).write_text(json.dumps(record), encoding="utf-8")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(SteeringError) as refusal:
            import_steering(path)
        assert "\x1b" not in str(refusal.value)
        assert "red" in str(refusal.value)
