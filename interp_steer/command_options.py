"""What every command of the command line takes and raises."""

from dataclasses import dataclass


class UsageError(Exception):
    """Options that contradict one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Options of every command."""

    traceback: bool = False
    """Show the traceback of an error."""
    quiet: bool = False
    """No narration on stderr but warnings and errors."""
