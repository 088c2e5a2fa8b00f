"""Torch files, for the two formats that are nothing else: tensors, numbers and strings in dicts.

A torch file is a pickle, which can run code when it is read. Reading is therefore done with
`weights_only=True`, which knows tensors and plain containers and refuses everything else, and only
of the zip form, whose unpacked size is known before anything is unpacked. Nothing of this library
is stored so; lm-evaluation-harness and assistant-axis read no other form.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from interp_steer.errors import SteeringError
from interp_steer.files import atomic_write_bytes

_LARGEST = 4 << 30


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values, all or nothing.

    Raises:
        RunError: the file cannot be written.
    """
    sink = io.BytesIO()
    torch.save(content, sink)
    atomic_write_bytes(path, sink.getvalue())


def read_torch(path: Path) -> dict[str, Any]:
    """Read a dict of tensors and plain values, without running anything of it.

    Raises:
        SteeringError: no such file, no torch file of the zip form, more than 4 GiB, or anything in
            it but tensors and plain containers.
    """
    try:
        if not path.is_file():
            raise OSError("there is no such file")
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise SteeringError(
            f"expected a torch file (the zip form that torch.save writes), got {path} ({error})"
        ) from error
    if size > _LARGEST:
        raise SteeringError(f"expected a torch file under 4 GiB, got {size} bytes in {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no set of errors for a file that it cannot read
        text = str(error).partition("\n")[0]
        raise SteeringError(
            f"cannot read {path} without running code in it ({type(error).__name__}: "
            f"{text[:200]!r}); only tensors, numbers, strings, lists and dicts are read (no numpy "
            "numbers): if you trust the file, load it yourself and save it again as these"
        ) from error
    if not isinstance(content, dict):
        raise SteeringError(f"expected a dict in {path}, got {type(content).__name__}")
    return content
