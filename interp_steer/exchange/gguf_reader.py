"""Reading the part of GGUF that a control vector needs, strictly and in bounded time.

A file from elsewhere is untrusted: a count of 2^60 entries in its header must not keep a reader
busy. Every number read here moves a cursor through the file's own bytes, and what would leave them
is refused. The layout is that of versions 2 and 3, little-endian: header, key-values, tensor
descriptions, then the data on aligned offsets.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.input_files import read_input

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_FLOATS = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
_LARGEST = 1 << 30
_MAX_NAME = 1 << 16

Value = int | float | bool | str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GgufContent:
    """What a file holds."""

    fields: dict[str, Value]
    """Scalars and strings by key; an array is None."""
    tensors: dict[str, Float[Tensor, "..."]]
    """Float tensors by name, float32."""


@dataclass(slots=True)
class _Cursor:
    """A place in the bytes of a file."""

    data: bytes
    at: int = 0

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise SteeringError(
                f"expected {size} more bytes at {self.at}, got {len(self.data) - self.at}: the "
                "file is cut short or no GGUF file"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def scalar(self, code: str) -> int | float | bool:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return value

    def count(self, code: str = "Q") -> int:
        return int(self.scalar(code))

    def text(self) -> str:
        return self.take(self.count()).decode("utf-8", errors="replace")


def read_gguf(path: Path) -> GgufContent:
    """Read a GGUF file of float tensors.

    Raises:
        SteeringError: it is cut short, larger than 1 GiB, no GGUF file of version 2 or 3
            (little-endian), or has tensors that are not float32 or float16.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise SteeringError(f"expected a control vector under 1 GiB, got {path}")
        cursor = _Cursor(read_input(path))
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise SteeringError(f"cannot read {path}: {error}") from error
    if cursor.take(4) != b"GGUF":
        raise SteeringError("expected a file that starts with GGUF, got another kind of file")
    if (version := cursor.count("I")) not in (2, 3):
        raise SteeringError(
            f"expected GGUF version 2 or 3, little-endian, got {version}; write it again with a "
            "current gguf"
        )
    n_tensors, n_fields = cursor.count(), cursor.count()
    fields: dict[str, Value] = {}
    for _ in range(n_fields):  # each takes at least 13 bytes, so the file bounds the loop
        key = cursor.text()
        fields[key] = _value(cursor, cursor.count("I"))
    described = [_description(cursor) for _ in range(_bounded(n_tensors, cursor))]
    return GgufContent(fields=fields, tensors=_tensors(cursor, fields, described))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


def _bounded(count: int, cursor: _Cursor) -> int:
    """Refuse a count that the rest of the file cannot hold."""
    if count * 24 > len(cursor.data) - cursor.at:
        raise SteeringError(f"expected room for {count} tensors, got a shorter file")
    return count


def _value(cursor: _Cursor, kind: int) -> Value:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        return _skip_array(cursor)
    if kind not in _SCALARS:
        raise SteeringError(f"expected a GGUF value type from 0 to 12, got {kind}")
    return cursor.scalar(_SCALARS[kind])


def _skip_array(cursor: _Cursor) -> None:
    kind, length = cursor.count("I"), cursor.count()
    if kind in _SCALARS:
        cursor.take(length * struct.calcsize(f"<{_SCALARS[kind]}"))
    elif kind == _STRING:
        for _ in range(length):  # each takes at least 8 bytes
            cursor.take(cursor.count())
    else:
        raise SteeringError(f"expected a GGUF array of scalars or strings, got type {kind}")


def _description(cursor: _Cursor) -> _Description:
    name = cursor.text()
    n_dims = cursor.count("I")
    if n_dims > 4 or len(name) > _MAX_NAME:
        raise SteeringError(f"expected tensors of at most 4 axes, got {n_dims} at {name[:40]!r}")
    shape = tuple(cursor.count() for _ in range(n_dims))
    kind, offset = cursor.count("I"), cursor.count()
    if kind not in _FLOATS:
        raise SteeringError(
            f"expected float32 or float16 at {name[:40]!r}, got GGUF tensor type {kind}; control "
            "vectors are not quantised"
        )
    return _Description(name=name, shape=shape, dtype=_FLOATS[kind], offset=offset)


def _tensors(
    cursor: _Cursor, fields: dict[str, Value], described: list[_Description]
) -> dict[str, Float[Tensor, "..."]]:
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise SteeringError(f"expected general.alignment as a small number, got {alignment!r:.40}")
    base = -(-cursor.at // alignment) * alignment
    found: dict[str, Tensor] = {}
    taken = 0
    for one in described:
        size = one.dtype.itemsize
        for axis in one.shape:
            size *= axis
        cursor.at = base + one.offset
        values = np.frombuffer(cursor.take(size), dtype=one.dtype)
        taken += size
        if taken > len(cursor.data):  # many names for the same bytes would fill the memory
            raise SteeringError("expected tensors that do not overlap, got more than the file has")
        if one.name in found:
            raise SteeringError(f"expected each tensor once, got {one.name[:40]!r} twice")
        wide = torch.from_numpy(values.astype(np.float32))
        found[one.name] = wide.reshape(tuple(reversed(one.shape)))
    return found
