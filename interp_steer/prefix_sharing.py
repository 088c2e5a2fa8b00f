"""Which rows of a call go through which blocks together.

A sweep asks one prompt many times, with equal random numbers, and edits a row at one layer. What
enters and leaves the blocks up to that layer depends on the row's tokens alone: rows with equal
tokens so far may go through them as one, with one entry of the key-value cache, until a token or an
edit tells them apart. Here is the bookkeeping of that: small integer arrays, on the CPU, that say
for every run of blocks which rows stand for which. Nothing here knows a model; `forwarding` widens
the batch between blocks, `live_rows` moves the cache.

A row keeps to its own from the block after the first hook that looks at it, so that every hook
meets each of its rows exactly once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(slots=True, eq=False)
class Stage:
    """Consecutive blocks that one batch goes through."""

    first_block: int
    """Zero-based; `n_layers` for what follows the last block."""
    is_own: Bool[np.ndarray, "row"]
    """Rows that share nothing here."""
    place: Int[np.ndarray, "row"]
    """Place of every live row in the batch of these blocks."""
    rows: Int[np.ndarray, "place"]
    """A live row of each place, one that is still open wherever there is one."""

    @classmethod
    def of(
        cls, first_block: int, keys: Int[np.ndarray, "row"], is_own: Bool[np.ndarray, "row"]
    ) -> "Stage":
        """Put rows with equal keys, all that do not keep to their own, in one place."""
        place, rows = _numbered(_apart(keys, is_own))
        return cls(first_block=first_block, is_own=is_own, place=place, rows=rows)

    @property
    def is_plain(self) -> bool:
        """Whether place and row are the same thing."""
        return len(self.rows) == len(self.place) and bool(
            (self.place == np.arange(len(self.place))).all()
        )

    def part(self, is_own: Bool[np.ndarray, "row"]) -> Int[np.ndarray, "place"]:
        """Let more rows keep to their own; return the former place of each new one."""
        before = self.place
        self.is_own = self.is_own | is_own
        self.place, self.rows = _numbered(_apart(before, self.is_own))
        return before[self.rows]

    def split(
        self, token_ids: Int[np.ndarray, "row"], is_open: Bool[np.ndarray, "row"]
    ) -> Int[np.ndarray, "added"]:
        """Part rows of one place that go on with different tokens.

        The rows of one of these tokens stay; the others get places behind all present ones.

        Args:
            token_ids: the next token of every row.
            is_open: rows that go on; a finished one stays where it is and asks for nothing.

        Returns:
            The former place of each added one.
        """
        together = np.flatnonzero(is_open & ~self.is_own)
        if not len(together):
            return together
        keys = self.place[together] * (int(token_ids.max()) + 1) + token_ids[together]
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        former = self.place[together[first]]  # ascending, as the keys are
        is_added = np.append(False, former[1:] == former[:-1])
        now = np.where(is_added, len(self.rows) - 1 + np.cumsum(is_added), former)
        self.place[together] = now[which]
        added = former[is_added]
        rows = np.append(self.rows, np.empty_like(added))
        rows[now] = together[first]
        self.rows = rows
        return added

    def keep(self, kept: Int[np.ndarray, "kept"]) -> Int[np.ndarray, "place"] | None:
        """Let go of all other rows; return the places that remain, None if all do."""
        n_before = len(self.rows)
        remaining, self.rows, self.place = np.unique(
            self.place[kept], return_index=True, return_inverse=True
        )
        self.is_own = self.is_own[kept]
        return None if len(remaining) == n_before else remaining


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMove:
    """What becomes of the cache rows of some blocks."""

    blocks: range
    """Zero-based."""
    n_kept: int
    """Rows that stay where they are, ahead of the copies."""
    sources: Int[np.ndarray, "copied"]
    """Former places of the rows that follow."""


class PrefixSharing:
    """The stages of a call, from the first block to what follows the last.

    Args:
        keys: equal for rows with equal prompts.
        first_in_prompt: layer of the first hook that looks at a row's prompt, n_layers where none
            does.
        first_after: likewise for what follows the prompt.
        n_layers: blocks of the model.
        shares_blocks: False where a batch cannot widen between blocks: then a row that is looked at
            shares nothing.
    """

    def __init__(
        self,
        keys: Int[np.ndarray, "row"],
        *,
        first_in_prompt: Int[np.ndarray, "row"],
        first_after: Int[np.ndarray, "row"],
        n_layers: int,
        shares_blocks: bool = True,
    ) -> None:
        if not shares_blocks:
            first_in_prompt, first_after = (
                np.where(first < n_layers, -1, n_layers) for first in (first_in_prompt, first_after)
            )
        edited = {*first_in_prompt.tolist(), *first_after.tolist()} - {n_layers}
        starts = sorted({0} | {layer + 1 for layer in edited})
        self.n_layers = n_layers
        self._first_after = np.minimum(first_in_prompt, first_after)
        self.stages = [Stage.of(start, keys, first_in_prompt < start) for start in starts]
        self._stage_of_block = np.searchsorted(starts, np.arange(n_layers + 1), side="right") - 1

    def before(self, block: int) -> int:
        """Index of the stage whose batch enters `block`; `n_layers` asks for the last one."""
        return int(self._stage_of_block[block])

    def blocks(self, stage: int) -> range:
        """Blocks of a stage."""
        starts = [one.first_block for one in self.stages] + [self.n_layers]
        return range(starts[stage], min(starts[stage + 1], self.n_layers))

    def widening(self, stage: int) -> Int[np.ndarray, "place"]:
        """Return, for every place of a stage but the first, its place in the stage before."""
        return self.stages[stage - 1].place[self.stages[stage].rows]

    def from_outside(self, stage: int) -> Int[np.ndarray, "place"]:
        """Return, for every place of a stage, its place in the first stage."""
        return self.stages[0].place[self.stages[stage].rows]

    def end_prompt(self) -> Iterator[RowMove]:
        """Part the rows that are looked at from here on."""
        for index, stage in enumerate(self.stages):
            sources = stage.part(self._first_after < stage.first_block)
            yield RowMove(blocks=self.blocks(index), n_kept=0, sources=sources)

    def split(
        self, token_ids: Int[np.ndarray, "row"], is_open: Bool[np.ndarray, "row"]
    ) -> Iterator[RowMove]:
        """Take every row's next token; see `Stage.split`."""
        for index, stage in enumerate(self.stages):
            n_before = len(stage.rows)
            added = stage.split(token_ids, is_open)
            if len(added):
                yield RowMove(blocks=self.blocks(index), n_kept=n_before, sources=added)

    def keep(self, kept: Int[np.ndarray, "kept"]) -> Iterator[RowMove]:
        """Let go of all rows but `kept`."""
        for index, stage in enumerate(self.stages):
            remaining = stage.keep(kept)
            if remaining is not None:
                yield RowMove(blocks=self.blocks(index), n_kept=0, sources=remaining)


def _apart(keys: Int[np.ndarray, "row"], is_own: Bool[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
    """Return keys in which every row of its own has one that no other has."""
    return np.where(is_own, keys.max(initial=0) + 1 + np.arange(len(keys)), keys)


def _numbered(
    keys: Int[np.ndarray, "row"],
) -> tuple[Int[np.ndarray, "row"], Int[np.ndarray, "place"]]:
    """Return keys numbered in the order of their first rows, and these rows."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    order = np.argsort(first)
    rank[order] = np.arange(len(first))
    return rank[which], first[order]
