"""How large a model is, from its config alone: parameters, bytes, key-value cache, arithmetic.

The parameters are counted on Hugging Face's own module, built without memory (on PyTorch's meta
device), so that no formula of ours can disagree with an architecture. The cache is summed over the
layers that Hugging Face's cache would have. Nothing here is a measurement: what allocators, kernels
and fragmentation add is not in these numbers.
"""

from dataclasses import dataclass
from typing import Any

import torch

from interp_steer.errors import ModelError

_STATE_ITEM = 4
"""Bytes of a number of a recurrent state, which is kept in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Sizes of one architecture; `config` is that of its language model."""

    config: Any
    """Hugging Face config."""
    n_parameters: int
    """Every parameter once, tied ones too."""
    n_embedding: int
    """Of these, the input embeddings, which are looked up."""
    is_tied: bool
    """Whether the unembedding is the embedding (then it is multiplied with, too)."""
    n_buffers_bytes: int
    """Bytes of buffers (rotary frequencies, norms' statistics)."""

    @classmethod
    def of(cls, config: Any) -> "ModelSize":
        """Measure the language model of a config; no weights are made.

        Raises:
            ModelError: Hugging Face has no causal language model for it.
        """
        from transformers import AutoModelForCausalLM

        config = config.get_text_config(decoder=True)
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except ValueError as error:
            raise ModelError(
                f"no causal language model can be built from a config of type "
                f"{getattr(config, 'model_type', None)!r}; give a decoder-only model"
            ) from error
        embed, head = model.get_input_embeddings().weight, model.get_output_embeddings()
        return cls(
            config=config,
            n_parameters=sum(parameter.numel() for parameter in model.parameters()),
            n_embedding=embed.numel(),
            is_tied=head is not None and head.weight is embed,
            n_buffers_bytes=sum(b.numel() * b.element_size() for b in model.buffers()),
        )

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return int(self.config.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads."""
        return int(getattr(self.config, "num_key_value_heads", None) or self.n_heads)

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return int(getattr(self.config, "head_dim", None) or self.d_model // self.n_heads)

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return int(self.config.vocab_size)

    @property
    def n_ctx(self) -> int:
        """Longest sequence, in tokens."""
        return int(self.config.max_position_embeddings)

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the parameters at `itemsize` bytes a number."""
        return self.n_parameters * itemsize

    def cache_bytes(self, *, n_rows: int, n_tokens: int, itemsize: int) -> int:
        """Bytes of keys, values and recurrent states of `n_rows` sequences of `n_tokens`."""
        per_token = 2 * self.n_kv_heads * self.d_head * itemsize
        row = sum(per_token * min(n_tokens, kept) for kept in self.positions_kept(n_tokens) if kept)
        return n_rows * (row + self.n_recurrent_layers * self._state_bytes(itemsize))

    def positions_kept(self, n_tokens: int) -> list[int]:
        """Positions that each layer keeps after `n_tokens`: all, a window, or none."""
        from transformers import DynamicCache
        from transformers.cache_utils import (
            DynamicSlidingWindowLayer,
            LinearAttentionCacheLayerMixin,
        )

        kept = []
        for layer in DynamicCache(config=self.config).layers or [None] * self.n_layers:
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                kept.append(0)
            elif isinstance(layer, DynamicSlidingWindowLayer):
                kept.append(min(n_tokens, layer.sliding_window - 1))
            else:
                kept.append(n_tokens)
        return kept

    @property
    def n_recurrent_layers(self) -> int:
        """Layers with linear attention, whose state does not grow."""
        return sum(kept == 0 for kept in self.positions_kept(1 << 20))

    def _state_bytes(self, itemsize: int) -> int:
        """Bytes of one row's states in one layer with gated linear attention (Qwen3.5's kind)."""
        if not self.n_recurrent_layers:
            return 0
        config = self.config
        try:
            keys = config.linear_num_key_heads * config.linear_key_head_dim
            values = config.linear_num_value_heads * config.linear_value_head_dim
            recurrent = values * config.linear_key_head_dim * _STATE_ITEM
            return (2 * keys + values) * config.linear_conv_kernel_dim * itemsize + recurrent
        except AttributeError as error:
            raise ModelError(
                f"the size of the recurrent state of {config.model_type!r} is not known here; "
                "known is the gated linear attention of Qwen3-Next and Qwen3.5"
            ) from error

    def flops(self, *, n_tokens: int, context: float) -> float:
        """Floating-point operations of `n_tokens` tokens that each attend to `context` positions.

        Two for every weight that is multiplied with, four for every head, position and dimension
        attended to; the recurrence of linear attention is left out (a few per cent).
        """
        multiplied = self.n_parameters - (0 if self.is_tied else self.n_embedding)
        attended = sum(self.positions_kept(max(1, int(context))))
        attention = 4 * self.n_heads * self.d_head * attended
        return n_tokens * (2.0 * multiplied + attention)
