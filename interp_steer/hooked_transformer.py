"""Forward calls of a `HookedTransformer`, the model class of TransformerLens up to 3.x.

It is its own implementation of every architecture, with hook points all over, so nothing is
bypassed. It counts positions from its attention mask: rows are padded on the left here, whatever
its tokenizer's padding side, and a mask is always given, because without one it would take
end-of-text tokens for padding. Equal rows of a call run as one; between blocks a batch does not
widen. Its weights are often folded and centred on loading (`weight_processing`).

Nothing is imported from TransformerLens here before there is such a model: 4.0 removed the class.
"""

import sys
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_steer.attached_hooks import find_resid_hook_points
from interp_steer.errors import ModelError
from interp_steer.model_identity import UNPROCESSED, is_centred, values_hash
from interp_steer.runners import ModelRunner
from interp_steer.tokens import TokenChunk

_NO_ARCHITECTURE = frozenset(
    (
        "checkpoint_index",
        "checkpoint_label_type",
        "checkpoint_value",
        "default_prepend_bos",
        "device",
        "from_checkpoint",
        "init_mode",
        "init_weights",
        "load_in_4bit",
        "model_name",
        "n_devices",
        "n_params",
        "quantization_method",
        "seed",
        "tokenizer_name",
        "tokenizer_prepends_bos",
        "trust_remote_code",
        "ungroup_grouped_query_attention",
        "use_attn_in",
        "use_attn_result",
        "use_hook_mlp_in",
        "use_hook_tokens",
        "use_split_qkv_input",
    )
)
"""Entries of a HookedTransformerConfig that change no logit, beside those of `model_identity`."""


def is_hooked_transformer(model: Any) -> bool:
    """Whether the model is a `HookedTransformer` of the TransformerLens that is loaded."""
    lens = sys.modules.get("transformer_lens")
    kind = None if lens is None else vars(lens).get("HookedTransformer")
    return isinstance(kind, type) and isinstance(model, kind)


class HookedTransformerRunner(ModelRunner):
    """Runs chunks of tokens through a `HookedTransformer`.

    Args:
        transformer: the model. Training mode changes nothing: it has no dropout.

    Raises:
        ModelError: a model that is not causal, that has other tokens for output than for input, or
            that measures the context with its padding (dynamic NTK, log-n attention).
    """

    def __init__(self, transformer: Any) -> None:
        _check_kind(transformer.cfg)
        super().__init__(
            transformer, find_resid_hook_points(transformer, int(transformer.cfg.n_layers))
        )

    def fresh(self) -> "HookedTransformerRunner":
        """Return another runner of the same model, to which nothing is attached."""
        return HookedTransformerRunner(self.wrapped)

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.wrapped

    @property
    def embedding(self) -> Tensor:
        """W_E."""
        return self.wrapped.embed.W_E

    @property
    def quantization(self) -> str | None:
        """The method, of a model that was loaded quantised."""
        return getattr(self.cfg, "quantization_method", None) if self.cfg.load_in_4bit else None

    @property
    def weight_processing(self) -> str:
        """What is seen in config and weights of the options of `HookedTransformer.from_pretrained`.

        Value biases folded into the output's and factored matrices made even leave no trace; they
        move no residual stream either.
        """
        unembedding = self.wrapped.unembed.W_U
        seen = {
            "fold_ln": str(self.cfg.normalization_type).endswith("Pre"),
            "center_writing_weights": is_centred(self.embedding),
            "center_unembed": is_centred(unembedding),
        }
        return "+".join(name for name, is_done in seen.items() if is_done) or UNPROCESSED

    def config_hash(self) -> str:
        """Hash over the HookedTransformerConfig."""
        values = self.cfg.to_dict()
        return values_hash({k: v for k, v in values.items() if k not in _NO_ARCHITECTURE})

    def call(
        self,
        chunk: TokenChunk,
        attention_mask: Int[Tensor, "batch kv_pos"],  # noqa: ARG002
        *,
        cache: Any | None,
        n_logits: int,
        first_positions: Int[Tensor, "batch"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "row pos_kept d_vocab"]:
        """Call the model; the mask of cached positions is the cache's.

        A row that has ended takes padding, so that its positions do not run beyond the context.
        """
        held = None if cache is None else cache.of_rows(len(chunk.rows))
        with ExitStack() as stack:
            if 0 < n_logits < chunk.token_ids.shape[1]:
                keep = self.wrapped.unembed.register_forward_pre_hook(_last_positions(n_logits))
                stack.callback(keep.remove)
            return self.wrapped(
                chunk.token_ids,
                return_type="logits",
                attention_mask=chunk.is_real.long(),
                past_kv_cache=held,
            )

    def new_cache(self) -> "HookedCache":
        """Return an empty key-value cache."""
        return HookedCache(self.cfg)

    def select_rows(
        self,
        cache: Any,
        rows: Int[Tensor, "chosen"],
        blocks: range | None = None,  # noqa: ARG002 - all: a batch does not widen
    ) -> None:
        """Keep the chosen rows of a cache."""
        cache.select_rows(rows)

    def append_rows(
        self,
        cache: Any,
        rows: Int[Tensor, "added"],
        blocks: range,  # noqa: ARG002
        *,
        n_rows: int,
    ) -> None:
        """Append copies of some of the rows to a cache."""
        cache.select_rows(torch.cat([torch.arange(n_rows, device=rows.device), rows]))


class HookedCache:
    """TransformerLens' own cache, made when the first call says how many rows there are.

    Args:
        cfg: the model's config.
    """

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg
        self._held: Any = None

    def of_rows(self, n_rows: int) -> Any:
        """Return what the model takes."""
        if self._held is None:
            from transformer_lens import TransformerLensKeyValueCache

            device = self._cfg.device
            self._held = TransformerLensKeyValueCache.init_cache(self._cfg, device, n_rows)
        return self._held

    def select_rows(self, rows: Int[Tensor, "chosen"]) -> None:
        """Keep the chosen rows, of all layers and of the mask."""
        held = self._held
        if held is None:
            return
        for entry in held.entries:
            entry.past_keys = _take(entry.past_keys, rows)
            entry.past_values = _take(entry.past_values, rows)
        held.previous_attention_mask = _take(held.previous_attention_mask, rows)


def _take(values: Tensor, rows: Int[Tensor, "chosen"]) -> Tensor:
    return values.index_select(0, rows.to(values.device))


def _last_positions(n: int) -> Any:
    """Return a hook that lets a module see the last `n` positions of its input alone."""
    return lambda _module, inputs: (inputs[0][:, -n:], *inputs[1:])


def _check_kind(cfg: Any) -> None:
    if cfg.attention_dir != "causal":
        raise ModelError(
            f"HookedLM needs a causal language model, got attention_dir {cfg.attention_dir!r}; use "
            "a model with attention_dir 'causal'"
        )
    if cfg.d_vocab_out not in (-1, cfg.d_vocab):
        raise ModelError(
            f"HookedLM needs a model that puts out the tokens it takes, got d_vocab {cfg.d_vocab} "
            f"and d_vocab_out {cfg.d_vocab_out}; use a language model"
        )
    trained = getattr(cfg, "train_seq_length", None) or cfg.n_ctx
    by_length = [
        name for name in ("use_dynamic_ntk_rope", "use_logn_attn") if getattr(cfg, name, False)
    ]
    if by_length and cfg.n_ctx > trained:
        raise ModelError(
            f"{by_length[0]} beyond {trained} positions makes a row's text depend on how far it is "
            f"padded, and this model's context is {cfg.n_ctx}; load it with n_ctx={trained}"
        )
