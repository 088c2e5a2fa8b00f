"""A worker's recipe for tests, importable by Ray's worker processes."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from interp_steer.errors import ModelError
from interp_steer.fit_stage import load_probes
from interp_steer.judges import Answer, JudgeScore
from interp_steer.packs import Pack, PackWorker, SweepSetting
from interp_steer.study import Study, reopen_study


class CountingJudge:
    """Trait: words of the response, up to 100. Coherence: whether there is one."""

    name = "count"

    def score(self, answer: Answer) -> JudgeScore:
        n_words = len(answer.text.split())
        return JudgeScore(trait=min(100.0, n_words), coherence=100.0 * (n_words > 0))


def setting_of(study: Study) -> SweepSetting:
    """The setting that driver and workers share."""
    return SweepSetting(
        lm=study.lm,
        probes=load_probes(study.run),
        judge=CountingJudge(),
        generation=study.settings,
        batch_size=4,
    )


class NotedWorker(PackWorker):
    """Notes in `folder` which process begins and ends which pack.

    One that is held waits in its second pack for the file `go`.
    """

    folder: Path
    is_held: bool
    n_done = 0

    def run(self, pack: Pack) -> pa.Table:
        name = f"{os.getpid()}-{time.monotonic_ns()}"
        (self.folder / f"begun-{name}").touch()
        while self.is_held and self.n_done and not (self.folder / "go").exists():
            time.sleep(0.01)
        rows = super().run(pack)
        (self.folder / f"ended-{name}").touch()
        self.n_done += 1
        return rows


@dataclass(frozen=True)
class NotedRecipe:
    """Reopens a run, as a worker on another node would."""

    run_path: Path
    folder: Path
    is_held: bool = False
    device: str = "cpu"

    def load(self) -> PackWorker:
        torch.set_num_threads(1)
        worker = NotedWorker(setting_of(reopen_study(self.run_path)))
        worker.folder, worker.is_held = self.folder, self.is_held
        return worker


@dataclass(frozen=True)
class RefusingRecipe:
    """Cannot make a worker."""

    device: str = "cpu"

    def load(self) -> PackWorker:
        raise ModelError("the model has moved; put it back")


@dataclass(frozen=True)
class DyingRecipe:
    """Every worker dies at once."""

    device: str = "cpu"

    def load(self) -> PackWorker:
        os._exit(1)
