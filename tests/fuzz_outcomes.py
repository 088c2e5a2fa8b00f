"""What a reader made of a damaged file: read, or refused by name; anything else is a finding."""

import math
import signal
import traceback
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from fuzz_artifacts import Artifact
from interp_steer.errors import InterpSteerError

LONGEST = 10.0
"""Seconds for one read; the slowest takes under one."""
LONGEST_MESSAGE = 3000


class TooLongError(Exception):
    """A read that does not come back."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise TooLongError(f"more than {LONGEST:g} s")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def outcome(artifact: Artifact, path: Path, *, expected: Any = None) -> tuple[str, str | None]:
    """Read a damaged file.

    Args:
        artifact: what it was.
        path: the damaged file.
        expected: `shape_of` what was written, where damage may not change what is read.

    Returns:
        read, refused or raised; and what is wrong with that, None where nothing is.
    """
    folder, content = path.parent, path.read_bytes()
    before = tree(folder)
    was = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        result, wrong = "read", None
        found = artifact.read(path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Older versions wrote no checksums: without their entry there is nothing to compare.
        has_sums = b"interp_steer.sha256" in content
        if expected is not None and has_sums and shape_of(found) != expected:
            wrong = "another value than was written"
    except InterpSteerError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        result, wrong = "refused", _wrong_message(str(error), artifact, path)
    except BaseException as error:  # noqa: BLE001 - every kind is a finding
        signal.setitimer(signal.ITIMER_REAL, 0)
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
        result, wrong = "raised", f"{type(error).__name__}: {str(error)[:160]} at {where}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, was)
    if tree(folder) != before:
        wrong = "reading changed files"
    return result, wrong


def _wrong_message(said: str, artifact: Artifact, path: Path) -> str | None:
    if artifact.has_name and not any(n in said for n in (path.name, path.parent.name, str(path))):
        return f"does not name the file: {said[:300]}"
    if len(said) > LONGEST_MESSAGE:
        return f"a message of {len(said)} characters: {said[:200]}"
    return None


def shape_of(value: Any) -> Any:
    """`value` in tuples and scalars; NaN equals itself."""
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value).__name__, *(shape_of(getattr(value, f.name)) for f in fields(value)))
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return (str(value.dtype), tuple(value.shape), raw.numpy().tobytes())
    if isinstance(value, pa.Table):
        return (str(value.schema), repr(value.to_pydict()))
    if isinstance(value, pd.DataFrame):
        return repr(value.to_dict("list"))
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return tuple((shape_of(k), shape_of(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(shape_of(one) for one in value)
    if isinstance(value, set | frozenset):
        return frozenset(shape_of(one) for one in value)
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return str(value) if isinstance(value, Path) else value
