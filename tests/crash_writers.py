"""Kill the writer of every artifact (SIGKILL) at its first touch of a file, its second, and so on.

    python tests/crash_writers.py FOLDER

A process of its own, because children are forked from one with a single thread. Prints one JSON
object: by artifact how many children were killed, what a reader found after each, and at the end.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from fault_cases import WRITTEN, Written
from interp_steer.errors import InterpSteerError
from kill_and_resume import Death


def killed(artifact: Written, folder: Path, at: int) -> bool:
    """Start a writer of version 1 that dies at its `at`-th touch; False where it finished."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")
        sys.addaudithook(Death(folder, at, 0.0))
        artifact.write(folder, 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the writer failed by itself with status {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def found(artifact: Written, folder: Path) -> int | None:
    """What a reader makes of it, in a child of its own: it may start threads."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(artifact.read(folder))
        except InterpSteerError:
            os._exit(2)
        except BaseException:  # noqa: BLE001 - told as -1
            os._exit(3)
    _, status = os.waitpid(child, 0)
    return {0: 0, 1: 1, 2: None}.get(os.waitstatus_to_exitcode(status), -1)


def story(artifact: Written, folder: Path) -> dict[str, object]:
    """What became of one artifact."""
    seen: list[int | None] = []
    if os.fork() == 0:  # writes in a child too: nothing of it stays in this process
        artifact.write(folder, 0)
        os._exit(0)
    os.wait()
    while killed(artifact, folder, len(seen) + 1):
        seen.append(found(artifact, folder))
        if len(seen) > 60:
            raise SystemExit("the writer never finishes")
    left = len(list(folder.rglob("*.tmp")))
    return {"kills": len(seen), "found": seen, "left": left, "last": found(artifact, folder)}


def main(folder: str) -> None:
    """Tell the story of every artifact."""
    torch.set_num_threads(1)
    told = {}
    for name, artifact in WRITTEN.items():
        place = Path(folder) / name.replace(" ", "-")
        place.mkdir()
        told[name] = story(artifact, place)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
