"""A plan against what it plans: parameters, cache bytes and rows of the real things, exactly."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import CONFIGS, random_model
from interp_steer.cli import main
from interp_steer.config import SweepConfig
from interp_steer.errors import ModelError
from interp_steer.model import HookedLM
from interp_steer.model_size import ModelSize
from interp_steer.organism import MODEL_DIR, scenarios_path
from interp_steer.planned_rows import count_rows, stand_in_scenarios
from interp_steer.planning import RATES, Rate, Workload, estimate_memory, generation_seconds
from interp_steer.presets import load_preset, preset_names, with_preset
from interp_steer.scenarios import Scenario, load_scenarios
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import sweep
from study_cases import SWEEP, WordJudge, scenarios, tiny_study

PUBLISHED = {
    "llama-3.3-70b-instruct": 70_553_706_496,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "gemma-3-1b-it": 999_885_952,
    "smollm2-135m-instruct": 134_515_008,
    "qwen3-0.6b": 596_049_920,
    "qwen3-32b": 32_762_123_264,
}
"""Parameters that the models' repositories state; of Qwen3-0.6B, whose files hold the tied
unembedding a second time, without that."""


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    model = random_model(name)
    size = ModelSize.of(CONFIGS[name]())
    assert size.n_parameters == sum(p.numel() for p in model.parameters())
    assert size.weight_bytes(4) == sum(p.numel() * p.element_size() for p in model.parameters())
    assert size.is_tied == (name in ("llama_tied", "gpt2", "gemma3"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_cache_bytes_are_those_of_the_real_cache(name: str, dtype: torch.dtype) -> None:
    """Shorter and longer than the sliding windows of 16."""
    model, size = random_model(name, dtype=dtype), ModelSize.of(CONFIGS[name]())
    for n_tokens in (9, 40):
        cache = cache_after(model, n_rows=3, n_tokens=n_tokens)
        planned = size.cache_bytes(n_rows=3, n_tokens=n_tokens, itemsize=dtype.itemsize)
        assert planned == sum(t.numel() * t.element_size() for t in states_of(cache))


def cache_after(model: Any, *, n_rows: int, n_tokens: int) -> Any:
    """The cache that this library generates on, after so many tokens."""
    from interp_steer.kv_cache import appending_cache

    cache = appending_cache(model.config)
    with torch.no_grad():
        model(torch.full((n_rows, n_tokens), 8), past_key_values=cache, use_cache=True)
    return cache


def states_of(cache: Any) -> list[torch.Tensor]:
    found = []
    for layer in cache.layers:
        if hasattr(layer, "conv_states"):
            found += [*layer.conv_states.values(), *layer.recurrent_states.values()]
        else:
            found += [layer.keys, layer.values]
    return found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"protocol": "two_fold", "extras": ("mean_difference", "defence", "guard")},
        {"finalists": 2, "control_draws": 1, "scopes": ("all", "first:2")},
    ],
)
@pytest.mark.slow
def test_rows_are_those_of_a_real_sweep(
    tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = dataclasses.replace(SWEEP, **change)
    study = tiny_study(tmp_path, tiny_lm, tiny_dir)
    sweep(study, config, judge=WordJudge())
    planned = count_rows(
        scenarios(), config, layers=range(tiny_lm.n_layers), responses_per_scenario=2
    )
    made = read_rows(study.run)
    assert made.num_rows == planned.sweep
    assert planned.training == 2 * 2 * sum(s.split == "train" for s in scenarios())
    methods = made["method"].to_pylist()
    controls, sides = made["control"].to_pylist(), made["side"].to_pylist()
    assert planned.baselines == sum(
        m == "none" and s in ("aligned", "malicious") for m, s in zip(methods, sides, strict=True)
    )
    assert planned.cells == len(config.layers or ()) * len(config.scopes) * 4
    assert any(c != "none" for c in controls)


def test_the_demos_own_sweep_has_the_rows_that_are_planned() -> None:
    """Of the bundled model's scenarios: counted by hand from the protocol."""
    given = load_scenarios(scenarios_path("honesty"))
    test = [s for s in given if s.split == "test"]
    config = SweepConfig(layers=(1, 2), scopes=("all",), control_scenarios=10, control_draws=3)
    planned = count_rows(given, config, layers=range(4))
    cells = 2 * (6 + 4 + 4)
    assert planned.cells == cells
    assert planned.baselines == 2 * len(test)
    assert planned.grid == cells * len(test)
    # Per method: two kinds of three draws, the mean difference, guards on two sides; and the
    # defence on every scenario, the neutral baseline on those that answer.
    assert planned.beside == 3 * 10 * (2 * 3 + 1 + 2) + len(test) + 10


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    preset = load_preset(name)
    size = ModelSize.of(preset.hf_config())
    assert size.n_parameters == PUBLISHED[name]
    assert set(preset.sweep["layers"]) <= set(range(size.n_layers))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "smollm2-135m-instruct" else [pytest.mark.slow])
        for name in preset_names()
    ],
)
def test_every_preset_makes_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--preset", name, "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"(preset {name})" in said
    assert "key-value cache" in said and "configurations" in said


