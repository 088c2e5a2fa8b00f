"""Bypassing the bridge's components that nobody listens to.

A `TransformerBridge` puts a hook point around every projection, norm and attention score, and
recomputes attention and norms in Python so that they can fire; on a small model that costs about
40 % of a decoding step. Where no hook listens inside a block the Hugging Face modules that it wraps
do the work. Blocks themselves stay bridged, so resid_post fires as always, and a component with any
hook of the caller's stays too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

BRIDGE_FORKS = ("use_attn_in", "use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")


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
