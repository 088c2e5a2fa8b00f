"""`interp-steer plan`: memory, time, rows and disk of a study before anything is spent."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp_steer.config import SweepConfig
from interp_steer.errors import ModelError

if TYPE_CHECKING:
    from interp_steer.model_size import ModelSize
    from interp_steer.planned_rows import RowCount
    from interp_steer.planning import Rate, Workload
    from interp_steer.presets import Preset

GpuName = Literal["H200", "H100", "A100", "4090", "cpu"]
_ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """What is planned, and what is assumed."""

    preset: str | None = None
    """A named model, without a network: see docs/models.md."""
    model: str | None = None
    """Or a directory or hub name; its config.json alone is read."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    scenarios: Path | None = None
    """Scenario file, or the name of a bundled set; without, so many as below."""
    n_train: int = 50
    """Training scenarios, where no file is given."""
    n_test: int = 112
    """Test scenarios, where no file is given."""
    responses_per_scenario: int = 1
    """Responses of each side to each training scenario."""
    prompt_tokens: int = 150
    """Mean length of a prompt, assumed."""
    response_tokens: int = 300
    """Mean length of a response, assumed; times and disk follow it."""
    max_new_tokens: int = 1024
    """Limit on response tokens; the cache must hold them."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """The model's dtype."""
    gpu: GpuName = "H100"
    """Whose published peaks are taken."""
    tflops: float | None = None
    """Peak arithmetic instead, 10^12 operations a second."""
    bandwidth: float | None = None
    """Peak memory bandwidth instead, 10^12 bytes a second."""


def plan_text(config: PlanConfig, sweep: SweepConfig) -> str:
    """Return the plan as the command prints it.

    Args:
        config: model, lengths, device.
        sweep: the grid that is planned, with its batch size.

    Raises:
        ModelError: neither preset nor model, or both; or the model's config cannot be read.
        GridError: the grid does not fit the model.
    """
    from interp_steer.model_size import ModelSize

    preset, hf_config = _found(config)
    size = ModelSize.of(hf_config)
    rows = _rows(config, sweep, size)
    work = _workload(config, sweep, size)
    lines = [
        *_model_lines(config, preset, size),
        "",
        *_memory_lines(size, work, _rate(config), rows),
        "",
        *_stage_lines(size, work, _rate(config), rows, judge_free=sweep.judge_free),
        "",
        *_disk_lines(size, work, rows),
    ]
    return "\n".join(lines)


def _found(config: PlanConfig) -> "tuple[Preset | None, Any]":
    from interp_steer.model_loading import read_config
    from interp_steer.presets import load_preset, preset_names

    if (config.preset is None) == (config.model is None):
        raise ModelError(
            "a plan needs either --preset NAME or --model DIRECTORY; the presets are "
            f"{', '.join(preset_names())}"
        )
    if config.preset is not None:
        preset = load_preset(config.preset)
        return preset, preset.hf_config()
    return None, read_config(str(config.model), revision=config.revision)


def _rows(config: PlanConfig, sweep: SweepConfig, size: "ModelSize") -> "RowCount":
    from interp_steer.planned_rows import count_rows, stand_in_scenarios
    from interp_steer.scenario_sets import find_scenarios
    from interp_steer.study import load_one_trait

    scenarios = (
        stand_in_scenarios(config.n_train, config.n_test)
        if config.scenarios is None
        else load_one_trait(find_scenarios(config.scenarios))
    )
    return count_rows(
        scenarios,
        sweep,
        layers=range(size.n_layers),
        responses_per_scenario=config.responses_per_scenario,
    )


def _workload(config: PlanConfig, sweep: SweepConfig, size: "ModelSize") -> "Workload":
    from interp_steer.planning import Workload

    limit = min(config.max_new_tokens, size.n_ctx - config.prompt_tokens)
    if limit < 1:
        raise ModelError(
            f"prompts of {config.prompt_tokens} tokens leave no room in the model's context of "
            f"{size.n_ctx}; give a smaller --prompt-tokens"
        )
    return Workload(
        prompt_tokens=config.prompt_tokens,
        response_tokens=min(config.response_tokens, limit),
        max_new_tokens=limit,
        batch_size=sweep.batch_size,
        itemsize=_ITEMSIZE[config.dtype],
    )


