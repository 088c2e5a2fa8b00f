"""Rows made by Ray's workers are the local engine's, each once, whatever happens to a worker."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from interp_steer import ray_engine
from interp_steer.cells import KEY_COLUMNS, steered_grid
from interp_steer.errors import ModelError
from interp_steer.model import HookedLM
from interp_steer.packs import Pack
from interp_steer.ray_engine import EngineError, RayEngine
from interp_steer.runs import Run
from interp_steer.study import Study
from interp_steer.sweep import Block, read_rows, run_cells
from interp_steer.sweep_rows import Baselines
from ray_cases import DyingRecipe, NotedRecipe, RefusingRecipe, setting_of
from study_cases import tiny_study

GRID = steered_grid(
    layers=[0, 1], alphas={"sttp": [6.0], "stmp": [2.0]}, scopes=["all", "response"]
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return tiny_study(tmp_path_factory.mktemp("study"), tiny_lm, tiny_dir)


@pytest.fixture(scope="module")
def ray_environment() -> Iterator[None]:
    """What Ray's processes inherit: one thread each, no network, and the modules of tests."""
    pytest.importorskip("ray", reason="needs the extra ray")
    changed = {
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **ray_engine.QUIET,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def local_ray(ray_environment: None) -> Iterator[None]:
    """Ray on this machine with two cores, quiet."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


def rows_of(run: Run) -> list[dict]:
    rows = read_rows(run).to_pylist()
    return sorted(rows, key=lambda row: [str(row[column]) for column in KEY_COLUMNS])


def block(study: Study) -> Block:
    return Block(cells=GRID, scenarios=study.split("test")[:4])


def packs_noted(folder: Path, event: str) -> dict[str, int]:
    """Process of every pack that has begun or ended."""
    noted = [path.name.split("-", 1)[1] for path in folder.glob(f"{event}-*")]
    return {name: int(name.split("-")[0]) for name in noted}


def kill_one_at_work(folder: Path) -> int:
    """Kill a process that waits in its second pack, let the others go on; return its id."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        ended = packs_noted(folder, "ended")
        for name, pid in packs_noted(folder, "begun").items():
            if name not in ended and pid in ended.values():
                os.kill(pid, signal.SIGKILL)
                (folder / "go").touch()
                return pid
        time.sleep(0.01)
    raise TimeoutError("no worker is at work")


@pytest.fixture
def pack(study: Study) -> Pack:
    return Pack(rows=tuple(block(study).rows(1)), baselines=Baselines.none())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_environment")
class TestItsOwnRay:
    """Before `TestWithRay`, whose Ray is not the engine's to start or to stop."""

    def test_is_started_for_the_first_pack_and_stopped(self, pack: Pack) -> None:
        import ray

        engine = RayEngine(RefusingRecipe(), n_workers=1)
        with engine:
            assert not ray.is_initialized()
            with pytest.raises(ModelError, match="the model has moved"):
                list(engine.run([pack]))
            assert ray.is_initialized()
        assert not ray.is_initialized()
        engine.close()


class TestNowhere:
    """Before `TestWithRay` too: a Ray that is there already is used whatever the address."""

    def test_an_address_where_nobody_answers_is_refused_at_once(self, pack: Pack) -> None:
        pytest.importorskip("ray", reason="needs the extra ray")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # not listening
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with (
                RayEngine(RefusingRecipe(), address=address) as engine,
                pytest.raises(EngineError, match=f"no Ray cluster at {address}: .*`ray start --"),
            ):
                list(engine.run([pack]))


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
class TestWithRay:
    """Every worker is a new process that imports torch."""

    def test_a_killed_worker_loses_no_row_and_doubles_none(
        self, tmp_path: Path, study: Study
    ) -> None:
        setting, notes = setting_of(study), tmp_path / "notes"
        notes.mkdir()
        local = Run.create(tmp_path / "local")
        run_cells(local, [block(study)], setting=setting)
        killed: list[int] = []

        class Killing(RayEngine):
            """Loses a worker in the middle of a pack, once the first rows are there."""

            def run(self, packs) -> Iterator[pa.Table]:
                for table in super().run(packs):
                    if not killed:
                        killed.append(kill_one_at_work(notes))
                    yield table

        recipe = NotedRecipe(run_path=study.run.path, folder=notes, is_held=True)
        spread = Run.create(tmp_path / "spread")
        with Killing(recipe, n_workers=2) as engine:
            added = run_cells(spread, [block(study)], setting=setting, engine=engine)
        assert added == len(GRID) * 4 == len(rows_of(spread))
        assert rows_of(spread) == rows_of(local)
        n_packs, begun = added // setting.batch_size, packs_noted(notes, "begun")
        assert len(begun) == n_packs + 1  # one pack was begun twice
        assert len(packs_noted(notes, "ended")) == n_packs
        assert len(set(begun.values())) == 3  # two workers, and the one that took the place
        assert killed[0] in begun.values()

    def test_what_a_worker_refuses_is_raised_as_itself(self, tmp_path: Path, study: Study) -> None:
        run = Run.create(tmp_path / "run")
        with (
            RayEngine(RefusingRecipe(), n_workers=1) as engine,
            pytest.raises(ModelError, match="the model has moved; put it back"),
        ):
            run_cells(run, [block(study)], setting=setting_of(study), engine=engine)

    def test_a_pack_that_kills_every_worker_ends_the_sweep(
        self, tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ray_engine, "RETRIES", 1)
        run = Run.create(tmp_path / "run")
        with (
            RayEngine(DyingRecipe(), n_workers=1) as engine,
            pytest.raises(EngineError, match="a worker was lost and Ray could not replace it"),
        ):
            run_cells(run, [block(study)], setting=setting_of(study), engine=engine)
        assert read_rows(run).num_rows == 0

    def test_more_workers_than_the_cluster_holds_are_refused(
        self, study: Study, pack: Pack
    ) -> None:
        recipe = NotedRecipe(run_path=study.run.path, folder=study.run.path)
        with (
            RayEngine(recipe, n_workers=3) as engine,
            pytest.raises(EngineError, match="3 workers of 1 CPU each do not fit .* with 2 CPU"),
        ):
            list(engine.run([pack]))

    def test_without_packs_no_worker_is_started(self, study: Study) -> None:
        recipe = NotedRecipe(run_path=study.run.path, folder=study.run.path)
        with RayEngine(recipe, n_workers=99) as engine:
            assert list(engine.run([])) == []


class TestWithoutRay:
    def test_the_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(EngineError, match=r"pip install 'interp-steer\[ray\]'"):
            RayEngine(RefusingRecipe())

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"n_workers": 0}, "n_workers must be at least 1, got 0"),
            ({"num_cpus_per_worker": 0.0}, "needs some of a CPU"),
            ({"num_gpus_per_worker": -1.0}, "no negative share of a GPU"),
            ({"num_gpus_per_worker": 1.0}, "workers on cpu and num_gpus_per_worker 1"),
        ],
    )
    def test_numbers_that_make_no_sense_are_refused(self, options: dict, said: str) -> None:
        with pytest.raises(EngineError, match=said):
            RayEngine(RefusingRecipe(), **options)

    def test_a_model_on_a_gpu_needs_one(self) -> None:
        with pytest.raises(EngineError, match="workers on cuda and num_gpus_per_worker 0"):
            RayEngine(RefusingRecipe(device="cuda"))
