"""One forward call of a bridged model on one chunk of tokens, and the hooks that see it.

`ChunkRunner` is the only place that calls the model. It keeps the `TokenChunk` of the call in
progress, so that a hook learns where its tokens stand in their sequences, and it passes position
ids counted from each row's first real token, so that left padding changes nothing.

During a call the components inside a block whose hook points nobody listens to are bypassed
(`bare_components`), and rows that share a prefix go through the lower blocks as one (`widening`).
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_steer.attached_hooks import AttachedHooks, LayerHooks, find_resid_hook_points
from interp_steer.bare_components import bare_components
from interp_steer.errors import ModelError
from interp_steer.names import resid_post
from interp_steer.prefix_sharing import PrefixSharing
from interp_steer.resid_taps import ResidTap
from interp_steer.tokens import PaddedBatch, ResidHook, TokenChunk
from interp_steer.widening import WideningBatch

logger = logging.getLogger(__name__)

_RUNNING: "WeakSet[Any]" = WeakSet()
"""Bridges that are in the middle of a call."""
_ASKING = Lock()
"""Of whoever looks whether a bridge is, and then begins."""


class ChunkRunner:
    """Runs chunks of tokens through a bridge and hands each chunk to the attached hooks."""

    def __init__(self, bridge: Any, *, reference: bool = False) -> None:
        self.bridge = bridge
        self.is_reference = reference
        """Whether everything runs through the bridge's own components, slowly."""
        self.model: nn.Module = bridge.original_model
        self.n_layers = int(bridge.cfg.n_layers)
        self.hooks = AttachedHooks(
            find_resid_hook_points(bridge, self.n_layers), wrap=self._bridge_hook
        )
        self._forward_options = forward_options(self.model)
        self._chunk: TokenChunk | None = None
        self._widening: WideningBatch | None = None
        self._bare: dict[int, nn.Module] = {}

    @property
    def takes_positions(self) -> bool:
        """True where the model's forward takes position ids."""
        return "position_ids" in self._forward_options

    @cached_property
    def shares_blocks(self) -> bool:
        """Whether a batch may widen between blocks: positions by row, a cache layer a block."""
        return self.takes_positions and len(self.new_cache().layers) == self.n_layers

    @contextmanager
    def widening(self, sharing: PrefixSharing) -> Iterator[None]:
        """Context in which `run` takes chunks of all rows and runs what they share once."""
        batch = WideningBatch(sharing, taps=self._taps())
        with batch.attached():
            self._widening = batch
            try:
                yield
            finally:
                self._widening = None

    def attached(self, hooks: LayerHooks) -> AbstractContextManager[None]:
        """Attach `hooks` at resid_post; see `AttachedHooks.attached`."""
        return self.hooks.attached(hooks)

    def _taps(self) -> list[ResidTap]:
        """Where each block is called in the forward pass to come."""
        return [
            ResidTap(
                block=self._bare[layer] if layer in self._bare else self.bridge.blocks[layer],
                point=point,
                is_bare=layer in self._bare,
            )
            for layer, point in enumerate(self.hooks.points)
        ]

    def _bridge_hook(self, layer: int, resid_hook: ResidHook) -> Callable[..., Tensor | None]:
        def call(resid: Tensor, **_hook_point: Any) -> Tensor | None:
            if self._chunk is None:
                raise ModelError(
                    f"a hook at {resid_post(layer)} ran outside HookedLM.forward and "
                    "HookedLM.generate; without them it cannot know which tokens it sees. Call "
                    "those inside the hooks' context instead of the bridge itself"
                )
            chunk = self._chunk if self._widening is None else self._widening.after(layer)
            # On a model spread over devices a layer may sit elsewhere than the inputs.
            edited = resid_hook(resid, chunk.to(resid.device))
            if edited is not None and (edited.shape, edited.dtype) != (resid.shape, resid.dtype):
                raise ModelError(
                    f"a hook at {resid_post(layer)} must return the shape and dtype it got, "
                    f"{tuple(resid.shape)} {resid.dtype}; it returned {tuple(edited.shape)} "
                    f"{edited.dtype}"
                )
            return edited

        return call

    def run(
        self,
        chunk: TokenChunk,
        attention_mask: Int[Tensor, "batch kv_pos"],
        *,
        cache: Any | None = None,
        n_logits: int = 0,
        first_positions: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch pos_kept d_vocab"]:
        """Forward one chunk; the cache, if any, is extended in place.

        Inside `widening`, chunk and logits are those of all rows; the cache holds in every layer
        the rows of its stage.

        Args:
            chunk: the new tokens.
            attention_mask: 1 at real tokens, 0 at padding, for cached and new positions.
            cache: Hugging Face cache from `new_cache`, or None for a single uncached call.
            n_logits: how many of the last positions need logits; 0 keeps all.
            first_positions: position id of each row's first real token; None counts from 0. What
                hooks are told does not change: their positions are those in the sequence.

        Raises:
            ModelError: `first_positions` for a model that takes no position ids.
        """
        whole, widening = chunk, self._widening
        if widening is not None:
            chunk, attention_mask = widening.begin(whole), widening.first(attention_mask)
        options: dict[str, Any] = {"attention_mask": attention_mask}
        if self.takes_positions:
            options["position_ids"] = _position_ids(chunk, first_positions)
        elif first_positions is not None:
            raise ModelError(
                f"{type(self.model).__name__} takes no position ids, so first_positions cannot be "
                "set; leave it out"
            )
        if "logits_to_keep" in self._forward_options:
            options["logits_to_keep"] = n_logits
        options["use_cache"] = cache is not None
        if cache is not None:
            options["past_key_values"] = cache
        self._chunk = whole
        try:
            logits = self.model(input_ids=chunk.token_ids, **options).logits
        finally:
            self._chunk = None
        # On a model spread over devices the unembedding may lie elsewhere than the inputs.
        logits = logits.to(chunk.token_ids.device)
        logits = logits[:, -n_logits:] if n_logits else logits
        return logits if widening is None else widening.spread(logits)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Context for one or many `run` calls: no gradients, idle components bypassed.

        Hooks are attached before it.

        Raises:
            ModelError: the model is in the middle of another call, of another thread or of a
                callback's: hooks would be told of the wrong tokens.
        """
        with _ASKING:
            if self.bridge in _RUNNING:
                raise ModelError(
                    "the model is in the middle of a call; make one at a time, and none from a "
                    "hook or an on_step callback"
                )
            _RUNNING.add(self.bridge)
        with torch.no_grad(), ExitStack() as stack:
            stack.callback(_RUNNING.discard, self.bridge)
            if not self.is_reference:
                ours = [one.handle for one in self.hooks]
                self._bare = stack.enter_context(bare_components(self.bridge, ours=ours))
                stack.callback(setattr, self, "_bare", {})
            taps = self._taps()
            for one in self.hooks:
                if taps[one.layer].is_bare:
                    stack.callback(taps[one.layer].add(one.call))
            yield

    def new_cache(self) -> Any:
        """Return an empty key-value cache that knows the model's sliding windows.

        Raises:
            ModelError: the model takes no such cache (it would be ignored, and every step would
                see one token alone).
        """
        from interp_steer.kv_cache import appending_cache  # loads transformers

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
    return counted.clamp(min=0)


def forward_options(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that the Hugging Face forward accepts by name."""
    return frozenset(inspect.signature(model.forward).parameters)
