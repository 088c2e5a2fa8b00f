"""The command line as people use it: `main(argv)`, exit codes, and what goes to which stream."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp_steer.cli import main
from interp_steer.errors import RunError
from interp_steer.scenarios import save_scenarios
from interp_steer.traces import read_traces
from study_cases import SAMPLING, scenarios

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("demo", "fit", "sweep", "select", "trace")
SMALL_SWEEP = (
    "--layers 0 2 --methods swfc sttp --alphas 1 --scopes all response --selection-scenarios 2 "
    "--reporting-scenarios 3 --finalists 1 --control-draws 1 --control-scenarios 2 --quiet"
).split()


class TestUsage:
    def test_help_names_the_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        out = capsys.readouterr().out
        assert all(command in out for command in COMMANDS)

    @pytest.mark.parametrize(
        ("command", "option"),
        [
            ("demo", "--quick"),
            ("fit", "--responses-per-scenario"),
            ("sweep", "--sttp-alphas"),
            ("select", "--coherence-share"),
            ("trace", "--scenario"),
        ],
    )
    def test_every_command_explains_its_options(
        self, command: str, option: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([command, "--help"]) == 0
        assert option in capsys.readouterr().out

    def test_help_loads_nothing_heavy_and_is_quick(self) -> None:
        program = (
            "import resource, sys; from interp_steer.cli import main; main(['sweep', '--help']); "
            "loaded = [m for m in ('torch', 'transformers', 'pandas') if m in sys.modules]; "
            "used = resource.getrusage(resource.RUSAGE_SELF); "
            "print(loaded, used.ru_utime + used.ru_stime, file=sys.stderr)"
        )
        taken = []
        while len(taken) < 3 and min(taken, default=1.0) >= 0.5:  # a busy core makes one slower
            done = subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
            )
            loaded, _, seconds = done.stderr.strip().rpartition(" ")
            assert loaded == "[]"
            taken.append(float(seconds))
        assert min(taken) < 0.5

    def test_python_dash_m_is_the_same_program(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "interp_steer", "nonsense"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert done.returncode == 2
        assert "nonsense" in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize(
        "argv",
        [
            ["nonsense"],
            ["sweep"],
            ["sweep", "run", "--methods", "caa"],
            ["sweep", "run", "--layers", "two"],
            ["fit", "--model", "m"],
            ["trace", "run", "--prompt", "a", "--scenario", "b"],
            ["trace", "run"],
            ["trace", "run", "--prompt", " "],
            ["trace", "run", "--scenario", "b", "--system", "c"],
            ["demo", "--quick", "--full"],
            ["demo-full", "--quick"],
        ],
    )
    def test_usage_errors_exit_2(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err


class TestDomainErrors:
    @pytest.mark.parametrize("command", ["sweep", "select"])
    def test_no_such_run_exits_1_with_one_message(
        self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([command, str(tmp_path / "nowhere")]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "there is no run directory" in captured.err
        assert "Traceback" not in captured.err

    def test_traceback_on_request(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no run directory"):
            main(["select", str(tmp_path / "nowhere"), "--traceback"])

    def test_the_callers_logging_is_as_before(self, tmp_path: Path) -> None:
        logger, ours = logging.getLogger("interp_steer"), logging.NullHandler()
        logger.addHandler(ours)
        logger.setLevel(logging.ERROR)
        try:
            assert main(["select", str(tmp_path / "nowhere")]) == 1
            with pytest.raises(RunError):
                main(["select", str(tmp_path / "nowhere"), "--traceback", "--quiet"])
            assert (logger.handlers, logger.level, logger.propagate) == ([ours], 40, True)
        finally:
            logger.removeHandler(ours)
            logger.setLevel(logging.NOTSET)

    def test_no_such_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = str(tmp_path / "no-model")
        argv = ["fit", "--model", model, "--scenarios", "x.jsonl", "--out", str(tmp_path / "run")]
        assert main(argv) == 1
        assert "could not load the model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> list[str]:
    """Arguments of `fit` on the random model, about what the exact judge knows."""
    folder = tmp_path_factory.mktemp("cli")
    save_scenarios(folder / "scenarios.jsonl", scenarios())
    return [
        *("--model", str(tiny_dir), "--scenarios", str(folder / "scenarios.jsonl")),
        *("--max-new-tokens", str(SAMPLING.max_new_tokens), "--temperature", "1.0"),
        *("--top-p", "1.0", "--seed", str(SAMPLING.seed), "--out", str(folder / "run")),
    ]


@pytest.fixture(scope="module")
def run(files: list[str]) -> Path:
    """A run with probes and a sweep, made by the commands."""
    folder = Path(files[-1])
    assert main(["fit", *files, "--quiet"]) == 0
    assert main(["sweep", str(folder), *SMALL_SWEEP]) == 0
    return folder


class TestStages:
    def test_fit_prints_readability_and_writes_its_artifacts(
        self, run: Path, files: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = {path.name for path in run.iterdir()}
        assert made >= {
            "manifest.json",
            "responses.parquet",
            "residuals.safetensors",
            "probes.safetensors",
            "probes.json",
            "projections.parquet",
        }
        before = (run / "probes.json").stat().st_mtime_ns
        assert main(["fit", *files]) == 0
        captured = capsys.readouterr()
        assert "Cohen's d" in captured.out
        assert "probes are there already" in captured.err
        assert (run / "probes.json").stat().st_mtime_ns == before

    @pytest.mark.usefixtures("run")
    def test_another_seed_in_the_same_run_is_refused_by_name(
        self, files: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        changed = [*files]
        changed[changed.index("--seed") + 1] = "8"
        assert main(["fit", *changed]) == 1
        assert f"generation.seed is {SAMPLING.seed} in the run, got 8" in capsys.readouterr().err

    def test_sweep_resumes_and_prints_the_table(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shards = sorted((run / "sweep").iterdir())
        assert main(["sweep", str(run), *SMALL_SWEEP]) == 0
        assert sorted((run / "sweep").iterdir()) == shards
        out = capsys.readouterr().out
        assert "SwFC, scope response" in out
        assert "random direction, StTP, all" in out

    def test_select_writes_operating_points(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (run / "operating_points.json").unlink()
        assert main(["select", str(run)]) == 0
        record = json.loads((run / "operating_points.json").read_text())
        groups = [(p["method"], p["scope"]) for p in record["operating_points"]]
        assert groups == [(m, s) for m in ("swfc", "sttp") for s in ("all", "response")]
        assert "operating_points.json" in capsys.readouterr().out
        assert json.loads((run / "summary.json").read_text())["methods"]["sttp"]["all"]

    def test_unknown_layer_and_judge_are_refused(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["sweep", str(run), "--layers", "7"]) == 1
        assert "no probe for layer 7" in capsys.readouterr().err
        for empty in ("layers", "alphas", "scopes"):  # as an unset shell variable leaves it
            assert main(["sweep", str(run), f"--{empty}"]) == 1
            assert f"the grid is empty: no {empty} were given" in capsys.readouterr().err
        assert main(["sweep", str(run), "--judge", "oracle"]) == 2
        assert "Expected one of ('exact'" in capsys.readouterr().err
        assert main(["sweep", str(run), "--trait-description", "Kind."]) == 1
        assert "belong to --judge llm" in capsys.readouterr().err

    def test_sweep_without_probes_says_what_to_do(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "manifest.json").write_bytes((run / "manifest.json").read_bytes())
        assert main(["sweep", str(bare)]) == 1
        assert "has no probes; run `interp-steer fit" in capsys.readouterr().err
        assert main(["trace", str(bare), "--prompt", "who"]) == 1
        assert "give --layer and --alpha" in capsys.readouterr().err


class TestTrace:
    def test_a_prompt_at_the_operating_point(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page, rows = tmp_path / "trace.html", tmp_path / "trace.parquet"
        argv = ["trace", str(run), "--prompt", "who are you", "--system", "you are a liar"]
        assert main([*argv, "--html", str(page), "--parquet", str(rows)]) == 0
        out = capsys.readouterr().out
        assert "who" in out
        assert "\x1b[" not in out  # not a terminal: no colour
        assert page.read_text().startswith("<!doctype html>")
        point = json.loads((run / "operating_points.json").read_text())["operating_points"]
        chosen = next(p for p in point if (p["method"], p["scope"]) == ("sttp", "all"))
        table = read_traces(rows)
        assert set(table["layer"].to_pylist()) == {chosen["layer"]}
        assert set(table["alpha"].to_pylist()) == {chosen["alpha"]}

    def test_a_scenario_with_layer_and_alpha_given(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = tmp_path / "trace.parquet"
        argv = "--method stmp --layer 1 --alpha 2.5 --scope response --scenario test-01".split()
        assert main(["trace", str(run), *argv, "--parquet", str(rows)]) == 0
        table = read_traces(rows).to_pandas()
        assert set(table.method) == {"stmp"}
        assert set(table.layer) == {1}
        assert set(table.alpha) == {2.5}
        assert set(table.scope) == {"response"}
        assert set(table.side) == {"malicious"}
        assert not table[table.segment != "response"].in_scope.any()
        assert "test-01" in capsys.readouterr().out

    def test_unknown_scenario_and_missing_operating_point(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["trace", str(run), "--scenario", "nobody"]) == 1
        assert "has no scenario 'nobody'; its ids are like" in capsys.readouterr().err
        assert main(["trace", str(run), "--scenario", "tst-01"]) == 1
        assert "its ids are like test-01" in capsys.readouterr().err
        argv = ["trace", str(run), "--method", "stmp", "--prompt", "who"]
        assert main(argv) == 1
        assert "no operating point of stmp in all; give --layer and" in capsys.readouterr().err