def _rate(config: PlanConfig) -> "Rate":
    from interp_steer.planning import RATES

    rate = RATES[config.gpu]
    if config.tflops is not None:
        rate = replace(rate, name="the given rate", tflops=config.tflops, memory=None)
    if config.bandwidth is not None:
        rate = replace(rate, name="the given rate", bandwidth=config.bandwidth, memory=None)
    return rate


def _model_lines(config: PlanConfig, preset: "Preset | None", size: "ModelSize") -> Iterator[str]:
    name = config.model if preset is None else f"{preset.model} (preset {preset.name})"
    yield f"{name}: {size.n_parameters:,} parameters, {size.n_layers} layers of {size.d_model}"
    recurrent = size.n_recurrent_layers
    if recurrent:
        yield f"  {recurrent} of the layers have linear attention, whose state does not grow"
    if preset is not None:
        yield f"  {preset.notes}"
        yield from (f"  not verified: {what}" for what in preset.unverified)


def _memory_lines(
    size: "ModelSize", work: "Workload", rate: "Rate", rows: "RowCount"
) -> Iterator[str]:
    from interp_steer.planning import estimate_memory

    memory = estimate_memory(size, work, n_training=rows.training)
    yield (
        f"memory, {work.batch_size} rows of up to {work.longest} tokens "
        f"({work.itemsize} bytes a number; allocator and fragmentation come on top)"
    )
    yield f"  weights                  {_bytes(memory.weights)}"
    yield f"  key-value cache          {_bytes(memory.cache)}"
    yield f"  captured residuals       {_bytes(memory.capture)}"
    yield f"  attention or logits      {_bytes(memory.working)}  (roughly)"
    yield f"  together                 {_bytes(memory.total)}{_devices(memory.total, rate)}"


def _devices(total: int, rate: "Rate") -> str:
    if rate.memory is None:
        return ""
    n = -(-total // int(0.9 * rate.memory))
    fits = "fits one" if n == 1 else f"needs {n} of"
    return f"  {fits} {rate.name} of {rate.memory / 1e9:.0f} GB at 90 %"


def _stage_lines(
    size: "ModelSize", work: "Workload", rate: "Rate", rows: "RowCount", *, judge_free: bool
) -> Iterator[str]:
    from interp_steer.planning import estimate_stages

    stages = estimate_stages(size, work, rate, rows=rows, judge_free=judge_free)
    yield (
        f"time on {rate.name}, estimated: {rate.compute_share:.0%} of {rate.tflops:g} TFLOP/s, "
        f"{rate.bandwidth_share:.0%} of {rate.bandwidth:g} TB/s, "
        f"{rate.layer_seconds * 1000:g} ms a layer and call;"
    )
    yield (
        f"  prompts of {work.prompt_tokens} and responses of {work.response_tokens} tokens. More "
        "devices give a layer room, not speed; a judge's time comes on top"
    )
    for stage in stages:
        yield f"  {stage.name:<32} {stage.n_rows:>9,} responses  {_time(stage.seconds):>9}"
    yield f"  {'together':<32} {'':>9}            {_time(sum(s.seconds for s in stages)):>9}"
    yield (
        f"  {rows.cells:,} configurations; {rows.baselines:,} baselines, {rows.grid:,} rows of the "
        f"grid, at most {rows.beside:,} beside the operating points"
    )


def _disk_lines(size: "ModelSize", work: "Workload", rows: "RowCount") -> Iterator[str]:
    from interp_steer.planning import estimate_disk

    disk = estimate_disk(size, work, rows=rows)
    yield "disk, about"
    yield from (f"  {name:<24} {_bytes(n)}" for name, n in disk.items())


def _bytes(n: int) -> str:
    return f"{n / 1e9:9.2f} GB" if n >= 1e8 else f"{n / 1e6:9.2f} MB"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
