"""From a name to a TransformerLens bridge: where a model is found and put, and what went wrong.

Loading fails in a dozen ways that have nothing to do with this library: no licence accepted, no
network, a shard missing, a card too small. Each is told apart by the type of the error or by what
lies in the directory, and refused with what to do about it. Nothing is downloaded to find out, and
`HF_HUB_OFFLINE` is obeyed because Hugging Face's own client does the fetching.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from interp_steer.errors import ModelError
from interp_steer.memory import is_out_of_memory

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of Hugging Face to spread a model over devices."""
TEXT_ONLY = {
    "Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeForCausalLM",
}
"""Checkpoints published with a vision tower whose language model loads alone."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a model goes, and in which dtype."""

    device: str | None = None
    """One device; None where the model is spread."""
    device_map: str | dict[str, str | int] | None = None
    """How Hugging Face spreads it."""
    n_devices: int | None = None
    """Split evenly over so many GPUs."""
    dtype: torch.dtype = torch.float32
    """Of weights and residual stream."""

    @classmethod
    def of(
        cls,
        device: str | torch.device | None,
        dtype: torch.dtype | str,
        *,
        device_map: str | dict[str, str | int] | None = None,
        n_devices: int | None = None,
    ) -> "Placement":
        """Read what a caller may say: a device map instead of a device, "auto" for the dtype.

        Raises:
            ModelError: a device that is not there, contradicting options, an unknown dtype.
        """
        if device is not None and str(device) in DEVICE_MAPS:
            device, device_map = None, str(device)
        is_spread = device_map is not None or (n_devices or 1) > 1
        if is_spread and device not in (None, "cpu"):
            raise ModelError(
                f"give one device or a device map, not both; got device {str(device)!r} with "
                f"device_map {device_map!r} and n_devices {n_devices}"
            )
        if device_map is not None and (n_devices or 1) > 1:
            raise ModelError("give device_map or n_devices, not both: each says how to spread")
        one = None if is_spread else _checked_device(str(device or "cpu"))
        return cls(
            device=one,
            device_map=device_map,
            n_devices=n_devices if (n_devices or 1) > 1 else None,
            dtype=_dtype(
                dtype, on_gpu=torch.cuda.is_available() if one is None else one.startswith("cuda")
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBridge:
    """A bridge and where it came from."""

    bridge: Any
    """TransformerBridge in evaluation mode."""
    model_id: str
    """A hub name, or a directory's name (no path: artifacts must not depend on where it lies)."""
    revision: str | None
    """Commit of the hub that was loaded; None for a directory."""


def load_bridge(
    name_or_path: str | Path,
    placement: Placement,
    *,
    revision: str | None = None,
    hf_model: Any | None = None,
    tokenizer: Any | None = None,
) -> LoadedBridge:
    """Load a local directory or a model of the hub.

    Args:
        name_or_path: directory with config, weights and tokenizer, or a hub name.
        placement: where to.
        revision: branch, tag or commit of the hub; a directory has none.
        hf_model: the model itself, loaded before (quantised, for instance); `placement` is then
            ignored, and the tokenizer is that of `name_or_path`.
        tokenizer: instead of the one that lies with the model.

    Raises:
        ModelError: the model cannot be loaded; the message says why and what to do.
    """
    path = Path(name_or_path)
    is_local = path.is_dir()
    if is_local and revision is not None:
        raise ModelError(
            f"a revision belongs to a hub name, and {path} is a directory; leave the revision out"
        )
    if is_local and hf_model is None:
        check_directory(path, needs_tokenizer=tokenizer is None)
    config = hf_model.config if hf_model is not None else read_config(path, revision=revision)
    architecture = check_architecture(config)
    revision = None if is_local else cached_commit(str(name_or_path), revision) or revision
    with explained(name_or_path):
        bridge = _boot(
            str(name_or_path),
            placement,
            revision=revision,
            hf_model=hf_model,
            tokenizer=tokenizer,
            hf_config_overrides={"architectures": [TEXT_ONLY[architecture]]}
            if architecture in TEXT_ONLY and hf_model is None
            else None,
        )
    if any(parameter.is_meta for parameter in bridge.original_model.parameters()):
        raise ModelError(
            f"part of {str(name_or_path)!r} stayed on disk, where its weights can be neither "
            "hashed nor run at a useful speed; use a smaller dtype, a quantised model "
            "(hf_model=...), or more devices"
        )
    return LoadedBridge(
        bridge=bridge,
        model_id=path.resolve().name if is_local else str(name_or_path),
        revision=revision,
    )


def _boot(name: str, placement: Placement, **options: Any) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    hf_model = options["hf_model"]
    if hf_model is None:
        spread = {"device_map": placement.device_map, "n_devices": placement.n_devices}
        options |= {"device": placement.device, **spread}
    elif not getattr(hf_model, "hf_device_map", None):
        options["device"] = str(hf_model.device)
    return TransformerBridge.boot_transformers(name, dtype=placement.dtype, **options)


def read_config(name_or_path: str | Path, *, revision: str | None = None) -> Any:
    """Return the Hugging Face config of a model; no weights are fetched.

    Raises:
        ModelError: see `explained`; or the directory has no config.json.
    """
    from transformers import AutoConfig

    path = Path(name_or_path)
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelError(
            f"could not load the model {str(path)!r} (a local directory): it has no config.json. "
            "Give a directory with config.json, model.safetensors and tokenizer files"
        )
    with explained(name_or_path):
        return AutoConfig.from_pretrained(str(name_or_path), revision=revision)


def cached_commit(name: str, revision: str | None) -> str | None:
    """Return the commit that a branch or tag of the hub stood for when its config was fetched.

    Loading the rest by that commit keeps a run of one piece while a branch moves.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # a model that was given may bear any name
        return None
    return Path(found).parent.name if isinstance(found, str) else None


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


@contextmanager
def explained(name_or_path: str | Path) -> Iterator[None]:
    """Context that turns what loading raises into a `ModelError` that says what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, MemoryError, SafetensorError) as error:
        said = explanation(str(name_or_path), error)
        raise ModelError(f"could not load the model {str(name_or_path)!r}{said}") from error


def explanation(name: str, error: BaseException) -> str:
    """Return what went wrong and what to do, to follow the model's name in a message."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    chain = tuple(_causes(error))
    page = f"https://huggingface.co/{name}"

    def is_any(*kinds: type) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    if any(is_out_of_memory(one) for one in chain):
        return (
            f": out of memory ({_first_line(error)}). `interp-steer plan --model {name}` says how "
            "much it needs; use --dtype bfloat16, --n-devices N or --device-map auto over several "
            "GPUs, or a quantised model through HookedLM.load(hf_model=...)"
        )
    if is_any(hub.GatedRepoError):
        return (
            f": it is gated. Accept its licence at {page}, then log in with `hf auth login`, or "
            "set HF_TOKEN to a token that may read it"
        )
    if is_any(hub.RevisionNotFoundError):
        return f": the hub has no such revision ({_first_line(error)}); see {page}/commits/main"
    if is_any(hub.RepositoryNotFoundError):
        return (
            ": there is no such directory, and no such repository on the hub, or it is private. "
            "Check the spelling (owner/name); for a private one log in with `hf auth login`"
        )
    if is_any(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        how = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        return (
            f" (not a local directory): {how} and it is not in the cache. Fetch it where there is "
            f"a network with `hf download {name}`, copy the cache or the directory here and give "
            "that; or unset HF_HUB_OFFLINE"
        )
    if is_any(hub.EntryNotFoundError):
        return f": the repository lacks a file ({_first_line(error)}); see {page}/tree/main"
    if is_any(SafetensorError):
        return f": a weight file is damaged ({_first_line(error)}); copy or download it again"
    if is_any(ImportError):
        return f": a package is missing ({_first_line(error)}); install it"
    where = "a local directory" if Path(name).is_dir() else "not a local directory"
    return (
        f" ({where}): {_first_line(error)}. Give a directory with config.json, model.safetensors "
        "and tokenizer files, or a hub name whose architecture TransformerLens supports"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it; Hugging Face wraps the telling one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _checked_device(device: str) -> str:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(
            f"there is no device {device!r}; use cpu, cuda, cuda:1, mps, or a device map "
            f"({', '.join(DEVICE_MAPS)})"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device {device!r} was asked for and PyTorch sees no CUDA GPU; use --device cpu, or "
            "install a build of PyTorch for your driver"
        )
    return device


def _dtype(dtype: torch.dtype | str, *, on_gpu: bool) -> torch.dtype:
    """Read a dtype; "auto" is bfloat16 on CUDA GPUs and float32 elsewhere."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if on_gpu else torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"dtype must be auto, float32, bfloat16 or float16, got {dtype!r}")
    return found
