"""Run a stage in child processes that are killed (SIGKILL) at random moments, until one finishes.

    python tests/kill_and_resume.py fit|sweep|suite|rescore RUN_PARENT MODEL_DIR SEED

A process of its own, so that the model is imported once and children are forked from a process with
one thread. Prints one JSON object: how many children were killed, and after each kill the number of
rows (sweep, suite), scores (rescore) or files (fit) that a reader finds.
"""

import json
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from interp_steer.config import FitConfig
from interp_steer.fit_stage import fit
from interp_steer.model import HookedLM
from interp_steer.rescoring import Filling, rescore_sweep
from interp_steer.runs import Run
from interp_steer.study import Study
from interp_steer.suites.multi_turn import run_multi_turn
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import sweep
from study_cases import SAMPLING, SWEEP, WordJudge, new_study
from suite_cases import subject, write_points

SUITE = {"turns": 2, "limit": 6, "methods": ("sttp", "swfc"), "batch_size": 3}
FIT = FitConfig(sampling=SAMPLING, responses_per_scenario=2, batch_size=4)
TOUCHES = {"open", "os.rename", "os.remove"}
"""What is counted: a temporary file opened, put in place, removed; every write does all three."""
LONGEST_LIFE = {"fit": 6, "sweep": 9, "suite": 9, "rescore": 9}
"""Touches a child lives for at most: well under what the stage needs in all."""


def stage(name: str, study: Study) -> None:
    """What a child does."""
    if name == "fit":
        fit(study, FIT)
    elif name == "suite":
        run_multi_turn(subject("multi-turn", study, **SUITE))
    elif name == "rescore":
        rescore_sweep(study.run, Filling(judge=WordJudge()), open_study=lambda: study)
    else:
        sweep(study, SWEEP, judge=WordJudge())


def forget_scores(run: Run) -> None:
    """Leave a gap in place of every score of a sweep."""
    for path in run.shards():
        table = pq.read_table(path)
        for name in ("trait", "coherence"):
            field = table.schema.field(name)
            gaps = pa.array([float("nan")] * table.num_rows, field.type)
            table = table.set_column(table.schema.get_field_index(name), field, gaps)
        pq.write_table(table, path)


def progress(name: str, run: Run) -> int:
    """What a reader finds; a damaged shard would raise here."""
    if name == "sweep":
        return read_rows(run).num_rows
    if name == "rescore":
        return int(read_rows(run).to_pandas()["trait"].notna().sum())
    if name == "suite":
        rows = Run(run.path / "evaluations" / "multi-turn").read_shards("")
        return 0 if rows is None else rows.num_rows
    return sum(path.suffix != "" for path in run.path.iterdir())


class Death:
    """An audit hook that kills its process at the `at`-th touch of a temporary file of a run.

    Progress decides and not the clock, so a slow machine kills at the same places as a fast one.
    With a `delay` (seconds) death comes a little later, in the midst of a write.
    """

    def __init__(self, folder: Path, at: int, delay: float) -> None:
        self.folder, self.at, self.delay, self.touched = str(folder), at, delay, 0

    def is_temporary(self, path: str) -> bool:
        return path.startswith(self.folder) and path.endswith(".tmp")

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in TOUCHES or not self.is_temporary(str(arguments[0])):
            return
        self.touched += 1
        if self.touched != self.at:
            return
        if self.delay:
            signal.setitimer(signal.ITIMER_REAL, self.delay)  # nobody handles SIGALRM: it kills
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_one(name: str, study: Study, rng: random.Random) -> bool:
    """Start a child that dies at a random moment; False where it was done before."""
    at, delay = rng.randint(1, LONGEST_LIFE[name]), rng.choice([0.0, rng.uniform(1e-5, 2e-3)])
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")
        sys.addaudithook(Death(study.run.path, at, delay))
        stage(name, study)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the child failed by itself with status {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def main(name: str, folder: str, model_dir: str, seed: str) -> None:
    """Kill children until one finishes, at most 12 times, then finish; print what happened."""
    torch.set_num_threads(1)
    study = new_study(Path(folder), HookedLM.load(model_dir), Path(model_dir))
    if name != "fit":
        fit(study, FIT)
    if name == "suite":
        write_points(study)
    if name == "rescore":
        sweep(study, replace(SWEEP, control_draws=1, batch_size=8), judge=WordJudge())
        forget_scores(study.run)
    rng, found = random.Random(int(seed)), []
    while len(found) < 12 and kill_one(name, study, rng):
        found.append(progress(name, study.run))
    stage(name, study)
    print(json.dumps({"kills": len(found), "after_each": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
