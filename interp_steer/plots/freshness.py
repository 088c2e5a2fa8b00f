"""What has changed in a run: stamps of its artifacts, and values kept for as long as those hold.

An open page follows a run that is being written. Reading everything again at each new shard would
cost seconds, so what was read is kept beside the stamp (time, size, inode) that the artifact had
*before* it was read: what is written in between is read once too often and never missed. A stamp
says that a file was not replaced, not what is in it.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from interp_steer.runs import Run

Stamp = tuple[int, int, int]
"""Modification time in nanoseconds, size in bytes, inode."""
Stamps = Mapping[str, Stamp]
"""By the artifact's place in the run, e.g. sweep/part-00003.parquet."""

_SUFFIXES = (".json", ".parquet", ".safetensors")

MOST_RECENT = {"trace": 512}
"""Parts of artifacts that are kept at once, by kind: traces of samples are small."""
MOST_OTHERS = 32
"""The same for other kinds, such as the projections of a layer."""

T = TypeVar("T")


def stamps_of(run: Run) -> dict[str, Stamp]:
    """The stamp of every artifact of a run: its own files, and those of sweep, traces and analyses.

    Files that a writer is still at (hidden until they are whole) are none.
    """
    folders = (run.path, run.sweep_folder, run.traces_folder, run.analyses_folder)
    return {place: stamp for folder in folders for place, stamp in _stamps_in(run.path, folder)}


def fingerprint(run: Run) -> str:
    """Changes whenever an artifact of the run appears, goes or is written anew.

    A few milliseconds even for thousands of shards; no file is opened.
    """
    return digest_of(stamps_of(run))


def digest_of(stamps: Stamps) -> str:
    """The stamps as one short text."""
    return hashlib.blake2b(repr(sorted(stamps.items())).encode(), digest_size=16).hexdigest()


def _stamps_in(run_path: Path, folder: Path) -> Iterator[tuple[str, Stamp]]:
    prefix = "" if folder == run_path else f"{folder.name}/"
    # What vanishes while it is looked at is not there.
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIXES) and not entry.name.startswith("."):
                with suppress(OSError):  # nor is a link that leads nowhere
                    found = entry.stat()
                    yield prefix + entry.name, (found.st_mtime_ns, found.st_size, found.st_ino)


class Kept:
    """Values by name, each with the stamp of what it was made from; safe to share among threads."""

    def __init__(self, *, most: int | None = None) -> None:
        """Keep at most `most` values, those used last; None keeps all."""
        self._most = most
        self._values: OrderedDict[Hashable, tuple[Hashable, object]] = OrderedDict()
        self._making: dict[Hashable, threading.RLock] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: Hashable, stamp: Hashable, make: Callable[[], T]) -> T:
        """The value of `name`; made where it is not kept, or was made from something else.

        Whoever asks for a value while another thread makes it waits for that one. What `make`
        raises is raised, and nothing is kept.
        """
        with self._lock:
            making = self._making.setdefault(name, threading.RLock())
        with making:
            with self._lock:
                known = self._values.get(name)
                if known is not None and known[0] == stamp:
                    self._values.move_to_end(name)
                    return known[1]  # pyright: ignore[reportReturnType]
            value = make()
            with self._lock:
                self._values[name] = (stamp, value)
                self._values.move_to_end(name)
                while self._most is not None and len(self._values) > self._most:
                    old, _ = self._values.popitem(last=False)
                    self._making.pop(old, None)
        return value


class Snapshot:
    """A run as it was at one moment, and what has been read of it since.

    Values are kept for the stamps of that moment; the next snapshot of the run takes over those
    whose artifacts are as they were.
    """

    def __init__(self, run: Run, *, before: "Snapshot | None" = None) -> None:
        """Take the stamps of now.

        Args:
            run: the run.
            before: an earlier snapshot of it, whose values are used where they still hold.
        """
        self.run = run
        self._stamps = stamps_of(run)
        self._kept = Kept() if before is None else before._kept
        self._recent: dict[str, Kept] = {} if before is None else before._recent

    @property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return digest_of(self._stamps)

    def keep(self, name: Hashable, of: Sequence[Path], make: Callable[[], T]) -> T:
        """The value of `name`, made from the artifacts `of`: files of the run, or its folders."""
        return self._kept.get(name, self._stamp(of), make)

    def keep_recent(
        self, name: tuple[str, *tuple[Hashable, ...]], of: Sequence[Path], make: Callable[[], T]
    ) -> T:
        """The same for values of which there may be many: of each kind those used last are kept.

        Args:
            name: the kind, and what tells the values of a kind apart.
            of: see `keep`.
            make: see `keep`.
        """
        kind = name[0]
        kept = self._recent.setdefault(kind, Kept(most=MOST_RECENT.get(kind, MOST_OTHERS)))
        return kept.get(name, self._stamp(of), make)

    def _stamp(self, of: Sequence[Path]) -> Hashable:
        return tuple(self._stamp_of(path.relative_to(self.run.path).as_posix()) for path in of)

    def _stamp_of(self, place: str) -> Hashable:
        if place in self._stamps:
            return self._stamps[place]
        inside = f"{place}/"
        return tuple(entry for entry in self._stamps.items() if entry[0].startswith(inside))
