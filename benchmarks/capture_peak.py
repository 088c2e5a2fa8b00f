"""Peak memory of one way of capturing, for `benchmarks.capture_memory`, which starts it.

Command: python -m benchmarks.capture_peak MODEL WAY ROWS TOKENS, MODEL a directory; prints one JSON
object.
"""

import gc
import json
import re
import sys
from pathlib import Path

from benchmarks.capture import Capture
from interp_steer.model import HookedLM
from interp_steer.organism import scenarios_path
from interp_steer.sampling import GenerationSettings
from interp_steer.scenarios import load_scenarios

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> int:
    """Warm up, reset the peak, capture once, print."""
    model, way, n_rows, n_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    lm = HookedLM.load(model)
    capture = Capture(
        lm=lm,
        name=Path(model).name,
        scenarios=load_scenarios(scenarios_path("honesty")),
        n_rows=n_rows,
        settings=GenerationSettings(max_new_tokens=n_tokens, temperature=0.7),
    )
    capture.plain()
    gc.collect()
    RESET.write_text("5", encoding="ascii")  # the peak is counted from here
    getattr(capture, way)()
    said = {
        "peak_bytes": _peak_bytes(),
        "kept_bytes": n_rows * lm.n_layers * lm.d_model * 4,
    }
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


def _peak_bytes() -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{STATUS} says no VmHWM; peak memory is measured on Linux alone")
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
