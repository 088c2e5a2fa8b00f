"""Samples of the same rows: folds, subsets, bootstraps, and all rows under other labels.

A sample says how often each row is drawn and which side it is on. A row drawn k times is k rows to
whoever fits it, at the cost of one. How samples are drawn is up to the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from interp_steer.errors import ProbeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """Samples of the same rows, each with labels of its own.

    The rows 0 and 2, and three draws that brought row 2 twice:

    Examples:
        >>> counts = np.array([[1, 0, 1], [0, 1, 2]])
        >>> samples = Resamples(counts=counts, is_aligned=np.array([[True, True, False]] * 2))
        >>> samples.drawn(1).tolist()
        [1, 2, 2]
    """

    counts: Int[np.ndarray, "sample row"]
    """How often each row is drawn; 0 leaves it out."""
    is_aligned: Bool[np.ndarray, "sample row"]
    """Label of each row; that of a row that is left out means nothing."""

    @classmethod
    def subsets(
        cls, kept: Bool[np.ndarray, "sample row"], is_aligned: Bool[np.ndarray, "*sample row"]
    ) -> "Resamples":
        """Some of the rows, each once, with the same labels in every sample or with its own."""
        labels = np.broadcast_to(is_aligned, kept.shape)
        return cls(counts=kept.astype(np.int64), is_aligned=labels)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.counts)

    def only(self, kept: Bool[np.ndarray, "sample"]) -> "Resamples":
        """Some of the samples."""
        return Resamples(counts=self.counts[kept], is_aligned=self.is_aligned[kept])

    def drawn(self, sample: int) -> Int[np.ndarray, "draw"]:
        """The rows of one sample, repeated as often as they were drawn."""
        return np.repeat(np.arange(self.counts.shape[1]), self.counts[sample])

    def labels(self, sample: int) -> Bool[np.ndarray, "draw"]:
        """The label of each of `drawn`."""
        return self.is_aligned[sample, self.drawn(sample)]

    def one_sided(self) -> Bool[np.ndarray, "sample"]:
        """Which samples lack one of the labels."""
        above = np.where(self.is_aligned, self.counts, 0).sum(axis=1)
        return (above == 0) | (above == self.counts.sum(axis=1))

    def check_sides(self) -> None:
        """Refuse samples that lack one of the labels.

        Raises:
            ProbeError: there are some.
        """
        if (bad := np.flatnonzero(self.one_sided())).size:
            raise ProbeError(
                f"a fit needs rows of both sides, but sample {bad[0]} has rows of one side alone "
                f"({bad.size} such of {len(self)}); leave those out"
            )


def joined(resamples: Sequence[Resamples]) -> Resamples:
    """One after the other, so that all are fitted together."""
    return Resamples(
        counts=np.concatenate([one.counts for one in resamples]),
        is_aligned=np.concatenate([one.is_aligned for one in resamples]),
    )
