"""What an artifact records to know a model again: hashes of all that changes what it says.

A name is no identity: a directory may hold anything, and a repository changes under its name. Equal
hashes mean equal weights, tokenizer and template; they do not mean equal arithmetic elsewhere.

TransformerLens can fold norms into the weights behind them and centre what is written to the
residual stream. The model says the same, its residual stream is another one, and a probe of one
means nothing in the other: `weight_processing` tells them apart.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_steer.chat_template import ChatOptions, chat_record

UNPROCESSED = "none"
"""`weight_processing` of the weights as they were trained."""
IMPLIED = {"weight_processing": UNPROCESSED}
"""What artifacts of earlier versions do not say."""


def model_identity(
    tokenizer: Any,
    *,
    name: str,
    weights: str,
    config: str,
    dtype: torch.dtype,
    revision: str | None,
    chat: ChatOptions,
    quantization: str | None = None,
    weight_processing: str = UNPROCESSED,
) -> dict[str, Any]:
    """Return the identity as plain values.

    Keys: model (its name), weights, config, tokenizer and chat_template (SHA-256, null where there
    is none), dtype, weight_processing ("none", or what was folded or centred); and where they say
    something: revision (commit of the hub), quantization (method), chat (what the template was
    told, and where it puts a system prompt).

    Args:
        tokenizer: the model's tokenizer, or None.
        name: a directory's name or a hub name.
        weights: see `weight_hash`.
        config: see `config_hash`.
        dtype: of the residual stream.
        revision: commit of the hub.
        chat: what the template was told.
        quantization: the method, of quantised weights.
        weight_processing: what was folded or centred.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    template = getattr(tokenizer, "chat_template", None)
    special = {
        "revision": revision,
        "quantization": quantization,
        "chat": chat_record(tokenizer, chat) or None,
    }
    return {
        "model": name,
        "weights": weights,
        "config": config,
        "dtype": str(dtype).removeprefix("torch."),
        "weight_processing": weight_processing,
        "tokenizer": None if backend is None else _sha256([backend.to_str().encode()]),
        "chat_template": None if template is None else _sha256([str(template).encode()]),
        **{key: value for key, value in special.items() if value is not None},
    }


def processing_difference(recorded: Mapping[str, Any], processing: str) -> str | None:
    """Say how an artifact's weight processing differs from a model's, and what to do.

    Args:
        recorded: the artifact's provenance.
        processing: `weight_processing` of the model at hand.

    Returns:
        None where they are the same, or where the artifact does not say for which weights it is.
    """
    before = {**IMPLIED, **recorded}["weight_processing"]
    if recorded.get("weights") is None or before == processing:
        return None
    load = (
        "load the model without processing (HookedTransformer.from_pretrained_no_processing, or a "
        "TransformerBridge without enable_compatibility_mode)"
        if before == UNPROCESSED
        else "process the weights as then (HookedTransformer.from_pretrained, or "
        "TransformerBridge.enable_compatibility_mode)"
    )
    return (
        f"weight_processing {before}, got a model with weight_processing {processing}: folding and "
        f"centring weights makes another residual stream; {load}, or fit probes on this one"
    )


def is_centred(written: Float[Tensor, "row d_model"]) -> bool:
    """Whether what the first rows write has mean zero, up to the rounding of their dtype.

    Means of weights that were not centred are of the order rms / sqrt(d_model); rounding to
    bfloat16 leaves a hundredth of that.
    """
    rows = written[:256].detach().float()
    return bool(
        rows.mean(dim=-1).abs().max() < 0.1 * rows.square().mean().sqrt() / rows.shape[-1] ** 0.5
    )


def weight_hash(model: nn.Module) -> str:
    """Hash over names, shapes, dtypes and bits of all parameters, in the order of names."""
    return _sha256(_weight_bytes(model))


class WeightHash:
    """`weight_hash` of one model, found once, and again if its weights were changed."""

    def __init__(self) -> None:
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._hash = ""

    def of(self, model: nn.Module) -> str:
        """Return the hash."""
        # What changes when a parameter is replaced, or written by other than inference code.
        stamp = tuple(
            (p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()
        )
        if not self._hash or self._stamp != stamp:
            self._stamp, self._hash = stamp, weight_hash(model)
        return self._hash


def config_hash(config: Any) -> str:
    """Hash over what a Hugging Face config says of the architecture: two may share all weights.

    A window of attention, the base of rotary positions, a softcap: none of them is a weight. Left
    out is what does not change a logit (`VOLATILE`, token ids), or what other keys of the identity
    say; and whatever is off or unset, so that a later version's new switch, off by default, is no
    other model.
    """
    return values_hash(config.to_dict())


def values_hash(values: Mapping[str, Any]) -> str:
    """Hash of `config_hash` over the entries of any config."""
    text = json.dumps(_architecture(values), sort_keys=True, default=str)
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
