"""The hooks that are attached behind a model's blocks, and what they look at.

Attaching is a context: on any exit exactly these hooks are gone. Under some hooks rows may share
the run of equal tokens (`prefix_sharing`); only a hook that says which rows it looks at allows it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.names import resid_post
from interp_steer.resid_taps import ResidCall, remove_handle
from interp_steer.tokens import ResidHook

LayerHooks = Mapping[int, ResidHook] | Sequence[tuple[int, ResidHook]]
"""Hooks by layer; a sequence may name a layer several times and runs them in its order."""


@runtime_checkable
class PrefixSharingHook(Protocol):
    """A hook under which rows with equal tokens may run as one as far as it looks at none of them.

    It must say which rows it looks at; a plain function cannot.
    """

    def sharing_prompts(self, n_rows: int) -> AbstractContextManager[Bool[Tensor, "row"]]:
        """Return the context in which prompts are run; it gives the rows looked at in them.

        Args:
            n_rows: sequences of the call. Inside, the hook meets only some of them: all that it
                looks at, and one of each group that shares.
        """
        ...

    def rows_looked_at(self, n_rows: int) -> Bool[Tensor, "row"]:
        """Return the rows that the hook has to meet in the tokens after the prompt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttachedHook:
    """One hook at one layer."""

    layer: int
    """Zero-based."""
    hook: ResidHook
    """As it was given."""
    call: ResidCall
    """What the model calls."""
    handle: Any
    """How the bridge knows it."""


class AttachedHooks:
    """The hooks of one model.

    Args:
        points: the bridge's hook point behind every block.
        wrap: makes of a layer and a hook what the model calls.
    """

    def __init__(
        self, points: Sequence[Any], *, wrap: Callable[[int, ResidHook], ResidCall]
    ) -> None:
        self.points = points
        self._wrap = wrap
        self._attached: list[AttachedHook] = []

    def __iter__(self) -> Iterator[AttachedHook]:
        """In the order in which they were attached."""
        return iter(self._attached)

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
        if not 0 <= layer < len(self.points):
            raise ModelError(
                f"layer must be 0..{len(self.points) - 1} (zero-based) for this model, got {layer}"
            )

    @contextmanager
    def _attached_one(self, layer: int, hook: ResidHook) -> Iterator[None]:
        point = self.points[layer]
        call = self._wrap(layer, hook)
        point.add_hook(call)
        attached = AttachedHook(layer=layer, hook=hook, call=call, handle=point.fwd_hooks[-1])
        self._attached.append(attached)
        try:
            yield
        finally:
            # By identity: one hook may serve several layers, and the caller may have added or
            # removed hooks of their own meanwhile.
            self._attached.remove(attached)
            remove_handle(point, attached.handle)

    def last(self) -> AttachedHook | None:
        """Return the hook that a forward pass calls last; None without any."""
        return max(reversed(self._attached), key=lambda one: one.layer, default=None)

    @property
    def reads_last_token(self) -> bool:
        """True inside `attached`, when a hook wants tokens whose logits nobody needs.

        A hook that only edits may say so by an attribute `edits_only = True`.
        """
        return not all(getattr(one.hook, "edits_only", False) for one in self._attached)

    @contextmanager
    def sharing_prompts(self, n_rows: int) -> Iterator[Int[np.ndarray, "row"]]:
        """Context for running prompts that rows share.

        Args:
            n_rows: sequences of the call.

        Yields:
            Layer of the first hook that looks at each row's prompt; n_layers where none does.

        Raises:
            ModelError: a hook is attached that cannot say which rows it looks at.
        """
        with ExitStack() as stack:
            looked_at = [
                (layer, stack.enter_context(hook.sharing_prompts(n_rows)))
                for layer, hook in self._sharing_hooks()
            ]
            yield self._first_layers(looked_at, n_rows)

    def first_looked_at(self, n_rows: int) -> Int[np.ndarray, "row"]:
        """Return the layer of the first hook that looks at each row after its prompt.

        Raises:
            ModelError: see `sharing_prompts`.
        """
        looked_at = [(layer, hook.rows_looked_at(n_rows)) for layer, hook in self._sharing_hooks()]
        return self._first_layers(looked_at, n_rows)

    def _sharing_hooks(self) -> Iterator[tuple[int, PrefixSharingHook]]:
        for layer, hook in ((one.layer, one.hook) for one in self._attached):
            if not isinstance(hook, PrefixSharingHook):
                raise ModelError(
                    "share_prefixes needs hooks that say which rows they look at, those of a "
                    "SteeringPlan for instance; the attached "
                    f"{getattr(hook, '__name__', type(hook).__name__)} does not. Leave "
                    "share_prefixes out, or give the hook the methods of PrefixSharingHook"
                )
            yield layer, hook

    def _first_layers(
        self, looked_at: Sequence[tuple[int, Bool[Tensor, "row"]]], n_rows: int
    ) -> Int[np.ndarray, "row"]:
        first = np.full(n_rows, len(self.points))
        for layer, rows in looked_at:
            first = np.where(rows.cpu().numpy(), np.minimum(first, layer), first)
        return first


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
