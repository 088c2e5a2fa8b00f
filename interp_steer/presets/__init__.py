"""Presets: for a named model, what `fit`, `sweep` and `plan` take where nothing else is given.

One JSON file a model beside this module: its hub name, the numbers of its config (so that `plan`
needs no network), and options as the command line spells them. An option given on the command line
wins over the preset's. A preset is where to start, not what is best: layers are those of the paper
where it names some, and a guess that says so elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_steer.errors import ModelError

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What is known and advised of one model."""

    name: str
    """As `--preset` takes it."""
    model: str
    """Hub name."""
    notes: str
    """For the reader."""
    unverified: tuple[str, ...]
    """Which of its numbers nobody here has checked, or are guesses."""
    config: Mapping[str, Any]
    """Hugging Face config of the language model, as far as sizes depend on it."""
    fit: Mapping[str, Any]
    """Options of `fit`."""
    sweep: Mapping[str, Any]
    """Options of `sweep`."""

    def hf_config(self) -> Any:
        """The Hugging Face config; built, not fetched."""
        from transformers import AutoConfig

        numbers = dict(self.config)
        return AutoConfig.for_model(numbers.pop("model_type"), **numbers)


def preset_names() -> list[str]:
    """Every preset's name."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ModelError: there is none.
    """
    if name not in preset_names():
        raise ModelError(f"there is no preset {name!r}; available: {', '.join(preset_names())}")
    record = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Preset(name=name, **{**record, "unverified": tuple(record["unverified"])})


def with_preset(arguments: Sequence[str]) -> list[str]:
    """Add a preset's options to those that were given, which win.

    Args:
        arguments: of the command line, the command first. `--preset NAME` is read for `fit`,
            `sweep` and `plan`; other commands' arguments come back as they are.

    Raises:
        ModelError: there is no such preset.
    """
    given = list(arguments)
    if given[:1] not in (["fit"], ["sweep"], ["plan"]) or "--preset" not in given[1:-1]:
        return given
    at = given.index("--preset")
    options = _options(load_preset(given[at + 1]), given[0])
    if given[0] != "plan":
        del given[at : at + 2]
    for flag, instead in _INSTEAD.items():
        if flag in given:
            options = {name: value for name, value in options.items() if name not in instead}
    written = [
        word
        for name, value in options.items()
        if (flag := f"--{name.replace('_', '-')}") not in given
        for word in (flag, *map(str, value if isinstance(value, list) else [value]))
    ]
    return given + written


_INSTEAD = {
    "--alphas": ("swfc_alphas", "sttp_alphas", "stmp_alphas"),
    "--device": ("device_map", "n_devices"),
    "--device-map": ("device", "n_devices"),
    "--n-devices": ("device", "device_map"),
}
"""Options that a given one stands for."""


def _options(preset: Preset, command: str) -> dict[str, Any]:
    placed = {name: preset.fit[name] for name in ("device", "device_map") if name in preset.fit}
    if command == "fit":
        return {"model": preset.model, **preset.fit}
    if command == "sweep":
        return {**preset.sweep, **placed}
    return {**preset.sweep, "max_new_tokens": preset.fit["max_new_tokens"]}
