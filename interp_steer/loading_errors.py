"""What went wrong while a model was loaded, and what to do about it.

Loading fails in a dozen ways that have nothing to do with this library: no licence accepted, no
network, a shard missing, a card too small. Each is told apart by the type of the error. Nothing is
downloaded to find out.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp_steer.errors import ModelError
from interp_steer.memory import is_out_of_memory


@contextmanager
def explained(name_or_path: str | Path) -> Iterator[None]:
    """Context that turns what loading raises into a `ModelError` that says what to do."""
    from safetensors import SafetensorError

    kinds = (OSError, ValueError, RuntimeError, ImportError, MemoryError, SafetensorError)
    try:
        yield
    except (*kinds, _refused_pickle()) as error:
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
            f"that{'; or unset HF_HUB_OFFLINE' if offline else ''}"
        )
    if is_any(hub.EntryNotFoundError):
        return f": the repository lacks a file ({_first_line(error)}); see {page}/tree/main"
    if is_any(SafetensorError):
        return f": a weight file is damaged ({_first_line(error)}); copy or download it again"
    if is_any(_refused_pickle()):
        return (
            ": its weights are a pickle that holds more than tensors, and reading it would run "
            "what it holds. Take the safetensors of the model, or convert it where you trust it"
        )
    if is_any(ImportError):
        return f": a package is missing ({_first_line(error)}); install it"
    where = "a local directory" if Path(name).is_dir() else "not a local directory"
    return (
        f" ({where}): {_first_line(error)}. Give a directory with config.json, model.safetensors "
        "and tokenizer files, or a hub name whose architecture TransformerLens supports"
    )


def _refused_pickle() -> type[Exception]:
    """What torch raises for a pickle that it will not run (it has no name of its own for that)."""
    from torch import serialization

    return serialization.pickle.UnpicklingError  # pyright: ignore[reportPrivateImportUsage]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it; Hugging Face wraps the telling one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
