"""A forward call whose batch widens between blocks, for rows that share the lower ones.

The model is called with the batch of the first stage (`prefix_sharing`). Where a stage ends, every
row of the next takes a copy of the residual stream of the row that it shared; what the model hands
to all blocks alike (mask, position ids, rotary angles) is widened on the way into each block.
Attention then appends to a cache layer exactly the rows that its stage has.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_steer.prefix_sharing import PrefixSharing
from interp_steer.resid_taps import ResidTap
from interp_steer.tokens import TokenChunk


class WideningBatch:
    """The batches of one call, stage by stage.

    Args:
        sharing: who shares what; it may change between forward calls.
        taps: every block, as it will be called.
    """

    def __init__(self, sharing: PrefixSharing, *, taps: Sequence[ResidTap]) -> None:
        self.sharing = sharing
        self._taps = taps
        self._chunk: TokenChunk | None = None
        self._chunks: dict[int, TokenChunk] = {}
        self._indices: dict[tuple[str, int], Tensor] = {}
        self._widened: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._rows: dict[int, tuple[np.ndarray, Tensor, Tensor]] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Widen the batch in every forward call of the block; ahead of all hooks of a layer."""
        with ExitStack() as stack:
            for stage in range(1, len(self.sharing.stages)):
                tap = self._taps[self.sharing.stages[stage].first_block - 1]
                stack.callback(tap.add(self._widen_resid(stage), first=True))
                for block in self.sharing.blocks(stage):
                    handle = self._taps[block].block.register_forward_pre_hook(
                        self._widen_inputs(stage), with_kwargs=True
                    )
                    stack.callback(handle.remove)
            yield

    def begin(self, chunk: TokenChunk) -> TokenChunk:
        """Take the chunk of all rows; return that of the first stage."""
        self._chunk = chunk
        self._chunks.clear()
        self._indices.clear()
        self._widened.clear()
        return self._of_stage(0)

    def after(self, layer: int) -> TokenChunk:
        """Return the chunk of the batch that leaves block `layer`."""
        return self._of_stage(self.sharing.before(layer + 1))

    def first(self, values: Int[Tensor, "row pos"]) -> Int[Tensor, "place pos"]:
        """Return the first stage's part of what is known of all rows."""
        stage = self.sharing.stages[0]
        if stage.is_plain:
            return values
        return values.index_select(0, self._index("rows", 0, stage.rows, values.device))

    def spread(
        self, logits: Float[Tensor, "place pos d_vocab"]
    ) -> Float[Tensor, "row pos d_vocab"]:
        """Return for every row what left the last stage at its place."""
        last = len(self.sharing.stages) - 1
        stage = self.sharing.stages[last]
        if stage.is_plain:
            return logits
        return logits.index_select(0, self._index("place", last, stage.place, logits.device))

    def _of_stage(self, index: int) -> TokenChunk:
        whole, stage = self._chunk, self.sharing.stages[index]
        if whole is None:
            raise RuntimeError("a batch is widened before a forward call has begun")
        if stage.is_plain:
            return whole
        if index not in self._chunks:
            at = self._index("rows", index, stage.rows, whole.rows.device)
            taken = whole.take(at)
            rows = self._known_rows(index, whole.rows, taken.rows)
            self._chunks[index] = replace(taken, rows=rows)
        return self._chunks[index]

    def _known_rows(
        self, index: int, live: Int[Tensor, "row"], rows: Int[Tensor, "place"]
    ) -> Int[Tensor, "place"]:
        """Return the tensor of the call before if it says the same: hooks know it by identity."""
        places = self.sharing.stages[index].rows
        before = self._rows.get(index)
        if before is None or before[1] is not live or not np.array_equal(before[0], places):
            before = self._rows[index] = (places, live, rows)
        return before[2]

    def _widen_resid(self, stage: int) -> Callable[..., Tensor | None]:
        def widen(resid: Tensor, **_hook_point: Any) -> Tensor | None:
            source = self.sharing.widening(stage)
            if _is_identity(source, len(self.sharing.stages[stage - 1].rows)):
                return None
            return resid.index_select(0, self._index("resid", stage, source, resid.device))

        return widen

    def _widen_inputs(self, stage: int) -> Callable[..., tuple[Any, Any] | None]:
        def widen(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
            source = self.sharing.from_outside(stage)
            n_outside = len(self.sharing.stages[0].rows)
            if _is_identity(source, n_outside):
                return None

            def widened(value: Any) -> Any:
                if isinstance(value, Tensor):
                    return self._widened_input(value, stage, source, n_outside)
                if isinstance(value, tuple):
                    return tuple(map(widened, value))
                return value

            taken = {
                name: value if name == "hidden_states" else widened(value)
                for name, value in kwargs.items()
            }
            return (*args[:1], *map(widened, args[1:])), taken

        return widen

    def _widened_input(
        self, value: Tensor, stage: int, source: np.ndarray, n_outside: int
    ) -> Tensor:
        if value.ndim < 2 or value.shape[0] != n_outside:  # one axis is positions, never rows
            return value
        known = self._widened.get((stage, id(value)))
        if known is None or known[0] is not value:
            at = self._index("outside", stage, source, value.device)
            known = self._widened[stage, id(value)] = (value, value.index_select(0, at))
        return known[1]

    def _index(self, what: str, stage: int, values: np.ndarray, device: torch.device) -> Tensor:
        """Return an index of this call as a tensor on `device`."""
        known = self._indices.get((what, stage))
        if known is None or known.device != device:
            known = torch.from_numpy(np.ascontiguousarray(values)).to(device)
            self._indices[what, stage] = known
        return known


def _is_identity(source: np.ndarray, n_before: int) -> bool:
    return len(source) == n_before and bool((source == np.arange(n_before)).all())
