"""Bytes and JSON that others wrote: whatever is wrong with them is an OSError or a ValueError.

A path may name a device that never ends, a text may open more brackets than Python can follow.
Readers catch two kinds of errors and put the file's name and what to do into their own; what the
values mean is theirs to check.
"""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_NESTED = 100
"""Objects and lists within one another; the deepest file of this library has 6."""


def read_input(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file or a pipe.

    Raises:
        OSError: it cannot be read, is neither of the two, or its name cannot be that of a file.
    """
    try:
        mode = Path(path).stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            kind = "a directory" if stat.S_ISDIR(mode) else "a device"
            raise OSError(errno.EINVAL, f"it is {kind}, not a file")
        return Path(path).read_bytes()
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, f"no file has such a name ({error})") from error


def parse_json(
    text: str | bytes,
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested more than `MOST_NESTED` deep.
    """
    try:
        value = json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        value = None
    else:
        if not is_too_deep(value):
            return value
    raise ValueError(f"a deeply nested value (more than {MOST_NESTED} lists and objects)")


def is_too_deep(value: Any) -> bool:
    """Whether a parsed value is nested more than `MOST_NESTED` deep."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MOST_NESTED):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, dict | list)
        ]
        if not level:
            return False
    return True
