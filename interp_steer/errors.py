"""Exceptions of the library: one base class, one subclass per thing that can be refused.

Every message says what was expected, what arrived and what to do. Catching `InterpSteerError`
catches whatever the library refuses on purpose and nothing else (a bug keeps its own type).
"""


class InterpSteerError(Exception):
    """Base of every error that this library raises on purpose."""


class ScenarioError(InterpSteerError):
    """A scenario file, a scenario or a prompt does not fit."""


class ModelError(InterpSteerError):
    """A model, its tokenizer, a token sequence or a generation setting does not fit."""


class ProbeError(InterpSteerError):
    """Residuals or labels from which no probe can be fitted, or a probe file that does not fit."""


class SteeringError(InterpSteerError):
    """A steering specification that is contradictory or does not fit its probes."""


class RunError(InterpSteerError):
    """A run directory that is locked, damaged, or pinned to something else."""


class JudgeError(InterpSteerError):
    """A judge that could not score, or whose score is not a number from 0 to 100."""
