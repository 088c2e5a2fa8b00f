"""Who runs the packs of a sweep: this process, or workers elsewhere behind the same protocol.

An engine gets packs that do not depend on one another and hands back their rows in any order; what
is written, resumed and refused is the sweep's business, in one process.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import pyarrow as pa

from interp_steer.packs import Pack, PackWorker


@runtime_checkable
class Engine(Protocol):
    """Anything that turns packs into rows."""

    def run(self, packs: Iterable[Pack]) -> Iterator[pa.Table]:
        """Yield the rows of each pack as one table, each pack exactly once, in any order."""
        ...


class LocalEngine:
    """Runs packs one after another in this process."""

    def __init__(self, worker: PackWorker) -> None:
        self.worker = worker

    def run(self, packs: Iterable[Pack]) -> Iterator[pa.Table]:
        """Yield the rows of each pack, in order."""
        for pack in packs:
            yield self.worker.run(pack)
