"""Bypassing the bridge's components that nobody listens to.

A `TransformerBridge` puts a hook point around every projection, norm and attention score,
recomputes attention and norms in Python so that they can fire, and so needs eager attention. Where
no hook but ours listens the Hugging Face modules underneath do the work, blocks included: they
compute the same values (they are what the bridge reproduces), and where no attention is listened to
at all they use PyTorch's fused attention, as Hugging Face does by itself. A component with any hook
of the caller's stays bridged, with everything around it that the hook needs.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

BRIDGE_FORKS = ("use_attn_in", "use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")
"""Switches of a bridge's config that reach across components."""

OWN_HOOKS = ("transformer_lens", "transformers")
"""Packages whose own PyTorch hooks observe nothing for the caller: TransformerLens wires one on
every norm for its hook points, Hugging Face one on every block for outputs asked for by name."""


@contextmanager
def bare_components(bridge: Any, *, ours: Collection[Any] = ()) -> Iterator[dict[int, nn.Module]]:
    """Bypass what nobody listens to; restore on any exit.

    Nothing is done in compatibility mode, where the bridge computes something else, nor with one of
    `BRIDGE_FORKS` switched on.

    Args:
        bridge: the `TransformerBridge`.
        ours: handles of hooks behind blocks that the caller runs itself where a block is bypassed.

    Yields:
        The Hugging Face blocks that stand in for bridged ones, by layer.
    """
    if getattr(bridge, "compatibility_mode", False) or any(
        getattr(bridge.cfg, flag, False) for flag in BRIDGE_FORKS
    ):
        yield {}
        return
    swap = _Swap(bridge, ours)
    try:
        swap.idle(bridge.original_model)
        swap.fuse_attention(bridge.original_model)
        yield swap.blocks
    finally:
        swap.undo()


class _Swap:
    """What was replaced, and how to put it back."""

    def __init__(self, bridge: Any, ours: Collection[Any]) -> None:
        self.blocks: dict[int, nn.Module] = {}
        self._layers = {id(block): layer for layer, block in enumerate(bridge.blocks)}
        self._ours = {id(handle) for handle in ours}
        self._components: list[tuple[nn.Module, str, nn.Module]] = []
        self._configs: list[Any] = []

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
            is_idle = is_known or not any(map(self._has_hooks, child.modules()))
            if is_idle:
                self._components.append((parent, name, child))
                parent._modules[name] = original
                if id(child) in self._layers:
                    self.blocks[self._layers[id(child)]] = original
            elif not getattr(child, "is_list_item", False):
                continue
            self.idle(original, is_known=is_idle)

    def fuse_attention(self, model: nn.Module) -> None:
        """Let Hugging Face's modules use fused attention, unless a bridged one is left."""
        from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

        modules = list(model.modules())
        if not getattr(model, "_supports_sdpa", False) or any(
            isinstance(module, AttentionBridge) for module in modules
        ):
            return
        configs = {id(config): config for module in modules if (config := _config_of(module))}
        # Fused attention has no place for a cap on its scores and would leave it out.
        if any(getattr(one, "attn_logit_softcapping", None) for one in configs.values()):
            return
        for config in configs.values():
            if config._attn_implementation == "eager":
                self._configs.append(config)
                config._attn_implementation = "sdpa"

    def undo(self) -> None:
        """Put everything back."""
        for config in self._configs:
            config._attn_implementation = "eager"
        for parent, name, component in reversed(self._components):
            parent._modules[name] = component

    def _has_hooks(self, module: nn.Module) -> bool:
        """Whether a hook of any kind, but for ours, sits on the module."""
        listening = [*getattr(module, "fwd_hooks", ()), *getattr(module, "bwd_hooks", ())]
        if any(id(handle) not in self._ours for handle in listening):
            return True
        tables = (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        return any(_observes(hook) for table in tables if table for hook in table.values())


def _observes(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).split(".")[0] not in OWN_HOOKS


def _config_of(module: nn.Module) -> Any:
    """Return the Hugging Face config that tells a module which attention to use, if any."""
    config = getattr(module, "config", None)
    return config if hasattr(config, "_attn_implementation") else None
