"""The engine that was asked for, and a worker made of nothing but a run directory."""

from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import pytest

from interp_steer.cells import BASELINES, steered_cell
from interp_steer.config import EngineConfig, ModelPlace, SweepConfig
from interp_steer.engine_choice import EngineChoiceError, RunRecipe, chosen_engine
from interp_steer.errors import RunError
from interp_steer.model import HookedLM
from interp_steer.named_judges import load_judge
from interp_steer.packs import Pack, PackWorker
from interp_steer.ray_engine import RayEngine
from interp_steer.study import Study
from interp_steer.sweep_rows import Baselines, Block
from interp_steer.sweep_stage import sweep_setting
from study_cases import tiny_study


@pytest.fixture
def study(tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return tiny_study(tmp_path, tiny_lm, tiny_dir)


def test_a_worker_elsewhere_makes_the_rows_that_this_process_makes(study: Study) -> None:
    config = SweepConfig(batch_size=8)
    recipe = RunRecipe(run_folder=study.run.path, config=config, place=ModelPlace())
    # As to another process: only settings travel, and a worker loads what it needs itself.
    here_end, there_end = Pipe()
    here_end.send(recipe)
    worker = there_end.recv().load()
    here = PackWorker(sweep_setting(study, config, judge=load_judge("exact", study.trait)))
    cell = steered_cell(method="swfc", layer=1, alpha=2.0, scope="all")
    cells = (*BASELINES, cell, cell.with_control("shuffled_labels:0"))
    block = Block(cells=cells, scenarios=study.split("test")[:2])
    pack = Pack(rows=tuple(block.rows(1)), baselines=Baselines.none())
    assert worker.run(pack).equals(here.run(pack))


def test_a_worker_refuses_a_run_whose_scenarios_have_changed(study: Study) -> None:
    file = Path(study.run.manifest["sources"]["scenarios"])
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    recipe = RunRecipe(run_folder=study.run.path, config=SweepConfig(), place=ModelPlace())
    with pytest.raises(RunError, match="scenarios is"):
        recipe.load()


def test_without_a_word_it_is_this_process(tmp_path: Path) -> None:
    with chosen_engine(tmp_path, SweepConfig(), EngineConfig()) as engine:
        assert engine is None


def test_ray_is_not_started_before_it_is_needed(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    config = replace(SweepConfig(), embedder=Path("embedder"))
    with chosen_engine(tmp_path, config, EngineConfig(engine="ray", workers=1)) as engine:
        assert isinstance(engine, RayEngine)
        assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (EngineConfig(address="auto"), "--address"),
        (EngineConfig(workers=2), "--workers"),
        (EngineConfig(num_gpus_per_worker=0.5), "--num-gpus-per-worker"),
    ],
)
def test_options_of_ray_alone_are_refused(tmp_path: Path, choice: EngineConfig, named: str) -> None:
    with (
        pytest.raises(EngineChoiceError, match=f"{named} belongs to --engine ray"),
        chosen_engine(tmp_path, SweepConfig(), choice),
    ):
        pass


def test_a_replica_runs_through_the_bridge_where_it_is_asked_to(study: Study) -> None:
    for is_asked in (False, True):
        place = ModelPlace(reference=is_asked)
        recipe = RunRecipe(run_folder=study.run.path, config=SweepConfig(), place=place)
        assert recipe.load().setting.lm._runner.is_reference is is_asked
