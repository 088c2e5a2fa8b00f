"""What a command tells on stderr while it works, and nothing of it left behind."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = logging.getLogger("interp_steer")


@contextmanager
def narrated(*, quiet: bool = False) -> Iterator[None]:
    """Write the package's log to stderr, a line a message, for the length of a `with` block.

    A program that calls the command line in its own process keeps its own logging: level, handlers
    and propagation are as before once the block is left.

    Args:
        quiet: warnings and errors only.
    """
    if quiet or not sys.stderr.isatty():
        # Read by transformers when it is imported: bars of loading weights are no use in a log.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    before = _LOGGER.handlers[:], _LOGGER.level, _LOGGER.propagate
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(logging.WARNING if quiet else logging.INFO)
    _LOGGER.propagate = False
    try:
        yield
    finally:
        _LOGGER.handlers[:], level, _LOGGER.propagate = before
        _LOGGER.setLevel(level)
