"""What an artifact records to know a model again: hashes of all that changes what it says.

A name is no identity: a directory may hold anything, and a repository changes under its name. Equal
hashes mean equal weights, tokenizer and template; they do not mean equal arithmetic elsewhere.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from interp_steer.chat_template import ChatOptions, chat_record


def model_identity(
    model: nn.Module,
    tokenizer: Any,
    *,
    name: str,
    weights: str,
    dtype: torch.dtype,
    revision: str | None,
    chat: ChatOptions,
) -> dict[str, Any]:
    """Return the identity as plain values.

    Keys: model (its name), weights, config, tokenizer and chat_template (SHA-256, null where there
    is none), dtype; and where they say something: revision (commit of the hub), quantization
    (method), chat (what the template was told, and where it puts a system prompt).

    Args:
        model: the Hugging Face module.
        tokenizer: its tokenizer, or None.
        name: a directory's name or a hub name.
        weights: see `weight_hash`.
        dtype: of the residual stream.
        revision: commit of the hub.
        chat: what the template was told.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    template = getattr(tokenizer, "chat_template", None)
    special = {
        "revision": revision,
        "quantization": _quantization(model),
        "chat": chat_record(tokenizer, chat) or None,
    }
    return {
        "model": name,
        "weights": weights,
        "config": config_hash(model.config),
        "dtype": str(dtype).removeprefix("torch."),
        "tokenizer": None if backend is None else _sha256([backend.to_str().encode()]),
        "chat_template": None if template is None else _sha256([str(template).encode()]),
        **{key: value for key, value in special.items() if value is not None},
    }


def weight_hash(model: nn.Module) -> str:
    """Hash over names, shapes, dtypes and bits of all parameters, in the order of names."""
    return _sha256(_weight_bytes(model))


def config_hash(config: Any) -> str:
    """Hash over what a Hugging Face config says of the architecture: two may share all weights.

    A window of attention, the base of rotary positions, a softcap: none of them is a weight. Left
    out is what does not change a logit (`VOLATILE`, token ids), or what other keys of the identity
    say; and whatever is off or unset, so that a later version's new switch, off by default, is no
    other model.
    """
    text = json.dumps(_architecture(config.to_dict()), sort_keys=True, default=str)
    return _sha256([text.encode()])


VOLATILE = frozenset(
    (
        "architectures",
        "attn_implementation",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "label2id",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)
"""Keys of a config that say nothing of the architecture: where it came from, in which precision,
with which weights training began, and what a call returns."""


def _architecture(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that change what a model in evaluation mode computes, nested configs too."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        is_volatile = (
            name in VOLATILE
            or name.startswith("_")
            or name.endswith(("_token_id", "_dropout", "_pdrop", "dropout_rate"))
        )
        if is_volatile or value is None or value is False:
            continue
        found[name] = _architecture(value) if isinstance(value, Mapping) else value
    return found


def _quantization(model: nn.Module) -> str | None:
    method = getattr(model, "quantization_method", None)
    return None if method is None else str(getattr(method, "value", method))


def _weight_bytes(model: nn.Module) -> Iterable[bytes]:
    named = {name.replace("._original_component", ""): p for name, p in model.named_parameters()}
    for name in sorted(named):
        values = named[name].detach().cpu().contiguous()
        yield f"{name} {values.dtype} {tuple(values.shape)}".encode()
        yield values.reshape(-1).view(torch.uint8).numpy().tobytes()


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
