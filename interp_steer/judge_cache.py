"""Answers of judges that were paid for, kept on disk across runs, kills and processes.

Every process appends to a file of its own (JSON, one answer a line), each line in one write, and
reads the files of all others: no lock is needed, so that it works on a network file system, where a
database's locks often do not. A process killed in the middle of a write leaves half a line, which
readers skip; nothing that was answered before is lost, and no answer is counted twice. The price is
that two processes which ask the same question within seconds may both pay for it.
"""

import errno
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from interp_steer.errors import JudgeError
from interp_steer.input_files import parse_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """What a judge said to one question."""

    attempt: int
    """0 for the first answer to the question, 1 for that to the one retry."""
    text: str
    """The answer, as it came."""
    finish_reason: str
    """Why it ended there."""
    prompt_tokens: int
    """Tokens read."""
    completion_tokens: int
    """Tokens made."""


class AnswerCache:
    """Answers by key; on disk where there is a folder."""

    def __init__(self, folder: Path | None) -> None:
        """Read what is there.

        Args:
            folder: made when something is added; None keeps everything in memory.

        Raises:
            JudgeError: the folder cannot be read.
        """
        self.folder = folder
        self._known: dict[str, dict[int, StoredAnswer]] = {}
        self._read_to: dict[Path, int] = {}
        self._own_path: Path | None = None
        self._own: BinaryIO | None = None
        self.refresh()

    def __len__(self) -> int:
        """How many answers are known."""
        return sum(len(answers) for answers in self._known.values())

    def answers(self, key: str) -> list[StoredAnswer]:
        """The answers to one question, in the order of attempts."""
        known = self._known.get(key, {})
        return [known[attempt] for attempt in sorted(known)]

    def add(self, key: str, answer: StoredAnswer) -> None:
        """Keep an answer; it survives this process from here on.

        Raises:
            JudgeError: it cannot be written.
        """
        self._known.setdefault(key, {})[answer.attempt] = answer
        if self.folder is None:
            return
        line = json.dumps({"key": key} | asdict(answer), ensure_ascii=True) + "\n"
        try:
            if self._own is None:
                self._own = self._open(self.folder)
            if self._own.write(line.encode("ascii")) < len(line):
                raise OSError(errno.ENOSPC, "no space for a whole line")
        except OSError as error:
            self.close()
            self._own_path = None  # half a line may stand there: nothing may follow it
            raise JudgeError(
                f"cannot keep the judge's answers in {self.folder}: {error.strerror}; make room, "
                "or give another `cache` in --judge-config, and run the same command again"
            ) from error

    def refresh(self) -> None:
        """Read what other processes have added.

        Raises:
            JudgeError: a file cannot be read.
        """
        if self.folder is None:
            return
        try:
            for path in sorted(self.folder.glob("*.jsonl")):
                for record in self._new_records(path):
                    key = record.pop("key")
                    answer = StoredAnswer(**record)
                    self._known.setdefault(key, {}).setdefault(answer.attempt, answer)
        except OSError as error:
            raise JudgeError(
                f"cannot read the judge's answers in {self.folder}: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Make what was added survive a power cut, too; the next addition opens the file again."""
        if self._own is not None:
            with self._own as file:
                self._own = None
                os.fsync(file.fileno())

    def _open(self, folder: Path) -> BinaryIO:
        if self._own_path is None:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
            self._own_path = folder / name
            self._read_to[self._own_path] = -1
        return self._own_path.open("ab", buffering=0)

    def _new_records(self, path: Path) -> Iterator[dict[str, Any]]:
        """Whole lines since the last reading; an unfinished last one is left for the next."""
        start = self._read_to.get(path, 0)
        if start < 0 or path.stat().st_size <= start:
            return
        with path.open("rb") as file:
            file.seek(start)
            read = file.read()
        whole = read[: read.rfind(b"\n") + 1]
        self._read_to[path] = start + len(whole)
        for line in whole.splitlines():
            record = _record(line)
            if record is None:
                _log.warning("a damaged line in %s was skipped", path)
            else:
                yield record


_TYPES = {"key": str} | {f.name: f.type for f in fields(StoredAnswer)}


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or set(record) != set(_TYPES):
        return None
    fits = all(type(record[name]) is kind for name, kind in _TYPES.items())
    return record if fits else None
