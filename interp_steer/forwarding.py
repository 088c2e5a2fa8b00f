"""One forward call of a bridged model on one chunk of tokens, and the hooks that see it.

`ChunkRunner` is the only place that calls the model. It keeps the `TokenChunk` of the call in
progress, so that a hook learns where its tokens stand in their sequences; it passes position ids
counted from each row's first real token, so that left padding changes nothing; and it owns the
attaching and removing of hooks.

Speed: a `TransformerBridge` puts a hook point around every projection, norm and attention score,
and recomputes attention and norms in Python so that they can fire; on a small model that costs
about 40 % of a decoding step. During a call the components inside a block whose hook points nobody
listens to are therefore bypassed for the Hugging Face modules that they wrap (`bare_components`).
Blocks themselves stay bridged, so resid_post fires as always, and a component with any hook of the
caller's stays too.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp_steer.errors import ModelError
from interp_steer.names import resid_post
from interp_steer.tokens import PaddedBatch, ResidHook, TokenChunk

logger = logging.getLogger(__name__)

LayerHooks = Mapping[int, ResidHook] | Sequence[tuple[int, ResidHook]]
"""Hooks by layer; a sequence may name a layer several times and runs them in its order."""


@runtime_checkable
class PromptSharingHook(Protocol):
    """A hook under which rows with equal prompts may have them run once for all.

    It must say which rows it looks at in the prompt; a plain function cannot.
    """

    def sharing_prompts(self, n_rows: int) -> AbstractContextManager[Bool[Tensor, "row"]]:
        """Return the context in which prompts are run; it gives which rows need their own.

        Args:
            n_rows: sequences of the call. Inside, the hook meets only some of them: all that need
                their own run, and one of each group that shares.
        """
        ...


class ChunkRunner:
    """Runs chunks of tokens through a bridge and hands each chunk to the attached hooks."""

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self.model: nn.Module = bridge.original_model
        self.n_layers = int(bridge.cfg.n_layers)
        self.hook_points = find_resid_hook_points(bridge, self.n_layers)
        self._forward_options = forward_options(self.model)
        self._chunk: TokenChunk | None = None
        self._attached: list[ResidHook] = []

    @property
    def takes_positions(self) -> bool:
        """True where the model's forward takes position ids."""
        return "position_ids" in self._forward_options

    @property
    def has_hooks(self) -> bool:
        """True inside `attached`, when at least one hook is on."""
        return bool(self._attached)

    @contextmanager
    def sharing_prompts(self, n_rows: int) -> Iterator[Bool[Tensor, "row"]]:
        """Context for running prompts that rows share; gives which rows need their own (on CPU).

        Args:
            n_rows: sequences of the call.

        Raises:
            ModelError: a hook is attached that cannot say which rows it looks at.
        """
        needs_own = torch.zeros(n_rows, dtype=torch.bool)
        with ExitStack() as stack:
            for hook in self._attached:
                if not isinstance(hook, PromptSharingHook):
                    raise ModelError(
                        "share_prompts needs hooks that say which rows they look at in the prompt, "
                        "those of a SteeringPlan for instance; the attached "
                        f"{getattr(hook, '__name__', type(hook).__name__)} does not. Leave "
                        "share_prompts out, or give the hook a method sharing_prompts"
                    )
                needs_own |= stack.enter_context(hook.sharing_prompts(n_rows)).cpu()
            yield needs_own

    @contextmanager
    def attached(self, hooks: LayerHooks) -> Iterator[None]:
        """Attach `hooks` at resid_post; on any exit remove exactly these.

        Raises:
            ModelError: a layer that the model does not have; nothing is then attached.
        """
        pairs = list(hooks.items()) if isinstance(hooks, Mapping) else list(hooks)
        for layer, _ in pairs:
            self._check_layer(layer)
        with ExitStack() as stack:
            for layer, hook in pairs:
                stack.enter_context(self._attached_one(layer, hook))
            yield

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.n_layers:
            raise ModelError(
                f"layer must be 0..{self.n_layers - 1} (zero-based) for this model, got {layer}"
            )

    @contextmanager
    def _attached_one(self, layer: int, hook: ResidHook) -> Iterator[None]:
        point = self.hook_points[layer]
        point.add_hook(self._bridge_hook(layer, hook))
        handle = point.fwd_hooks[-1]
        self._attached.append(hook)
        try:
            yield
        finally:
            # By identity, both: one hook may serve several layers, and the caller may have added
            # or removed hooks of their own meanwhile.
            place = next(i for i, other in enumerate(self._attached) if other is hook)
            del self._attached[place]
            handle.hook.remove()
            point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]

    def _bridge_hook(self, layer: int, resid_hook: ResidHook) -> Callable[..., Tensor | None]:
        def call(resid: Tensor, **_hook_point: Any) -> Tensor | None:
            if self._chunk is None:
                raise ModelError(
                    f"a hook at {resid_post(layer)} ran outside HookedLM.forward and "
                    "HookedLM.generate; without them it cannot know which tokens it sees. Call "
                    "those inside the hooks' context instead of the bridge itself"
                )
            # On a model spread over devices a layer may sit elsewhere than the inputs.
            edited = resid_hook(resid, self._chunk.to(resid.device))
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
        self._chunk = chunk
        try:
            logits = self.model(input_ids=chunk.token_ids, **options).logits
        finally:
            self._chunk = None
        # On a model spread over devices the unembedding may lie elsewhere than the inputs.
        logits = logits.to(chunk.token_ids.device)
        return logits[:, -n_logits:] if n_logits else logits

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Context for one or many `run` calls: no gradients, idle components bypassed."""
        with torch.no_grad(), bare_components(self.bridge):
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

    def select_rows(self, cache: Any, rows: Int[Tensor, "chosen"]) -> None:
        """Keep the chosen rows of a cache from `new_cache`."""
        from interp_steer.kv_cache import select_rows

        select_rows(cache, rows)

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


BRIDGE_FORKS = ("use_attn_in", "use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")


def find_resid_hook_points(bridge: Any, n_layers: int) -> list[Any]:
    """Return the resid_post hook point of every layer.

    Raises:
        ModelError: the bridge lacks one of them.
    """
    available = bridge.hook_dict
    missing = [resid_post(layer) for layer in range(n_layers) if resid_post(layer) not in available]
    if missing or not n_layers:
        raise ModelError(
            f"the model needs a residual hook after every block; it has {n_layers} layers and "
            f"lacks {', '.join(missing[:3]) or 'any block'}"
            f"{' and more' if len(missing) > 3 else ''}. Use a decoder-only model whose "
            f"TransformerLens adapter offers {resid_post(0)}"
        )
    return [available[resid_post(layer)] for layer in range(n_layers)]


def forward_options(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that the Hugging Face forward accepts by name."""
    return frozenset(inspect.signature(model.forward).parameters)


