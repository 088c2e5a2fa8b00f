"""Which models can be loaded at all: architectures with an adapter, directories with every file."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from interp_steer.errors import ModelError

TEXT_ONLY = {
    "Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeForCausalLM",
}
"""Checkpoints published with a vision tower whose language model loads alone."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")


def supported_architectures() -> list[str]:
    """Names of the decoder-only architectures that TransformerLens has an adapter for."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.utilities import architectures as kinds

    others = (
        kinds.SEQ2SEQ_ARCHITECTURES
        | kinds.MASKED_LM_ARCHITECTURES
        | kinds.AUDIO_ARCHITECTURES
        | kinds.AUDIO_TEXT_ARCHITECTURES
        | kinds.AUDIO_CLASSIFICATION_ARCHITECTURES
        | kinds.VISION_ARCHITECTURES
        | kinds.VISION_CLASSIFICATION_ARCHITECTURES
    )
    own = {name for name in SUPPORTED_ARCHITECTURES if name.startswith("TransformerLens")}
    return sorted(set(SUPPORTED_ARCHITECTURES) - others - own)


def check_architecture(config: Any) -> str:
    """Return the architecture of a config.

    Raises:
        ModelError: not a decoder-only language model with an adapter; names those that are.
    """
    from transformer_lens.utilities.architectures import MULTIMODAL_ARCHITECTURES

    supported = supported_architectures()
    named = list(getattr(config, "architectures", None) or _architecture_of_type(config))
    found = next((name for name in named if name in supported), None)
    if found is None:
        what = ", ".join(named) or f"none (model_type {getattr(config, 'model_type', None)!r})"
        raise ModelError(
            f"TransformerLens has no adapter for a decoder-only language model of architecture "
            f"{what}; use one of {', '.join(supported)}"
        )
    if found in MULTIMODAL_ARCHITECTURES - set(TEXT_ONLY) and find_spec("torchvision") is None:
        raise ModelError(
            f"{found} is a vision-language model, whose processor needs torchvision; install "
            "torchvision, or load a text-only checkpoint of the family"
        )
    return found


def _architecture_of_type(config: Any) -> list[str]:
    """What TransformerLens makes of a config that names no architecture."""
    from transformer_lens.model_bridge.sources.transformers import (
        determine_architecture_from_hf_config,
    )

    try:
        return [determine_architecture_from_hf_config(config)]
    except ValueError:
        return []


def check_directory(path: Path, *, needs_tokenizer: bool = True) -> None:
    """Refuse a model directory that lacks a file, by the file's name.

    Raises:
        ModelError: no config, no weights, a missing shard, no tokenizer.
    """
    said = f"could not load the model {str(path)!r} (a local directory): "
    names = {file.name for file in path.iterdir()}
    if "config.json" not in names:
        raise ModelError(
            f"{said}it has no config.json. Give a directory with config.json, model.safetensors "
            "and tokenizer files"
        )
    indices = sorted(name for name in names if name.endswith(".safetensors.index.json"))
    if indices:
        missing = sorted(set(_shards(path / indices[0])) - names)
        if missing:
            raise ModelError(
                f"{said}{len(missing)} of its weight files are missing, {missing[0]} among them; "
                "copy or download them again"
            )
    elif not names & set(_WEIGHTS):
        raise ModelError(f"{said}it has no weights (model.safetensors, or an index and its shards)")
    if needs_tokenizer and not names & set(_TOKENIZERS):
        raise ModelError(
            f"{said}it has no tokenizer ({', '.join(_TOKENIZERS[:3])}); copy the model's tokenizer "
            "files there, or give HookedLM.load a tokenizer"
        )


def _shards(index: Path) -> Sequence[str]:
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{index} is no index of weights ({error}); copy or download it again"
        ) from error
