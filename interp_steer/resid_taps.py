"""Where a hook listens to what leaves a block: at the bridge's hook point, or at the bare block.

A bridged block fires its hook point; one that is bypassed (`bare_components`) has none, and there
the Hugging Face block's `forward` is listened to. PyTorch's own hooks would do the same and make
every call of the block take the long way round, which at small batches costs more than what is
done there.
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
            return _listen(self.block, call, first=first)
        self.point.add_hook(call, prepend=first)
        handle = self.point.fwd_hooks[0 if first else -1]
        return lambda: remove_handle(self.point, handle)


def remove_handle(point: Any, handle: Any) -> None:
    """Take one hook off a bridge's hook point and leave the others."""
    handle.hook.remove()
    point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


class _ListenedForward:
    """What a module has for its `forward` while anybody listens to it."""

    def __init__(self, module: nn.Module) -> None:
        self.calls: list[ResidCall] = []
        self._own = vars(module)
        self._before = self._own.get("forward")
        self._forward = module.forward
        self._own["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module's own gives, edited; it may be a tuple that starts with it."""
        output = self._forward(*args, **kwargs)
        for call in self.calls:
            is_tuple = isinstance(output, tuple)
            edited = call(output[0] if is_tuple else output)
            if edited is not None:
                output = (edited, *output[1:]) if is_tuple else edited
        return output

    def end(self) -> None:
        """Put back what the module had."""
        if self._before is None:
            del self._own["forward"]
        else:
            self._own["forward"] = self._before


def _listen(block: nn.Module, call: ResidCall, *, first: bool) -> Callable[[], None]:
    """Run `call` on what `block` gives; return what ends it."""
    found = vars(block).get("forward")
    listened = found if isinstance(found, _ListenedForward) else _ListenedForward(block)
    listened.calls.insert(0 if first else len(listened.calls), call)

    def end() -> None:
        listened.calls.remove(call)
        if not listened.calls:
            listened.end()

    return end
