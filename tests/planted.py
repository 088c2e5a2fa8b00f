"""Torch files with code planted in them, and the proof that they are armed, without running it."""

import os
import zipfile
from pathlib import Path
from pickletools import genops
from typing import Any


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.place),))


def makes_folder(path: Path, place: Path) -> bool:
    """Whether the program in a torch file, taken apart and not run, calls os.mkdir on `place`."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("data.pkl"))
        program = [(op.name, argument) for op, argument, _ in genops(archive.read(name))]
    called = [one for one in program if one[0] != "BINPUT"]  # which only remembers what it made
    wanted = [
        ("GLOBAL", f"{os.mkdir.__module__} mkdir"),
        ("BINUNICODE", str(place)),
        ("TUPLE1", None),
        ("REDUCE", None),
    ]
    return any(called[at : at + 4] == wanted for at in range(len(called)))
