"""From a name to a TransformerLens bridge: where a model is found, and how it gets there.

What can be loaded is said by `model_support`, where it goes by `placement`, what went wrong by
`loading_errors`. `HF_HUB_OFFLINE` is obeyed because Hugging Face's own client does the fetching.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_steer.errors import ModelError
from interp_steer.loading_errors import explained
from interp_steer.model_support import TEXT_ONLY, check_architecture, check_directory
from interp_steer.placement import Placement


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
    if hf_model is None and path.is_file():
        raise ModelError(
            f"could not load the model {str(path)!r}: it is a file; give its directory"
        )
    if is_local and hf_model is None:
        check_directory(path, needs_tokenizer=tokenizer is None)
    config = (
        hf_model.config if hf_model is not None else read_config(name_or_path, revision=revision)
    )
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
        ModelError: see `explained`; or there is no such directory, or it has no config.json.
    """
    from transformers import AutoConfig

    path = Path(name_or_path)
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelError(
            f"could not load the model {str(path)!r} (a local directory): it has no config.json. "
            "Give a directory with config.json, model.safetensors and tokenizer files"
        )
    if _is_path(str(name_or_path)) and not path.exists():
        raise ModelError(
            f"could not load the model {str(name_or_path)!r}: there is no such directory. Check "
            "the spelling, or give a hub name (owner/name)"
        )
    with explained(name_or_path):
        return AutoConfig.from_pretrained(str(name_or_path), revision=revision)


def _is_path(name: str) -> bool:
    """Whether it can be no hub name, which is `owner/name`."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1


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