def test_the_preset_that_cannot_be_counted_here_says_so() -> None:
    preset = load_preset("qwen3.6-27b")
    assert any("model card" in what for what in preset.unverified)
    size = ModelSize.of(preset.hf_config())
    assert size.n_recurrent_layers == 48
    assert 26.5e9 < size.n_parameters < 27.5e9


def test_a_plan_of_a_directory_reads_its_config_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text((MODEL_DIR / "config.json").read_text())
    options = ["--layers", "1", "2", "--batch-size", "8", "--max-new-tokens", "32"]
    assert main(["plan", "--model", str(tmp_path), *options, "--prompt-tokens", "40"]) == 0
    said = capsys.readouterr().out
    whole = HookedLM.load(MODEL_DIR)
    n = sum(p.numel() for p in whole.bridge.original_model.parameters())
    assert f"{n:,} parameters" in said
    assert "8 rows of up to 72 tokens" in said
    assert not list(tmp_path.glob("*.safetensors"))


def test_options_given_win_over_a_presets() -> None:
    given = ["fit", "--preset", "qwen3-0.6b", "--batch-size", "3", "--scenarios", "x", "--out", "y"]
    found = with_preset(given)
    assert "--preset" not in found
    assert found[found.index("--model") + 1] == "Qwen/Qwen3-0.6B"
    assert found.count("--batch-size") == 1
    assert found[found.index("--batch-size") + 1] == "3"
    swept = with_preset(["sweep", "RUN", "--preset", "llama-3.3-70b-instruct", "--alphas", "1"])
    assert "--swfc-alphas" not in swept
    assert swept[swept.index("--device-map") + 1] == "auto"
    on_one = with_preset(["sweep", "RUN", "--preset", "llama-3.3-70b-instruct", "--device", "cuda"])
    assert "--device-map" not in on_one
    assert with_preset(["trace", "--preset", "x"]) == ["trace", "--preset", "x"]
    with pytest.raises(ModelError, match="there is no preset 'gpt-9'; available: gemma-3-1b-it"):
        with_preset(["fit", "--preset", "gpt-9"])


def test_fit_parses_what_a_preset_gives(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to the model, which is not there: every option was understood."""
    options = ["--scenarios", "honesty", "--out", "unused", "--device", "cpu", "--dtype", "float32"]
    assert main(["fit", "--preset", "qwen3-32b", *options]) == 1
    assert "HF_HUB_OFFLINE is set and it is not in the cache" in capsys.readouterr().err


def test_more_work_takes_more_time_and_memory() -> None:
    size, work = ModelSize.of(load_preset("qwen3-0.6b").hf_config()), Workload(batch_size=8)
    twice = dataclasses.replace(work, batch_size=16)
    assert (
        estimate_memory(size, twice, n_training=0).cache
        == 2 * estimate_memory(size, work, n_training=0).cache
    )
    one, two = (generation_seconds(size, work, RATES["H100"], n_rows=n) for n in (80, 160))
    assert two == pytest.approx(2 * one)
    assert generation_seconds(size, twice, RATES["H100"], n_rows=80) < one


def test_time_is_what_its_assumptions_say() -> None:
    rate = Rate(name="x", tflops=100, bandwidth=1, memory=None, compute_share=0.5)
    assert rate.seconds(flops=5e13, read=0, n_layers=0) == pytest.approx(1.0)
    assert rate.seconds(flops=0, read=1e12, n_layers=10) == pytest.approx(2.0 + 0.004)


def test_arithmetic_of_one_token_is_two_a_weight() -> None:
    """Counted by PyTorch on the real model, attention aside (one token attends to itself)."""
    from torch.utils.flop_counter import FlopCounterMode

    model, size = random_model("llama"), ModelSize.of(CONFIGS["llama"]())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.tensor([[8]]), use_cache=False)
    assert size.flops(n_tokens=1, context=1) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_plan_needs_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 1
    assert "either --preset NAME or --model DIRECTORY; the presets are" in capsys.readouterr().err


def test_stand_ins_are_scenarios_of_one_trait() -> None:
    made: tuple[Scenario, ...] = stand_in_scenarios(2, 3)
    assert [s.split for s in made] == ["train"] * 2 + ["test"] * 3
    assert len({s.id for s in made}) == 5


def test_the_page_lists_every_preset_with_its_layers() -> None:
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    for name in preset_names():
        preset = load_preset(name)
        layers, n = preset.sweep["layers"], preset.config["num_hidden_layers"]
        steps = "" if layers[1] - layers[0] == 1 else ", every 2nd"
        line = f"| `{name}` | {preset.model} | {layers[0]}-{layers[-1]} of {n}{steps} |"
        assert line in page, name
