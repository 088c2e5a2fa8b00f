"""Saved interventions: what is loaded steers bit for bit as what was saved, or is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import save_tiny
from interp_steer.errors import ProbeError, RunError, SteeringError
from interp_steer.model import HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.scopes import Scope
from interp_steer.specs import SteeringSpec, resolve
from interp_steer.steering import steer
from interp_steer.steering_files import (
    JSON_NAME,
    TENSORS_NAME,
    load_steering,
    loading_code,
    run_provenance,
    save_steering,
)
from reference import random_sequences
from steering_cases import make_probe, make_probes, probe_set
from study_cases import tiny_study

PROVENANCE = {"model": "some/model", "weights": "abc", "versions": {"torch": "2.13.0"}}
SPECS = {
    "swfc": {"method": "swfc", "layer": 1, "alpha": math.pi},
    "swfc reversed": {"method": "swfc", "layer": (2, 0), "alpha": 2, "direction": "reversed"},
    "sttp": {"method": "sttp", "layer": 0, "alpha": -1 / 3, "scope": "first:3+last_prompt"},
    "sttp sigma": {"method": "sttp", "layer": (0, 2), "alpha": 6, "threshold": ("sigma", -0.1)},
    "sttp value reversed": {
        "method": "sttp",
        "layer": 2,
        "alpha": 1.5,
        "threshold": ("value", 1e-3),
        "direction": "reversed",
        "scope": Scope(kind="response", include_last_prompt=True),
    },
    "stmp": {"method": "stmp", "layer": 1, "alpha": 1.5, "cap_sigmas": 3.3},
    "stmp uncapped reversed": {
        "method": "stmp",
        "layer": (0, 1, 2),
        "alpha": 0.5,
        "cap_sigmas": None,
        "direction": "reversed",
    },
}


def probes_of(lm: HookedLM) -> ProbeSet:
    """Four probes, so that the file must choose; one with an undefined readability."""
    found = make_probes(7, layers=(0, 1, 2, 5), d_model=lm.d_model).probes
    nan = type(found[0].crossfit)(cohens_d=math.nan, accuracy=0.5, auroc=math.nan)
    numbers = {"boundary": 0.1 + 0.2, "crossfit": nan}
    probes = (make_probe(7, layer=0, d_model=lm.d_model, **numbers), *found[1:])
    return ProbeSet(probes=probes, conventions={"method": "logistic"}, provenance={})


def residuals(lm: HookedLM, spec: SteeringSpec, probes: ProbeSet) -> list[torch.Tensor]:
    """Steered resid_post of every layer, teacher-forced."""
    seen: list[torch.Tensor] = []
    prompts = random_sequences(lm.d_vocab, (9, 4))
    sequences = [prompt.with_response([8, 9, 10, 11]) for prompt in prompts]
    readers = {layer: lambda resid, _: seen.append(resid.clone()) for layer in range(lm.n_layers)}
    with steer(lm, spec, probes), lm.hooks(readers):
        lm.forward(sequences, return_logits=False)
    return seen


@pytest.mark.parametrize("name", SPECS)
def test_what_is_loaded_steers_bit_for_bit_alike(
    tiny_lm: HookedLM, tmp_path: Path, name: str
) -> None:
    spec, probes = SteeringSpec(**SPECS[name]), probes_of(tiny_lm)
    save_steering(tmp_path, spec, probes, provenance=PROVENANCE)
    saved = load_steering(tmp_path)
    before, after = (
        residuals(tiny_lm, *pair) for pair in ((spec, probes), (saved.spec, saved.probes))
    )
    assert len(before) == len(after) == tiny_lm.n_layers
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    nil = SteeringSpec(method="swfc", layer=0, alpha=0)  # control: the steering does something
    assert not torch.equal(before[-1], residuals(tiny_lm, nil, probes)[-1])
    assert saved.probes.layers == spec.layers
    assert saved.provenance == PROVENANCE
    assert saved.probes.conventions == {"method": "logistic"}
    for kept, own in zip(saved.probes.probes, (probes.probe(n) for n in spec.layers), strict=True):
        for field in type(own).__slots__:
            if field != "v_hat":  # NaN has a repr of its own but equals nothing
                assert repr(getattr(kept, field)) == repr(getattr(own, field)), field


def test_bfloat16_residuals_are_alike_too(tiny_lm_bf16: HookedLM, tmp_path: Path) -> None:
    spec, probes = SteeringSpec(**SPECS["stmp"]), probes_of(tiny_lm_bf16)
    save_steering(tmp_path, spec, probes, provenance=PROVENANCE)
    saved = load_steering(tmp_path)
    pairs = zip(
        residuals(tiny_lm_bf16, spec, probes),
        residuals(tiny_lm_bf16, saved.spec, saved.probes),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_json_says_what_is_done(tmp_path: Path) -> None:
    """Enough to apply it by hand; the numbers are those of method.md."""
    probe = make_probe(3, layer=4)
    spec = SteeringSpec(
        method="stmp", layer=4, alpha=2, scope="response", threshold=("sigma", -1), cap_sigmas=10
    )
    paths = save_steering(tmp_path, spec, probe_set((probe,)), provenance=PROVENANCE)
    assert sorted(p.name for p in paths) == sorted(p.name for p in tmp_path.iterdir())
    record = json.loads((tmp_path / JSON_NAME).read_text(encoding="utf-8"))
    (layer,) = record["layers"]
    assert record["format_version"] == 2
    expected = {"method": "stmp", "layer": 4, "alpha": 2, "scope": "response"}
    expected |= {"direction": "aligned", "threshold": ["sigma", -1], "cap_sigmas": 10}
    assert {name: record[name] for name in expected} == expected
    assert (record["site"], layer["hook_point"]) == ("resid_post", "blocks.4.hook_resid_post")
    assert "zero-based" in record["conventions"]["layer"]
    assert layer["in_force"] == {
        "shift": None,
        "threshold": probe.mu_pos - probe.sigma_pos,
        "target": None,
        "cap": probe.mu_pos + 10 * probe.sigma_pos,
    }
    assert (layer["boundary"], layer["mu_neg"]) == (probe.boundary, probe.mu_neg)
    assert record["provenance"] == PROVENANCE
    tensors = load_file(tmp_path / TENSORS_NAME)
    assert torch.equal(tensors["v_hat"], probe.v_hat[None])
    assert tensors["layers"].tolist() == [4]


@pytest.mark.parametrize("direction", ["aligned", "reversed"])
@pytest.mark.parametrize("method", ["swfc", "sttp", "stmp"])
def test_the_formula_of_the_json_is_what_the_hook_does(
    tmp_path: Path, method: str, direction: str
) -> None:
    """The operation, read as arithmetic on the numbers in force, against `LayerSteering.law`."""
    probe = make_probe(5)
    spec = SteeringSpec(method=method, layer=0, alpha=1.5, direction=direction, cap_sigmas=3)
    save_steering(tmp_path, spec, probe_set((probe,)), provenance=PROVENANCE)
    record = json.loads((tmp_path / JSON_NAME).read_text(encoding="utf-8"))
    formula, _, where = record["operation"].removeprefix("h' = ").rpartition(", ")
    condition = where.partition(" with ")[2] or "True"
    steering = resolve(spec, probe)
    fired = set()
    for rho in torch.linspace(-9, 9, 73).tolist():
        numbers = {**record["layers"][0]["in_force"], "rho": rho}
        numbers |= {"alpha": record["alpha"], "h": rho, "v_hat": 1.0, "min": min, "max": max}
        acts = eval(condition, {}, numbers)
        fired.add(acts)
        after = eval(formula, {}, numbers) if acts else rho
        law, signed = steering.law, steering.sign * rho
        wanted = law.offset + law.gain * (law.pivot - signed)
        moved = min(wanted, law.cap - signed) if signed < law.gate else 0.0
        assert after == pytest.approx(rho + steering.sign * moved, abs=1e-9)
    assert fired == ({True} if method == "swfc" else {True, False})


def test_another_model_is_refused_by_name(
    tiny_lm: HookedLM, tiny_lm_bf16: HookedLM, tmp_path: Path, tmp_path_factory: Any
) -> None:
    spec, probes = SteeringSpec(**SPECS["sttp"]), probes_of(tiny_lm)
    save_steering(tmp_path, spec, probes, provenance=tiny_lm.identity())
    saved = load_steering(tmp_path)
    saved.check_model(tiny_lm)
    other = HookedLM.load(save_tiny(tmp_path_factory.mktemp("other") / "other", seed=1))
    with pytest.raises(
        SteeringError, match=r"for the model 'tiny-mistral' .*got 'other' .*load that"
    ):
        saved.check_model(other)
    with pytest.raises(SteeringError, match=r"bfloat16\); load it with dtype=torch\.float32"):
        saved.check_model(tiny_lm_bf16)


def test_what_should_not_be_saved_is_refused(tiny_lm: HookedLM, tmp_path: Path) -> None:
    probes = probes_of(tiny_lm)
    control = SteeringSpec(
        method="sttp", layer=1, alpha=1, edit_direction=probes.probe(0).v_hat.clone()
    )
    plain = SteeringSpec(method="sttp", layer=1, alpha=1)
    with pytest.raises(SteeringError, match=r"is a control: .* without edit_direction"):
        save_steering(tmp_path, control, probes, provenance=PROVENANCE)
    with pytest.raises(SteeringError, match=r"names the model, missing: weights; give run_prov"):
        save_steering(tmp_path, plain, probes, provenance={"model": "x"})
    with pytest.raises(ProbeError, match="no probe for layer 4"):
        save_steering(
            tmp_path,
            SteeringSpec(method="swfc", layer=4, alpha=1),
            probes,
            provenance=PROVENANCE,
        )
    with pytest.raises(RunError, match="standard JSON"):
        save_steering(tmp_path, plain, probes, provenance={**PROVENANCE, "seconds": math.nan})
    with pytest.raises(SteeringError, match=r"no file .*steering.*; save the steering again"):
        load_steering(tmp_path)


def _set(*path: Any, to: Any) -> Callable[[dict], None]:
    def change(record: dict) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("format", to="gguf"), r"format 'interp-steer steering', got 'gguf'; give the folder"),
        (
            _set("format_version", to=3),
            r"version 1 to 2, got 3; read it with the interp-steer that",
        ),
        (_set("alpha", to=math.nan), r"finite numbers, got others at alpha"),
        (_set("layers", 1, "mu_pos", to=math.inf), r"got others at layers\.1\.mu_pos"),
        (
            _set("alpha", to=7),
            r"expected in_force .* at layer 0, .* got .*make another SteeringSpec",
        ),
        (
            _set("layers", 0, "boundary", to=0.0),
            r"expected in_force .*'threshold': 0\.0, .* at layer 0",
        ),
        (
            _set("layers", 1, "in_force", "cap", to=1.0),
            r"expected in_force .*'cap': None\} at layer 2",
        ),
        (_set("layer", to=[0, 1]), r"numbers for the layers \[0, 1\], got \[0, 2\]"),
        (_set("layers", 0, "layer", to=1), r"do not belong together"),
        (_set("v_hat_sha256", to="0"), r"do not belong together: .*copy both files of one save"),
        (_set("method", to="lobotomy"), r"expected method one of .* got 'lobotomy'"),
        (_set("layers", 0, "converged", to=None), r"expected converged False at layer 0.*got None"),
        (
            _set("layers", 0, "hook_point", to="x"),
            r"expected hook_point blocks\.0\.hook_resid_post",
        ),
        (_set("layers", 1, "in_sample", "auroc", to="x"), r"not as it was written"),
        (_set("alpha", to=10**400), r"not as it was written"),
        (_set("operation", to="h' = 0"), r"expected operation h' = h \+ "),
        (_set("threshold", to=[]), r"not as it was written"),
        (_set("scope", to=3), r"not as it was written"),
        (_set("provenance", to={}), r"missing: model, weights"),
        (lambda record: record.pop("layers"), r"not as it was written \(KeyError\('layers'\)\)"),
        (lambda record: record["layers"].clear(), r"do not belong together"),
    ],
)
def test_a_changed_json_is_refused(
    tiny_lm: HookedLM, tmp_path: Path, change: Callable[[dict], None], said: str
) -> None:
    spec = SteeringSpec(method="sttp", layer=(0, 2), alpha=6, threshold="boundary")
    save_steering(tmp_path, spec, probes_of(tiny_lm), provenance=PROVENANCE)
    path = tmp_path / JSON_NAME
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(SteeringError, match=said) as refusal:
        load_steering(tmp_path)
    assert str(path) in str(refusal.value)
    assert "save the steering again" in str(refusal.value)


def test_a_changed_strength_of_swfc_is_refused(tmp_path: Path) -> None:
    """It has no threshold or target that would show it: the shift in force does."""
    spec = SteeringSpec(method="swfc", layer=0, alpha=2)
    save_steering(tmp_path, spec, make_probes(1, layers=(0,)), provenance=PROVENANCE)
    path = tmp_path / JSON_NAME
    text = path.read_text(encoding="utf-8")
    for old, new in (('"alpha": 2', '"alpha": 3'), ('"delta_mu": 2.1', '"delta_mu": 9')):
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(SteeringError, match=r"'shift': .* got .*'shift': 4\.2"):
            load_steering(tmp_path)


def test_changed_or_damaged_vectors_are_refused(tiny_lm: HookedLM, tmp_path: Path) -> None:
    spec = SteeringSpec(method="sttp", layer=(0, 2), alpha=6)
    save_steering(tmp_path, spec, probes_of(tiny_lm), provenance=PROVENANCE)
    path = tmp_path / TENSORS_NAME
    whole = path.read_bytes()
    tensors = load_file(path)
    for broken in (tensors["v_hat"] * 1.0000001, -tensors["v_hat"], tensors["v_hat"].double()):
        save_file({**tensors, "v_hat": broken}, path)
        with pytest.raises(SteeringError, match="do not belong together"):
            load_steering(tmp_path)
    path.write_bytes(whole[:-8])
    with pytest.raises(SteeringError, match=r"steering\.safetensors is damaged or cut short"):
        load_steering(tmp_path)
    path.unlink()
    with pytest.raises(SteeringError, match=r"there is no file .*steering\.safetensors"):
        load_steering(tmp_path)
    path.write_bytes(whole)
    (tmp_path / JSON_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(SteeringError, match=r"steering\.json is damaged or cut short"):
        load_steering(tmp_path)
    (tmp_path / JSON_NAME).write_text("[1]", encoding="utf-8")
    with pytest.raises(SteeringError, match="expected a steering record"):
        load_steering(tmp_path)


def test_vectors_that_are_no_unit_vectors_are_refused(tmp_path: Path) -> None:
    """Such a pair can only be made by hand or by another program: hash and numbers agree."""
    spec = SteeringSpec(method="swfc", layer=0, alpha=1)
    for factor in (2.0, math.nan):
        probe = make_probe(1)
        scaled = make_probe(1, v_hat=probe.v_hat * factor)
        save_steering(tmp_path, spec, probe_set((scaled,)), provenance=PROVENANCE)
        with pytest.raises(SteeringError, match="expected float32 unit vectors"):
            load_steering(tmp_path)


def test_a_save_replaces_the_one_before(tiny_lm: HookedLM, tmp_path: Path) -> None:
    for alpha in (1, 2):
        spec = SteeringSpec(method="swfc", layer=alpha, alpha=alpha)
        save_steering(tmp_path / "new" / "folder", spec, probes_of(tiny_lm), provenance=PROVENANCE)
    saved = load_steering(tmp_path / "new" / "folder")
    assert (saved.spec.alpha, saved.spec.layer) == (2, 2)


def test_the_code_loads_and_steers(
    tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run as it stands, for a run's own provenance; its text is that of the spec saved."""
    study = tiny_study(tmp_path, tiny_lm, tiny_dir)
    probes = ProbeSet.load(study.run.path)
    spec = SteeringSpec(method="swfc", layer=1, alpha=3)
    folder = tmp_path / "it's here"
    provenance = run_provenance(study.run.manifest)
    assert {"model", "weights", "tokenizer", "chat_template", "scenarios", "versions"} <= set(
        provenance
    )
    save_steering(folder, spec, probes, provenance=provenance)
    code = loading_code(folder, model=str(tiny_dir))
    assert "HookedLM.load('tiny-mistral')" in loading_code(folder)
    assert "load_steering('elsewhere')" in loading_code(folder, shown_as="elsewhere")
    names: dict[str, Any] = {}
    capsys.readouterr()
    exec(code, names)
    with steer(tiny_lm, spec, probes):
        (made,) = tiny_lm.generate(
            [tiny_lm.tokenize(names["Prompt"].chat("Who are you?"))],
            names["GenerationSettings"](),
            sample_keys=["1"],
        )
    assert names["made"].token_ids == made.token_ids
    assert capsys.readouterr().out == made.text + "\n"
    half = {**provenance, "dtype": "bfloat16"}
    save_steering(folder, spec, probes, provenance=half)
    assert loading_code(folder).startswith("import torch\n")
    assert "dtype=torch.bfloat16)" in loading_code(folder)
