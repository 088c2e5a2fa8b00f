"""`interp-steer export` and `import` as people use them: from a run, from a folder, and back."""

import json
from pathlib import Path

import pytest
import torch

from exchange_cases import residuals
from interp_steer.cli import main
from interp_steer.model import HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.specs import SteeringSpec
from interp_steer.steering_files import load_steering
from interp_steer.traces import read_traces
from study_cases import tiny_study


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Path:
    """A run with probes, and an operating point of swfc."""
    study = tiny_study(tmp_path_factory.mktemp("study"), tiny_lm, tiny_dir)
    point = {"method": "swfc", "scope": "all", "threat": "malicious_prompt", "layer": 1, "alpha": 2}
    record = {"operating_points": [point]}
    study.run.operating_points_file.write_text(json.dumps(record), encoding="utf-8")
    return study.run.path


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--quiet"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code of a command that fails, and what it says."""
    capsys.readouterr()
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_a_run_goes_out_at_its_operating_point_and_comes_back(
    run: Path, tiny_lm: HookedLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "honest.gguf", tmp_path / "back"
    said = ran(capsys, "export", run, "--format", "gguf", "--method", "swfc", "--out", file)
    assert "swfc alpha 2, layers 1, scope all, aligned, for repeng and llama.cpp" in said
    said = ran(capsys, "import", file, "--run", run, "--out", folder)
    assert f"written: {folder}/steering.json" in said
    assert "does not say" not in said
    saved = load_steering(folder)
    saved.check_model(tiny_lm)
    spec, probes = SteeringSpec(method="swfc", layer=1, alpha=2), ProbeSet.load(run)
    before = residuals(tiny_lm, spec, probes)
    after = residuals(tiny_lm, saved.spec, saved.probes)
    largest = max(float(a.abs().max()) for a in before)
    assert max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)) < (
        1e-5 * largest
    )


def test_a_folder_goes_on_into_another_format(
    run: Path, tiny_lm: HookedLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, payloads = tmp_path / "own", tmp_path / "payloads.json"
    wanted = ("--method", "stmp", "--layers", 0, 2, "--alpha", 1.5, "--direction", "reversed")
    ran(capsys, "export", run, *wanted, "--out", own)
    said = ran(capsys, "export", own, "--format", "vllm", "--out", payloads)
    assert "stmp alpha 1.5, layers 0, 2, scope all, reversed, for payloads for vLLM" in said
    said = ran(capsys, "import", payloads, "--out", tmp_path / "back")
    assert "for which model it is, the file does not say" in said
    there, back = load_steering(own), load_steering(tmp_path / "back")
    pairs = zip(
        residuals(tiny_lm, there.spec, there.probes),
        residuals(tiny_lm, back.spec, back.probes),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_cap_is_a_target_on_the_threshold(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "caps.pt"
    wanted = ("--method", "sttp", "--layers", 1, "--alpha", 2, "--format", "assistant-axis")
    code, said = refused(capsys, "export", run, *wanted, "--out", file)
    assert code == 1
    assert "It cannot carry sttp" in said
    assert "use --format steering or vllm" in said
    ran(capsys, "export", run, *wanted, "--threshold-sigmas", 2, "--out", file)
    said = ran(capsys, "import", file, "--out", tmp_path / "back")
    assert said.startswith("sttp reversed, layers 1, every token")


def test_a_model_may_be_given_by_name(
    run: Path, tiny_dir: Path, tiny_lm: HookedLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.svec"
    ran(capsys, "export", run, "--format", "svec", "--layers", 0, "--alpha", 1, "--out", file)
    assert json.loads(file.read_text(encoding="utf-8"))["model_type"] == "mistral"
    ran(capsys, "import", file, "--model", tiny_dir, "--out", tmp_path / "back")
    load_steering(tmp_path / "back").check_model(tiny_lm)


def test_an_import_is_traced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder, rows = tmp_path / "x.json", tmp_path / "back", tmp_path / "rows.parquet"
    wanted = ("--method", "sttp", "--layers", 0, 2, "--alpha", 3, "--format", "vllm")
    ran(capsys, "export", run, *wanted, "--out", file)
    ran(capsys, "import", file, "--out", folder)
    asked = ("trace", run, "--steering", folder, "--prompt", "what is a lion")
    page = tmp_path / "page.html"
    said = ran(capsys, *asked, "--parquet", rows, "--html", page)
    assert "prompt/back" in said
    assert "prompt: back" in page.read_text(encoding="utf-8")
    table = read_traces(rows).to_pandas()
    assert sorted(set(table["layer"])) == [0, 2]
    assert set(table["method"]) == {"sttp"}
    probes = ProbeSet.load(run)
    for layer in (0, 2):
        probe, at_layer = probes.probe(layer), table[table["layer"] == layer]
        assert (at_layer["threshold"] == probe.boundary).all()
        assert (at_layer["target"] == probe.mu_pos + 3 * probe.sigma_pos).all()
    code, said = refused(capsys, *asked, "--alpha", 2)
    assert (code, "leave out method, layer, alpha, scope" in said) == (2, True)
    main([*map(str, asked)])
    assert "does not say for which model it is" in capsys.readouterr().err


def test_usage(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own"
    ran(capsys, "export", run, "--out", own)
    for arguments, code, text in (
        (("export", own, "--alpha", 3, "--out", own), 2, "holds one intervention"),
        (("export", run, "--layers", 0, 1, "--out", own), 2, "have no operating point; give --al"),
        (("export", run, "--method", "sttp", "--out", own), 1, "no operating point of sttp in all"),
        (("export", tmp_path / "no", "--out", own), 1, "no"),
        (("import", own, "--out", own), 1, "load_steering reads it"),
        (("import", tmp_path / "x.gguf", "--out", own), 1, "there is no"),
        (("import", own, "--out", own, "--run", run, "--model", "m"), 2, "not both"),
        (("export", run, "--format", "onnx", "--out", own), 2, "onnx"),
    ):
        got, said = refused(capsys, *arguments)
        assert (got, text in said) == (code, True), said
    assert refused(capsys, "export", own, "--format", "gguf", "--scope", "all", "--out", own)
