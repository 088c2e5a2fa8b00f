"""Kill -9 a stage at random moments, run it again: no row lost, none twice, none half-written."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from interp_steer.cells import KEY_COLUMNS
from interp_steer.fit_stage import read_responses
from interp_steer.judges import Answer
from interp_steer.model import HookedLM
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.study import Study, run_scenarios
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import sweep
from study_cases import SWEEP, WordJudge, tiny_study

SCRIPT = Path(__file__).with_name("kill_and_resume.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    """The same study, never interrupted."""
    study = tiny_study(tmp_path_factory.mktemp("whole"), tiny_lm, tiny_dir)
    sweep(study, SWEEP, judge=WordJudge())
    return study


def killed(stage: str, folder: Path, model_dir: Path, seed: int) -> tuple[Run, dict]:
    """The run of a stage that was killed again and again, and how often that was."""
    command = [sys.executable, str(SCRIPT), stage, str(folder), str(model_dir), str(seed)]
    root = SCRIPT.parents[1]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Run.open(folder / "run"), json.loads(done.stdout.splitlines()[-1])


def texts(run: Run) -> dict[tuple, str]:
    rows = read_rows(run).to_pylist()
    return {tuple(row[c] for c in KEY_COLUMNS): row["response"] for row in rows}


@pytest.mark.slow
def test_a_killed_sweep_ends_with_the_rows_of_one_that_was_not(
    tmp_path: Path, tiny_dir: Path, whole: Study
) -> None:
    run, story = killed("sweep", tmp_path, tiny_dir, seed=1)
    assert story["kills"] >= 3, "the test must kill something"
    assert story["after_each"] == sorted(story["after_each"]), "rows were lost"
    table = read_rows(run)
    keys = Counter(zip(*table.select(KEY_COLUMNS).to_pydict().values(), strict=True))
    assert max(keys.values()) == 1, "rows were made twice"
    expected = texts(whole.run)
    found = texts(run)
    assert found.keys() == expected.keys()
    assert sum(found[key] != expected[key] for key in found) <= len(found) // 500
    assert [p.name for p in run.sweep_folder.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_a_killed_fit_ends_with_the_responses_of_one_that_was_not(
    tmp_path: Path, tiny_dir: Path, whole: Study
) -> None:
    run, story = killed("fit", tmp_path, tiny_dir, seed=2)
    assert story["kills"] >= 3, "the test must kill something"
    assert read_responses(run).equals(read_responses(whole.run))
    found, expected = (load_residuals(r.residuals_file) for r in (run, whole.run))
    # Batches of 4 rows here, of 64 there: float32 sums in another order.
    assert found.aligned.values.allclose(expected.aligned.values, atol=1e-4)


@pytest.mark.slow
def test_killed_rescoring_fills_every_gap_and_loses_none(tmp_path: Path, tiny_dir: Path) -> None:
    run, story = killed("rescore", tmp_path, tiny_dir, seed=4)
    assert story["kills"] >= 3, "the test must kill something"
    assert story["after_each"] == sorted(story["after_each"]), "scores were lost"
    rows = read_rows(run).to_pandas()
    assert rows["trait"].notna().all() and rows["coherence"].notna().all()
    judge = WordJudge()
    scenarios = {s.id: s for s in run_scenarios(run)}
    for row in rows.to_dict("records"):
        answer = Answer(scenario=scenarios[row["scenario"]], text=row["response"], stopped=True)
        assert judge.score(answer).trait == row["trait"]
