"""What a process holds while it generates under steering again and again, traces on.

    python tests/steady_resources.py CALLS [leaky]

Each call makes `BATCH` generations. Prints one JSON object a line: after a quarter of the calls
(warm-up) and at the end, open files, hooks on the model, live tensors, Arrow's buffers and resident
memory. `leaky` loses one of each a call. A process of its own, because a test process holds what
other tests left.
"""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pyarrow as pa
import torch

from interp_steer.model import GenerationSettings, HookedLM, Prompt
from interp_steer.organism import MODEL_DIR
from interp_steer.specs import SteeringSpec
from interp_steer.steering import steer
from interp_steer.traces import TraceRecorder, read_traces, write_traces
from steering_cases import make_probes

SETTINGS = GenerationSettings(max_new_tokens=4, temperature=1.0, top_p=1.0)
LAYERS = (2, 3)
BATCH = 4
LOST = 256 << 10
"""Bytes that a leaky call loses."""


def hooks_on(lm: HookedLM) -> int:
    """Hooks of any kind on any module of the model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = {id(m): m for m in (*lm.bridge.modules(), *lm.bridge.original_model.modules())}
    on_points = sum(len(point.fwd_hooks) for point in lm.bridge.hook_dict.values())
    return on_points + sum(len(getattr(m, kind)) for m in modules.values() for kind in kinds)


def held(lm: HookedLM) -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "hooks": hooks_on(lm),
        "tensors": sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()),
        "arrow": pa.total_allocated_bytes(),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def lose(lm: HookedLM, kept: list[Any]) -> None:
    """A fault of every kind."""
    kept.append(Path("/dev/null").open("rb"))
    next(lm.bridge.original_model.modules()).register_forward_hook(lambda *_: None)
    kept += [torch.zeros(8), pa.array([1.0, 2.0]), bytearray(os.urandom(LOST))]


def main(n: str, kind: str = "") -> None:
    """Generate, and tell what is held after the warm-up and at the end."""
    torch.set_num_threads(1)
    lm = HookedLM.load(MODEL_DIR)
    kept: list[Any] = []
    probes = make_probes(1, layers=LAYERS, d_model=lm.d_model)
    spec = SteeringSpec(method="stmp", layer=LAYERS, alpha=1.5)
    prompts = [lm.tokenize(Prompt.chat("is it true"))] * BATCH
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, int(n) + 1):
            recorder = TraceRecorder()
            with steer(lm, spec, probes, recorder=recorder):
                keys = [f"{number} {row}" for row in range(BATCH)]
                made = lm.generate(prompts, SETTINGS, sample_keys=keys)
            table = recorder.table(
                lm, made, samples=keys, scenarios=keys, sides=["aligned"] * BATCH
            )
            write_traces(table, Path(folder) / "t.parquet")
            assert read_traces(Path(folder) / "t.parquet").num_rows == table.num_rows
            if kind:
                lose(lm, kept)
            if number in (int(n) // 4, int(n)):
                del recorder, made, table
                print(json.dumps(held(lm)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