@contextmanager
def bare_components(bridge: Any) -> Iterator[None]:
    """Bypass the bridge components inside blocks that nobody listens to; restore on any exit.

    The Hugging Face modules underneath compute the same values (they are what the bridge
    reproduces). Not done in compatibility mode, where the bridge computes something else, nor with
    the bridge's optional attention and MLP input hooks switched on, which reach across components.
    """
    if getattr(bridge, "compatibility_mode", False) or any(
        getattr(bridge.cfg, flag, False) for flag in BRIDGE_FORKS
    ):
        yield
        return
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        _swap_idle(bridge.original_model, swapped)
        yield
    finally:
        for parent, name, component in reversed(swapped):
            parent._modules[name] = component


def _swap_idle(parent: nn.Module, swapped: list[tuple[nn.Module, str, nn.Module]]) -> None:
    for name, child in list(parent._modules.items()):
        if child is None:
            continue
        original = child._modules.get("_original_component")
        if original is None:
            _swap_idle(child, swapped)
        elif getattr(child, "is_list_item", False):
            _swap_idle(original, swapped)
        elif not _is_observed(child):
            swapped.append((parent, name, child))
            parent._modules[name] = original
            _swap_idle(original, swapped)


def _is_observed(component: nn.Module) -> bool:
    """Whether a hook of any kind sits on the component or inside it."""
    return any(_has_own_hooks(module) for module in component.modules())


def _has_own_hooks(module: nn.Module) -> bool:
    if getattr(module, "fwd_hooks", None) or getattr(module, "bwd_hooks", None):
        return True
    tables = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    # TransformerLens wires pre-hooks of its own on every norm; they serve only its hook points.
    return any(
        not str(getattr(hook, "__module__", "")).startswith("transformer_lens")
        for table in tables
        for hook in table.values()
    )
