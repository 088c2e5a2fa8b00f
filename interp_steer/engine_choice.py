"""Which engine a sweep was asked for, and how a worker elsewhere makes itself out of a run.

A worker opens the run by itself, with the same checks of its pins as the driver, so that it cannot
generate with another model than the rows beside its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from interp_steer.config import EngineConfig, ModelPlace, SweepConfig
from interp_steer.engines import Engine
from interp_steer.errors import InterpSteerError
from interp_steer.named_judges import judge_of
from interp_steer.packs import PackWorker
from interp_steer.ray_engine import RayEngine
from interp_steer.study import reopen_study
from interp_steer.sweep_stage import sweep_setting


class EngineChoiceError(InterpSteerError):
    """Options of an engine that was not chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecipe:
    """How a process makes itself a worker of a run's sweep."""

    run_folder: Path
    """The run, at the same path on every node."""
    config: SweepConfig
    """The sweep."""
    place: ModelPlace
    """Where the model runs."""

    @property
    def device(self) -> str:
        """The device in a word, for the engine to see that a GPU is asked for."""
        spread = "auto" if (self.place.n_devices or 1) > 1 else None
        return self.place.device_map or spread or self.place.device or "cpu"

    def load(self) -> PackWorker:
        """Open the run and load its model.

        Raises:
            RunError: the run, its model or its scenarios are not what they were.
        """
        study = reopen_study(self.run_folder, place=self.place)
        judge = judge_of(self.config, study.trait)
        return PackWorker(sweep_setting(study, self.config, judge=judge))


@contextmanager
def chosen_engine(
    run_folder: Path, config: SweepConfig, choice: EngineConfig
) -> Iterator[Engine | None]:
    """The engine for the block; None stands for this process.

    Raises:
        EngineChoiceError: options of Ray without `engine="ray"`.
        EngineError: Ray is not installed, or cannot give what is asked for.
    """
    if choice.engine == "ray":
        recipe = RunRecipe(
            run_folder=run_folder.resolve(),
            config=_absolute(config),
            place=ModelPlace(
                device=choice.device,
                device_map=choice.device_map,
                n_devices=choice.n_devices,
                reference=choice.reference,
            ),
        )
        with RayEngine(
            recipe,
            address=choice.address,
            n_workers=choice.workers,
            num_gpus_per_worker=choice.num_gpus_per_worker,
        ) as engine:
            yield engine
        return
    given = {
        "--address": choice.address is not None,
        "--workers": choice.workers is not None,
        "--num-gpus-per-worker": choice.num_gpus_per_worker != 0,
    }
    if any(given.values()):
        names = ", ".join(name for name, is_given in given.items() if is_given)
        raise EngineChoiceError(f"{names} belongs to --engine ray, which was not chosen; add it")
    yield None


def _absolute(config: SweepConfig) -> SweepConfig:
    """The config for processes that start in other folders."""
    return replace(
        config,
        embedder=config.embedder and config.embedder.resolve(),
        judge_config=config.judge_config and config.judge_config.resolve(),
    )
