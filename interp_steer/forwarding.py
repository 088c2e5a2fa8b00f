"""One forward call of a bridged model on one chunk of tokens.

`ChunkRunner` passes position ids counted from each row's first real token, so that left padding
changes nothing. During a call the components inside a block whose hook points nobody listens to
are bypassed (`bare_components`), and rows that share a prefix go through the lower blocks as one
(`widening`).
"""

import inspect
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_steer.attached_hooks import find_resid_hook_points
from interp_steer.bare_components import NOTHING, bare_components
from interp_steer.errors import ModelError
from interp_steer.model_identity import UNPROCESSED, config_hash, is_centred
from interp_steer.resid_taps import ResidTap
from interp_steer.runners import ModelRunner
from interp_steer.tokens import PaddedBatch, TokenChunk


class ChunkRunner(ModelRunner):
    """Runs chunks of tokens through a TransformerLens `TransformerBridge`.

    Args:
        bridge: in evaluation mode.
        reference: run everything through the bridge's own components, slowly.

    Raises:
        ModelError: no residual hooks, or the bridge is in training mode (dropout).
    """

    def __init__(self, bridge: Any, *, reference: bool = False) -> None:
        if bridge.original_model.training:
            raise ModelError(
                "the model is in training mode, where dropout makes results random; call "
                "bridge.eval() first"
            )
        super().__init__(bridge, find_resid_hook_points(bridge, int(bridge.cfg.n_layers)))
        self.is_reference = reference
        """Whether everything runs through the bridge's own components."""
        self._forward_options = forward_options(self.model)
        self._bare = NOTHING

    def fresh(self) -> "ChunkRunner":
        """Return another runner of the same bridge, to which nothing is attached."""
        return ChunkRunner(self.wrapped, reference=self.is_reference)

    @property
    def model(self) -> nn.Module:
        """The Hugging Face module under the bridge."""
        return self.wrapped.original_model

    @property
    def embedding(self) -> Tensor:
        """The token embeddings; of a model without, its first parameter."""
        model: Any = self.model
        found = next(model.get_input_embeddings().parameters(), None)
        return next(model.parameters()) if found is None else found

    @property
    def stop_ids(self) -> frozenset[int]:
        """The EOS tokens of the generation config."""
        eos = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        found = eos if isinstance(eos, list | tuple) else [eos]
        return frozenset(int(token_id) for token_id in found if token_id is not None)

    @property
    def quantization(self) -> str | None:
        """The method of Hugging Face's quantiser, if the model went through one."""
        method = getattr(self.model, "quantization_method", None)
        return None if method is None else str(getattr(method, "value", method))

    @property
    def weight_processing(self) -> str:
        """What `enable_compatibility_mode` did; "none" also where it processed no weights."""
        is_processed = getattr(self.wrapped, "_weights_processed", None)
        if is_processed is None:  # other versions do not say
            is_processed = getattr(self.wrapped, "compatibility_mode", False)
        if not is_processed:
            return UNPROCESSED
        is_moved = is_centred(self.embedding)
        return "compatibility_mode" + "+center_writing_weights" * is_moved

    def config_hash(self) -> str:
        """Hash over the Hugging Face config."""
        return config_hash(self.model.config)

    @property
    def takes_positions(self) -> bool:
        """True where the model's forward takes position ids."""
        return "position_ids" in self._forward_options

    @cached_property
    def shares_blocks(self) -> bool:
        """Whether a batch may widen between blocks: positions by row, a cache layer a block."""
        return self.takes_positions and len(self.new_cache().layers) == self.n_layers

    @property
    def may_end_early(self) -> bool:
        """True within `prepared` where the caller has no hooks of their own on the model."""
        return self._bare.is_all

    def _taps(self) -> list[ResidTap]:
        blocks = self._bare.blocks
        return [
            ResidTap(
                block=blocks[layer] if layer in blocks else self.wrapped.blocks[layer],
                point=point,
                is_bare=layer in blocks,
            )
            for layer, point in enumerate(self.hooks.points)
        ]

    def _prepare(self, stack: ExitStack) -> None:
        """Bypass idle components; hooks behind bypassed blocks move onto them."""
        if not self.is_reference:
            ours = [one.handle for one in self.hooks]
            self._bare = stack.enter_context(bare_components(self.wrapped, ours=ours))
            stack.callback(setattr, self, "_bare", NOTHING)
        taps = self._taps()
        for one in self.hooks:
            if taps[one.layer].is_bare:
                stack.callback(taps[one.layer].add(one.call))

    def call(
        self,
        chunk: TokenChunk,
        attention_mask: Int[Tensor, "batch kv_pos"],
        *,
        cache: Any | None,
        n_logits: int,
        first_positions: Int[Tensor, "batch"] | None,
    ) -> Float[Tensor, "row pos_kept d_vocab"]:
        """Call the Hugging Face module, through whatever components are bridged."""
        options: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": cache is not None}
        if self.takes_positions:
            options["position_ids"] = _position_ids(chunk, first_positions)
            # Told of no padding, the model need not put it into the masks of its layers. Without a
            # cache or positions it might read more into a missing mask than that.
            if cache is not None and not self.is_reference and bool(attention_mask.all()):
                options["attention_mask"] = None
        if "logits_to_keep" in self._forward_options:
            options["logits_to_keep"] = n_logits
        if cache is not None:
            options["past_key_values"] = cache
        return self.model(input_ids=chunk.token_ids, **options).logits

    def new_cache(self) -> Any:
        """Return an empty key-value cache that knows the model's sliding windows.

        Raises:
            ModelError: the model takes no such cache (it would be ignored, and every step would
                see one token alone).
        """
        from interp_steer.kv_cache import appending_cache  # loads transformers

        if "cache" in self._forward_options and "past_key_values" not in self._forward_options:
            # Hugging Face's new name for it: the bridge's attention would look for the old one,
            # find nothing, and see one token alone.
            raise ModelError(
                "this transformers is newer than TransformerLens can follow: it would lose the "
                "key-value cache; install an older one: pip install 'transformers<5.24'"
            )
        if "past_key_values" not in self._forward_options:
            raise ModelError(
                f"{type(self.model).__name__} takes no key-value cache, so it cannot generate or "
                "run in chunks here; use a decoder-only model with attention (Llama, Qwen, Gemma, "
                "Mistral, GPT-2, GPT-NeoX, and the like)"
            )
        return appending_cache(self.model.config)

    def select_rows(
        self, cache: Any, rows: Int[Tensor, "chosen"], blocks: range | None = None
    ) -> None:
        """Keep the chosen rows of a cache from `new_cache`, in all layers or in those of blocks."""
        from interp_steer.kv_cache import select_rows

        select_rows(cache, rows, range(len(cache.layers)) if blocks is None else blocks)

    def append_rows(
        self, cache: Any, rows: Int[Tensor, "added"], blocks: range, *, n_rows: int
    ) -> None:
        """Append copies of some of the `n_rows` rows to the cache layers of blocks."""
        from interp_steer.kv_cache import append_rows

        append_rows(cache, rows, blocks, n_rows)

    def check_piece(self, batch: PaddedBatch, size: int) -> None:
        """Refuse pieces of a padded batch that the model would get wrong.

        Raises:
            ModelError: single positions of rows of different lengths on a model with linear
                attention: Hugging Face masks no padding in a call of one token, so that it would
                enter the recurrent state of the shorter rows.
        """
        from interp_steer.kv_cache import is_recurrent

        is_padded = bool((batch.lengths < batch.width).any())
        if size == 1 and is_padded and batch.width > 1 and is_recurrent(self.new_cache()):
            raise ModelError(
                f"{type(self.model).__name__} has linear attention, which takes padding for text "
                "when a prompt is run one token at a time; use a chunk of at least 2 positions, "
                "or sequences of one length"
            )


def _position_ids(
    chunk: TokenChunk, first_positions: Int[Tensor, "batch"] | None
) -> Int[Tensor, "batch pos"]:
    """Ids counted from each row's first real token; 0 at padding, which is masked."""
    counted = chunk.positions
    if first_positions is not None:
        counted = torch.where(chunk.is_real, counted + first_positions[:, None], counted)
    return counted.clamp(min=0) if chunk.has_padding else counted


def forward_options(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that the Hugging Face forward accepts by name."""
    return frozenset(inspect.signature(model.forward).parameters)
