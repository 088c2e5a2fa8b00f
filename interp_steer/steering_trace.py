"""A trace of a saved steering, from this library or imported, on a run's model.

Why apart: `trace_stage` traces cells of a run, whose probes are the run's. A folder of
`save_steering` brings its own probes, of any number of layers.
"""

import logging
from pathlib import Path

import pyarrow as pa

from interp_steer.scenarios import Prompt
from interp_steer.steering import steer
from interp_steer.steering_files import load_steering
from interp_steer.study import Study
from interp_steer.sweep_rows import sample_key
from interp_steer.traces import TraceRecorder

_log = logging.getLogger(__name__)


def trace_steering(
    study: Study, folder: Path, prompt: Prompt, *, scenario: str, side: str
) -> pa.Table:
    """Generate once under the steering in `folder`, and return the per-token diagnostics.

    Args:
        study: its model and sampling; the probes are the folder's own.
        folder: what `save_steering` or `interp-steer import` wrote.
        prompt: what the model is asked.
        scenario: scenario id, or a name for a prompt that is none.
        side: whose prompt it is: aligned, malicious or neutral.

    Raises:
        SteeringError: no steering there, or one for another model.
    """
    saved = load_steering(folder)
    if saved.provenance["weights"] is None:
        _log.warning("%s does not say for which model it is; only its width is checked", folder)
    else:
        saved.check_model(study.lm)
    recorder = TraceRecorder()
    with steer(study.lm, saved.spec, saved.probes, recorder=recorder):
        generations = study.lm.generate(
            [study.lm.tokenize(prompt)], study.settings, sample_keys=[sample_key(scenario, 0)]
        )
    return recorder.table(
        study.lm,
        generations,
        samples=[f"{scenario}/{folder.name}"],
        scenarios=[scenario],
        sides=[side],
    )
