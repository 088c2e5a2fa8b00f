"""Where a hook listens to what leaves a block: at the bridge's hook point, or at the bare block.

A bridged block fires its hook point; one that is bypassed (`bare_components`) has none, and there a
PyTorch hook on the Hugging Face block does the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

ResidCall = Callable[..., Tensor | None]
"""Takes a residual stream, returns its replacement or None for unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidTap:
    """One block as the forward pass to come calls it."""

    block: nn.Module
    """The module that is called."""
    point: Any
    """The bridge's hook point behind it; silent where the block is bare."""
    is_bare: bool
    """Whether the block is Hugging Face's own."""

    def add(self, call: ResidCall, *, first: bool = False) -> Callable[[], None]:
        """Run `call` on what leaves the block, behind other hooks or ahead of them.

        Returns:
            What removes it.
        """
        if self.is_bare:
            handle = self.block.register_forward_hook(_on_output(call), prepend=first)
            return handle.remove
        self.point.add_hook(call, prepend=first)
        handle = self.point.fwd_hooks[0 if first else -1]
        return lambda: remove_handle(self.point, handle)


def remove_handle(point: Any, handle: Any) -> None:
    """Take one hook off a bridge's hook point and leave the others."""
    handle.hook.remove()
    point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


def _on_output(call: ResidCall) -> Callable[..., Any]:
    """Return `call` as a hook on a block, whose output may be a tuple that starts with it."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return call(output)
        edited = call(output[0])
        return None if edited is None else (edited, *output[1:])

    return hook
