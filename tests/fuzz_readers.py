"""Damage every artifact many times and read it, as users do: without run-time type checks.

    python tests/fuzz_readers.py SEED SECONDS [NAME ...]

A process of its own: its memory is limited, and what is annotated is not checked. Prints one JSON
object: how often each artifact was read and refused, and what was wrong, with an example of each.
"""

import json
import logging
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from fuzz_artifacts import RUN_FILES
from fuzz_damage import damaged
from fuzz_foreign import FOREIGN_FILES
from fuzz_outcomes import outcome, shape_of

ROOM = 3 << 30
"""Bytes of address space beyond what the imports took."""


def main(seed: str, seconds: str, *names: str) -> None:
    """Go round the artifacts until the time is up."""
    warnings.simplefilter("error")
    logging.disable()
    torch.set_num_threads(1)
    every = {**RUN_FILES, **FOREIGN_FILES}
    rng, counts, findings = random.Random(int(seed)), Counter(), Counter()
    examples: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        prepared = {}
        for place, name in enumerate(names or every):
            folder = Path(scratch) / str(place)
            folder.mkdir()
            path = every[name].write(folder)
            prepared[name] = (path, path.read_bytes(), shape_of(every[name].read(path)))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            for name, (path, content, whole) in prepared.items():
                artifact = every[name]
                way, broken = damaged(artifact.kind, content, rng)
                path.write_bytes(broken)
                is_kept = artifact.is_checked and way == "bytes"
                result, wrong = outcome(artifact, path, expected=whole if is_kept else None)
                path.write_bytes(content)
                counts[f"{name}: {result}"] += 1
                if wrong is not None:
                    findings[f"{name}: {wrong}"] += 1
                    examples.setdefault(f"{name}: {wrong}", broken[:300].decode("latin-1"))
    print(json.dumps({"counts": counts, "findings": findings, "examples": examples}))


if __name__ == "__main__":
    main(*sys.argv[1:])
