"""What this library needs of a model: run a chunk of tokens, keep a cache, let hooks see it.

`ModelRunner` is the only place that calls the model. It keeps the `TokenChunk` of the call in
progress, so that a hook learns where its tokens stand in their sequences; it refuses a call within
a call, and lets rows that share a prefix go through blocks as one (`widening`). What differs from
one model class to the next is a subclass: `forwarding` for bridges, `hooked_transformer`, or one of
your own, which `HookedLM` takes as it takes a model and `conformance` tests.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_steer.attached_hooks import AttachedHook, AttachedHooks, LayerHooks
from interp_steer.errors import ModelError
from interp_steer.model_identity import UNPROCESSED
from interp_steer.names import resid_post
from interp_steer.prefix_sharing import PrefixSharing
from interp_steer.resid_taps import ResidTap
from interp_steer.tokens import PaddedBatch, ResidHook, TokenChunk
from interp_steer.widening import WideningBatch

_RUNNING: "WeakSet[Any]" = WeakSet()
"""Models that are in the middle of a call."""
_ASKING = Lock()
"""Of whoever looks whether a model is, and then begins."""


class ModelRunner(ABC):
    """Runs chunks of tokens through a model and hands each chunk to the attached hooks.

    Args:
        wrapped: the model as the caller has it. Unless `cfg` and `tokenizer` are overridden, it has
            both.
        points: TransformerLens' hook point (`HookPoint`) behind every block, in their order; each
            is called with the residual stream, in the forward pass of the model.
    """

    def __init__(self, wrapped: Any, points: Sequence[Any]) -> None:
        self.wrapped = wrapped
        self.n_layers = len(points)
        self.hooks = AttachedHooks(points, wrap=self._hook_call)
        self._chunk: TokenChunk | None = None
        self._widening: WideningBatch | None = None
        self._last: AttachedHook | None = None

    @abstractmethod
    def fresh(self) -> "ModelRunner":
        """Return another runner of the same model, to which nothing is attached."""

    @abstractmethod
    def call(
        self,
        chunk: TokenChunk,
        attention_mask: Int[Tensor, "batch kv_pos"],
        *,
        cache: Any | None,
        n_logits: int,
        first_positions: Int[Tensor, "batch"] | None,
    ) -> Float[Tensor, "row pos_kept d_vocab"]:
        """Call the model once.

        Positions count from each row's first real token, so that left padding changes nothing, and
        no real token attends to padding.

        Args:
            chunk: the new tokens. Where they are not real (`TokenChunk.is_real`) anything may come
                out, and nothing may stay in the cache that a later token looks at.
            attention_mask: 1 at real tokens, 0 at padding, for cached and new positions. Rows that
                have ended count on, with 1: `chunk` says that theirs are not real.
            cache: from `new_cache`, extended in place; None for a single uncached call.
            n_logits: how many of the last positions are wanted at least; 0 for all.
            first_positions: position of each row's first real token; None for 0, and always where
                `takes_positions` is False.

        Returns:
            Logits of as many rows as leave the last block: with `shares_blocks` more than entered.
        """

    @abstractmethod
    def new_cache(self) -> Any:
        """Return an empty key-value cache.

        Raises:
            ModelError: the model takes none, so that every step would see one token alone.
        """

    @abstractmethod
    def select_rows(
        self, cache: Any, rows: Int[Tensor, "chosen"], blocks: range | None = None
    ) -> None:
        """Keep the chosen rows of a cache, in all layers or in those of blocks; any may repeat."""

    @abstractmethod
    def append_rows(
        self, cache: Any, rows: Int[Tensor, "added"], blocks: range, *, n_rows: int
    ) -> None:
        """Append copies of some of the `n_rows` rows to the cache layers of blocks."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The module that holds the parameters."""

    @property
    @abstractmethod
    def embedding(self) -> Float[Tensor, "d_vocab d_model"] | Tensor:
        """The token embeddings: their dtype is the residual stream's, inputs go to their device."""

    @abstractmethod
    def config_hash(self) -> str:
        """Hash over what a config says of the architecture and no weight does."""

    @property
    def cfg(self) -> Any:
        """The config: d_model, n_ctx, d_vocab, model_name, and default_prepend_bos if it has it."""
        return self.wrapped.cfg

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self.wrapped.tokenizer

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a response, besides the tokenizer's EOS."""
        return frozenset()

    @property
    def quantization(self) -> str | None:
        """How the weights are quantised, if they are."""
        return None

    @property
    def weight_processing(self) -> str:
        """What was folded or centred on loading; see `model_identity`."""
        return UNPROCESSED

    @property
    def takes_positions(self) -> bool:
        """Whether `call` can be given `first_positions`."""
        return False

    @property
    def may_end_early(self) -> bool:
        """Whether a call may be broken off behind a block, since nobody listens to what follows."""
        return False

    @cached_property
    def shares_blocks(self) -> bool:
        """Whether a batch may widen between blocks (see `_taps`); rows equal throughout share."""
        return False

    def check_piece(self, batch: PaddedBatch, size: int) -> None:  # noqa: B027
        """Refuse pieces of a padded batch that the model would get wrong.

        Raises:
            ModelError: there are such.
        """

    def run(
        self,
        chunk: TokenChunk,
        attention_mask: Int[Tensor, "batch kv_pos"],
        *,
        cache: Any | None = None,
        n_logits: int = 0,
        first_positions: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch pos_kept d_vocab"]:
        """Forward one chunk under the attached hooks; the cache, if any, is extended in place.

        Inside `widening`, chunk and logits are those of all rows; the cache holds in every layer
        the rows of its stage.

        Args:
            chunk: the new tokens.
            attention_mask: 1 at real tokens, 0 at padding, for cached and new positions.
            cache: from `new_cache`, or None for a single uncached call.
            n_logits: how many of the last positions need logits; 0 keeps all.
            first_positions: position of each row's first real token; None counts from 0. What
                hooks are told does not change: their positions are those in the sequence.

        Raises:
            ModelError: `first_positions` for a model that takes no positions.
        """
        if first_positions is not None and not self.takes_positions:
            raise ModelError(
                f"{type(self.model).__name__} takes no position ids, so first_positions cannot be "
                "set; leave it out"
            )
        whole, widening = chunk, self._widening
        if widening is not None:
            chunk, attention_mask = widening.begin(whole), widening.first(attention_mask)
        self._chunk = whole
        try:
            logits = self.call(
                chunk,
                attention_mask,
                cache=cache,
                n_logits=n_logits,
                first_positions=first_positions,
            )
        finally:
            self._chunk = None
        # On a model spread over devices the unembedding may lie elsewhere than the inputs.
        logits = logits.to(chunk.token_ids.device)
        logits = logits[:, -n_logits:] if n_logits else logits
        return logits if widening is None else widening.spread(logits)

    def run_for_hooks(
        self,
        chunk: TokenChunk,
        attention_mask: Int[Tensor, "batch kv_pos"],
        *,
        cache: Any | None = None,
        first_positions: Int[Tensor, "batch"] | None = None,
    ) -> None:
        """Forward one chunk for what the attached hooks see and do, no further than the last one.

        A cache is then not extended in the layers above: only calls like this one may follow on it.

        Args:
            chunk: see `run`, as for all others.
            attention_mask: see `run`.
            cache: see `run`.
            first_positions: see `run`.
        """
        self._last = self.hooks.last() if self.may_end_early else None
        try:
            self.run(
                chunk, attention_mask, cache=cache, n_logits=1, first_positions=first_positions
            )
        except _AllSeen:
            pass
        finally:
            self._last = None

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Context for one or many `run` calls: no gradients, no other call.

        Hooks are attached before it.

        Raises:
            ModelError: the model is in the middle of another call, of another thread or of a
                callback's: hooks would be told of the wrong tokens.
        """
        with _ASKING:
            if self.wrapped in _RUNNING:
                raise ModelError(
                    "the model is in the middle of a call; make one at a time, and none from a "
                    "hook or an on_step callback"
                )
            _RUNNING.add(self.wrapped)
        with torch.no_grad(), ExitStack() as stack:
            stack.callback(_RUNNING.discard, self.wrapped)
            self._prepare(stack)
            yield

    def _prepare(self, stack: ExitStack) -> None:  # noqa: B027
        """Make the model ready for calls; `stack` puts everything back."""

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

    def _taps(self) -> Sequence[ResidTap]:
        """Where each block is called in the forward pass to come; none without `shares_blocks`."""
        return ()

    def attached(self, hooks: LayerHooks) -> AbstractContextManager[None]:
        """Attach `hooks` at resid_post; see `AttachedHooks.attached`."""
        return self.hooks.attached(hooks)

    def _hook_call(self, layer: int, resid_hook: ResidHook) -> Callable[..., Tensor | None]:
        """Return what the model calls: the hook, told of its tokens and held to its shape."""

        def call(resid: Tensor, **_hook_point: Any) -> Tensor | None:
            if self._chunk is None:
                raise ModelError(
                    f"a hook at {resid_post(layer)} ran outside HookedLM.forward and "
                    "HookedLM.generate; without them it cannot know which tokens it sees. Call "
                    "those inside the hooks' context instead of the model itself"
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
            if self._last is not None and self._last.call is call:
                raise _AllSeen
            return edited

        return call


class _AllSeen(Exception):  # noqa: N818 - no error, and nobody's to catch
    """Ends a forward pass of `run_for_hooks` behind the last hook."""
