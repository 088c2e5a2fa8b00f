"""Run a stage in child processes that are killed (SIGKILL) at random moments, until one finishes.

    python tests/kill_and_resume.py fit|sweep RUN_PARENT MODEL_DIR SEED

A process of its own, so that the model is imported once and children are forked from a process with
one thread. Prints one JSON object: how many children were killed, and after each kill the number of
rows (sweep) or files (fit) that a reader finds.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from interp_steer.config import FitConfig
from interp_steer.fit_stage import fit
from interp_steer.model import HookedLM
from interp_steer.runs import Run
from interp_steer.study import Study
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import sweep
from study_cases import SAMPLING, SWEEP, WordJudge, new_study

FIT = FitConfig(sampling=SAMPLING, responses_per_scenario=2, batch_size=4)


def stage(name: str, study: Study) -> None:
    """What a child does."""
    fit(study, FIT)
    if name == "sweep":
        sweep(study, SWEEP, judge=WordJudge())


def progress(name: str, run: Run) -> int:
    """What a reader finds; a damaged shard would raise here."""
    if name == "sweep":
        return read_rows(run).num_rows
    return sum(path.suffix != "" for path in run.path.iterdir())


def kill_one(name: str, study: Study, rng: random.Random, patience: float) -> bool:
    """Start a child and kill it at a random moment; False where it was done before.

    A sweep goes on where it was, so its child may first have to add a shard; a fit starts again.
    """
    before = progress(name, study.run)
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")
        stage(name, study)
        os._exit(0)
    until = time.monotonic() + rng.uniform(0.0, patience)
    needed = before + (rng.choice([0, 1, 1, 1]) if name == "sweep" else 0)
    while time.monotonic() < until or progress(name, study.run) < needed:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(rng.uniform(0.0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main(name: str, folder: str, model_dir: str, seed: str) -> None:
    """Kill children until one finishes, at most 12 times, then finish; print what happened."""
    torch.set_num_threads(1)
    study = new_study(Path(folder), HookedLM.load(model_dir), Path(model_dir))
    started = time.monotonic()
    fit(new_study(Path(folder) / "timed", study.lm, Path(model_dir)), FIT)
    patience = 0.8 * (time.monotonic() - started)
    if name == "sweep":
        fit(study, FIT)
    rng, found = random.Random(int(seed)), []
    while len(found) < 12 and kill_one(name, study, rng, patience):
        found.append(progress(name, study.run))
    stage(name, study)
    print(json.dumps({"kills": len(found), "after_each": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
