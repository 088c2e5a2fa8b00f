"""Bypassing the bridge's components that nobody listens to.

A `TransformerBridge` puts a hook point around every projection, norm and attention score,
recomputes attention and norms in Python so that they can fire, and so needs eager attention. Where
no hook but ours listens the Hugging Face modules underneath do the work, blocks included: they
compute the same values (they are what the bridge reproduces), and where no attention is listened to
at all they use PyTorch's fused attention, as Hugging Face does by itself. A component with any hook
of the caller's stays bridged, with everything around it that the hook needs.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from interp_steer.fused_norms import fused_forward

ASKED_BY_CONFIG = ("output_hidden_states", "output_attentions", "output_router_logits")
"""Switches of a Hugging Face config that make a forward pass collect outputs."""

OUTPUT_HOOKS = "transformers.utils.output_capturing"
"""Module of the hooks that collect them."""

HOOK_LISTS = ("fwd_hooks", "bwd_hooks")
"""Where TransformerLens keeps a hook point's hooks."""

HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where PyTorch keeps a module's hooks."""

BRIDGE_FORKS = ("use_attn_in", "use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")
"""Switches of a bridge's config that reach across components."""

OWN_HOOKS = ("transformer_lens", "transformers")
"""Packages whose own PyTorch hooks observe nothing for the caller: TransformerLens wires one on
every norm for its hook points, Hugging Face one on every block for outputs asked for by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BareComponents:
    """What was bypassed."""

    blocks: Mapping[int, nn.Module]
    """The Hugging Face blocks that stand in for bridged ones, by layer."""
    is_all: bool
    """Whether no bridged component is left and no module has hooks: nobody but the caller of
    `bare_components` listens to anything."""


NOTHING = BareComponents(blocks={}, is_all=False)


@contextmanager
def bare_components(bridge: Any, *, ours: Collection[Any] = ()) -> Iterator[BareComponents]:
    """Bypass what nobody listens to; restore on any exit.

    Nothing is done in compatibility mode, where the bridge computes something else, nor with one of
    `BRIDGE_FORKS` switched on.

    Args:
        bridge: the `TransformerBridge`.
        ours: handles of hooks behind blocks that the caller runs itself where a block is bypassed.

    Yields:
        What was bypassed.
    """
    if getattr(bridge, "compatibility_mode", False) or any(
        getattr(bridge.cfg, flag, False) for flag in BRIDGE_FORKS
    ):
        yield NOTHING
        return
    swap = _Swap(bridge, ours)
    try:
        swap.idle(bridge.original_model)
        modules = _modules(bridge.original_model)
        swap.fuse_attention(bridge.original_model, modules)
        swap.fuse_norms(modules)
        swap.silence(modules)
        yield BareComponents(blocks=swap.blocks, is_all=not swap.is_heard_among(modules))
    finally:
        swap.undo()


class _Swap:
    """What was replaced, and how to put it back."""

    def __init__(self, bridge: Any, ours: Collection[Any]) -> None:
        self.blocks: dict[int, nn.Module] = {}
        self._layers = {id(block): layer for layer, block in enumerate(bridge.blocks)}
        self._ours = {id(handle) for handle in ours}
        self._heard: dict[int, bool] = {}
        self._components: list[tuple[nn.Module, str, nn.Module]] = []
        self._configs: list[Any] = []
        self._eager: list[tuple[Any, Any]] = []
        self._norms: list[nn.Module] = []
        self._silenced: list[tuple[Any, int, Any]] = []

    def idle(self, parent: nn.Module, *, is_known: bool = False) -> None:
        """Replace the bridge components below `parent` that nobody listens to.

        Args:
            parent: a module.
            is_known: whether nobody listens to anything below it.
        """
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            original = child._modules.get("_original_component")
            if original is None:
                self.idle(child, is_known=is_known)
                continue
            is_idle = is_known or not self._is_heard(child)
            if is_idle:
                self._components.append((parent, name, child))
                parent._modules[name] = original
                if id(child) in self._layers:
                    self.blocks[self._layers[id(child)]] = original
            elif not getattr(child, "is_list_item", False):
                continue
            self.idle(original, is_known=is_idle)

    def fuse_attention(self, model: nn.Module, modules: Sequence[nn.Module]) -> None:
        """Let Hugging Face's modules use fused attention, unless a bridged one is left."""
        from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

        self._configs = _configs(modules)
        if not getattr(model, "_supports_sdpa", False) or any(
            isinstance(module, AttentionBridge) for module in modules
        ):
            return
        # Fused attention has no place for a cap on its scores and would leave it out.
        if any(getattr(one, "attn_logit_softcapping", None) for one in self._configs):
            return
        for config in self._configs:
            if config._attn_implementation == "eager":
                self._eager.append((config, getattr(config, "output_attentions", False)))
                config._attn_implementation = "sdpa"
                config.output_attentions = False  # the bridge asks for them; fused there are none

    def fuse_norms(self, modules: Sequence[nn.Module]) -> None:
        """Let Hugging Face's RMS norms run as one operation."""
        for module in modules:
            if (forward := fused_forward(module)) is not None:
                vars(module)["forward"] = forward
                self._norms.append(module)

    def silence(self, modules: Sequence[nn.Module]) -> None:
        """Take off the hooks by which Hugging Face hands out what no caller here asks for.

        They make every call of a module take the long way round.
        """
        if any(getattr(one, name, False) for one in self._configs for name in ASKED_BY_CONFIG):
            return
        for module in modules:
            hooks: Any = module._forward_hooks  # declared without the order that it has
            for key, hook in list(hooks.items()) if hooks else ():
                if getattr(hook, "__module__", None) == OUTPUT_HOOKS:
                    self._silenced.append((hooks, key, hooks.pop(key)))

    def is_heard_among(self, modules: Sequence[nn.Module]) -> bool:
        """Whether a bridged component is left, or anybody listens to a module that never was."""
        return any(
            "_original_component" in module._modules or self._has_hooks(module)
            for module in modules
        )

    def undo(self) -> None:
        """Put everything back."""
        for hooks, key, hook in reversed(self._silenced):
            hooks[key] = hook
            hooks.move_to_end(key, last=False)
        for norm in self._norms:
            del vars(norm)["forward"]
        for config, gives_attentions in self._eager:
            config._attn_implementation = "eager"
            config.output_attentions = gives_attentions
        for parent, name, component in reversed(self._components):
            parent._modules[name] = component

    def _is_heard(self, module: nn.Module) -> bool:
        """Whether a hook of any kind, but for ours, sits on the module or below it."""
        heard = self._heard.get(id(module))
        if heard is None:
            self._heard[id(module)] = False  # for whatever leads back here
            heard = self._has_hooks(module)
            for child in module._modules.values():
                if child is not None and self._is_heard(child):
                    heard = True
            self._heard[id(module)] = heard
        return heard

    def _has_hooks(self, module: nn.Module) -> bool:
        own = vars(module)  # a bridge's and PyTorch's own look-up take ten times as long
        for name in HOOK_LISTS:
            if (handles := own.get(name)) and any(id(one) not in self._ours for one in handles):
                return True
        for name in HOOK_TABLES:
            if (hooks := own[name]) and any(map(_observes, hooks.values())):
                return True
        return False


def _modules(model: nn.Module) -> list[nn.Module]:
    """Return a model's modules, each once."""
    found = {id(model): model}
    waiting = [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return list(found.values())


def _observes(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).split(".")[0] not in OWN_HOOKS


def _configs(modules: Sequence[nn.Module]) -> list[Any]:
    """Return the Hugging Face configs that tell modules which attention to use, each once."""
    found = {id(config): config for one in modules if (config := vars(one).get("config"))}
    return [config for config in found.values() if hasattr(config, "_attn_implementation")]
