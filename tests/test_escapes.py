"""Names in artifacts and archives are text: none of them leads a writer or a reader elsewhere."""

import json
import re
import shutil
import string
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fault_cases import WRITTEN
from fuzz_artifacts import RUN_FILES, write_run
from fuzz_foreign import FOREIGN_FILES
from interp_steer.analysis.upkeep import why_due
from interp_steer.cells import METHODS, Cell, GridError, steered_cell
from interp_steer.config import FitConfig
from interp_steer.errors import InterpSteerError, ModelError, RunError, SteeringError
from interp_steer.explorer.library import ExplorerError
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.variants import Variant, keep_variant
from interp_steer.files import atomic_write_json, remove_leftovers
from interp_steer.fit_stage import fit
from interp_steer.model import HookedLM
from interp_steer.report.page import write_report
from interp_steer.run_figures import write_trace_pages
from interp_steer.runs import Run
from interp_steer.scenarios import save_scenarios
from interp_steer.study import Sources, start_study, versions
from interp_steer.suites.multi_turn import run_multi_turn
from interp_steer.sweep_stage import select, sweep
from interp_steer.trace_stage import trace_examples, trace_name
from planted import Planted, makes_folder
from study_cases import SAMPLING, SWEEP, WordJudge, scenarios
from suite_cases import subject

HOSTILE = (
    "../../escaped",
    "/tmp/escaped",
    "..",
    "a/b",
    "a\\b",
    "a\0b",
    "~/escaped",
    "-rf",
    "x" * 300,
    "\n",
    "a\u202eb",
)
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- names that become paths


@settings(max_examples=20)
@given(
    method=st.sampled_from(METHODS),
    layer=st.integers(0, 10**6),
    alpha=st.floats(allow_nan=False, allow_infinity=False),
    scope=st.one_of(
        st.sampled_from(["all", "response", "prompt", "first:8+last_prompt", *HOSTILE]),
        st.text(alphabet=string.printable, max_size=8),
        st.integers(1, 99).map("first:{}".format),
    ),
)
def test_the_name_of_a_trace_is_a_plain_file_name(
    method: str, layer: int, alpha: float, scope: str
) -> None:
    cell = steered_cell(method=method, layer=layer, alpha=alpha, scope=scope)
    try:
        name = trace_name(cell)
    except SteeringError:
        assert scope not in ("all", "response", "prompt")
        return
    assert re.fullmatch(r"[a-z0-9_.+-]+", name) and name[0] in "s"


def test_a_variant_is_kept_under_a_plain_name_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    before = tree(tmp_path)
    for name in HOSTILE:
        variant = Variant(name=name, selection=Selection(), threshold=None, target=None, fired={})
        with pytest.raises(ExplorerError, match="a variant's name starts with a letter or digit"):
            keep_variant(run, variant)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("key", ["method", "scope", "threat"])
@pytest.mark.parametrize("name", HOSTILE)
def test_an_operating_point_of_such_a_name_is_refused(tmp_path: Path, key: str, name: str) -> None:
    path = tmp_path / "operating_points.json"
    point = {"method": "sttp", "scope": "all", "threat": "malicious_prompt"}
    entry = point | {"layer": 1, "alpha": 1.0, key: name}
    atomic_write_json(path, {"operating_points": [entry]})
    reader = RUN_FILES["operating points, figures"].read
    with pytest.raises(RunError, match=r"operating_points\.json, operating point 1: "):
        reader(path)


@pytest.mark.parametrize("threat", HOSTILE)
def test_a_cell_of_such_a_threat_is_refused(threat: str) -> None:
    with pytest.raises(GridError, match="threat must be"):
        Cell(side="aligned", threat=threat)


@pytest.mark.parametrize("entry", ["inputs", "absent", "tables"])
def test_a_sidecar_leads_nobody_out_of_the_run(tmp_path: Path, entry: str) -> None:
    """/dev/zero would be hashed for ever."""
    run = write_run(tmp_path)
    (run.analyses_folder / "cells.parquet").write_bytes(b"x")
    said = {"inputs": {}, "absent": [], "tables": ["cells"], "versions": versions()}
    sidecar = run.analyses_folder / "cells.json"
    atomic_write_json(sidecar, said)
    assert why_due(run, "cells") is None  # the control
    refusals = ("made from files that are not the run's", "not made yet")
    for place in (*HOSTILE[:3], "/dev/zero", "sweep/../../x", "//dev/zero"):
        changed = {entry: {place: "x"} if entry == "inputs" else [place]}
        atomic_write_json(sidecar, said | changed)
        assert why_due(run, "cells") in refusals, place


def test_a_device_behind_a_link_is_no_input(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run.analyses_folder / "cells.parquet").write_bytes(b"x")
    (run.path / "projections.parquet").unlink()
    (run.path / "projections.parquet").symlink_to("/dev/zero")
    said = {"inputs": {"projections.parquet": "x"}, "tables": ["cells"], "versions": versions()}
    atomic_write_json(run.analyses_folder / "cells.json", said)
    assert why_due(run, "cells") == "made before projections.parquet changed"


# ---------------------------------------------------------------- archives


@pytest.mark.parametrize("form", ["lm-eval", "assistant-axis", "vllm, bare"])
def test_members_of_an_archive_are_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    artifact, here = FOREIGN_FILES[form], tmp_path / "deep" / "cwd"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    path = artifact.write(here)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../escaped", "../../escaped", str(tmp_path / "escaped")):
            archive.writestr(name, b"x")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")
    before = tree(tmp_path)
    try:
        artifact.read(path)
    except InterpSteerError as error:
        assert path.name in str(error)
    assert tree(tmp_path) == before
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_that_is_a_link_is_replaced_and_its_target_is_left(
    tmp_path: Path, name: str
) -> None:
    artifact, folder, outside = WRITTEN[name], tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    artifact.write(folder, 0)
    for number, path in enumerate([p for p in folder.rglob("*") if p.is_file()]):
        if path.name != ".lock":
            path.rename(outside / str(number))
            path.symlink_to(outside / str(number))
    before = tree(outside)
    artifact.write(folder, 1)
    assert tree(outside) == before
    assert artifact.read(folder) == 1


def test_leftovers_behind_a_link_are_not_ours(tmp_path: Path) -> None:
    run, outside = Run.create(tmp_path / "run"), tmp_path / "out"
    outside.mkdir()
    (outside / ".x.tmp").write_text("theirs")
    (run.path / "sweep").symlink_to(outside)
    (run.path / ".y.tmp").symlink_to(outside / ".x.tmp")
    remove_leftovers(run.path)
    assert (outside / ".x.tmp").read_text() == "theirs"


# ---------------------------------------------------------------- names of files that users give


@pytest.mark.parametrize("name", [n for n, a in FOREIGN_FILES.items() if a.has_name])
def test_names_that_no_file_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    suffix = FOREIGN_FILES[name].write(tmp_path).suffix
    for stem in ("a\0b", "x" * 5000, "/".join(["d"] * 3000)):
        if name == "judge's answers":
            continue  # it is given a folder
        with pytest.raises(InterpSteerError):
            FOREIGN_FILES[name].read(Path(stem) / f"{stem}{suffix}")


# ---------------------------------------------------------------- all together


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), [("../../escaped", 0), ("a\0b\n\u202e<script>", 2)])
def test_a_study_of_hostile_names_stays_in_its_run(
    tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path, name: str, seed: int
) -> None:
    """Trait, scenarios and categories of such a name, from the fit to the report.

    With these seeds no training response of the random model is empty.
    """
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    scenes = [
        replace(s, id=f"{name}{s.id}", trait=name, category=f"{name}{s.category}")
        for s in scenarios()
    ]
    save_scenarios(folder / "scenarios.jsonl", scenes)
    sources = Sources(model=str(tiny_dir), scenarios=folder / "scenarios.jsonl")
    study = start_study(folder / "run", tiny_lm, sources, sampling=replace(SAMPLING, seed=seed))
    model_before = tree(tiny_dir)
    fit(study, FitConfig(sampling=SAMPLING, responses_per_scenario=2))
    sweep(study, replace(SWEEP, control_draws=0), judge=WordJudge())
    trace_examples(study, select(study.run), n_scenarios=2)
    write_trace_pages(study.run)
    run_multi_turn(subject("multi-turn", study, turns=2, limit=2))
    write_report(study.run.path, folder / "run" / "report.html")
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and folder / "run" not in p.parents]
    assert outside == [folder / "scenarios.jsonl"]
    inside = [p.relative_to(folder / "run") for p in (folder / "run").rglob("*")]
    assert len(inside) > 15
    strange = [p for p in inside if not all(PLAIN.fullmatch(part) for part in p.parts)]
    assert [str(p) for p in strange if p.name != ".lock"] == []
    assert tree(tiny_dir) == model_before
    assert list(Path("/tmp").glob("*escaped*")) == []
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "<script>test-" not in page
    assert ("u003cscript" in page) == ("<script>" in name)


def test_the_tensors_of_a_hostile_archive_are_read_as_numbers(tmp_path: Path) -> None:
    """The control: a plain archive is read."""
    path = FOREIGN_FILES["lm-eval"].write(tmp_path)
    assert bool(torch.isfinite(FOREIGN_FILES["lm-eval"].read(path).probes.v_hat).all())


# ---------------------------------------------------------------- models


class TestCodeInAModel:
    def test_python_beside_the_weights_is_not_run(self, tmp_path: Path, tiny_dir: Path) -> None:
        model, ran = tmp_path / "model", tmp_path / "ran"
        shutil.copytree(tiny_dir, model)
        config = json.loads((model / "config.json").read_text())
        config["auto_map"] = {
            "AutoConfig": "planted.Config",
            "AutoModelForCausalLM": "planted.Model",
        }
        (model / "config.json").write_text(json.dumps(config))
        (model / "planted.py").write_text(f"open({str(ran)!r}, 'w')\nConfig = Model = object\n")
        HookedLM.load(model)
        config["model_type"] = "unheard_of"  # which planted.py alone could load
        (model / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError):
            HookedLM.load(model)
        assert not ran.exists()

    def test_pickled_weights_run_nothing(self, tmp_path: Path, tiny_dir: Path) -> None:
        model, ran = tmp_path / "model", tmp_path / "ran"
        shutil.copytree(tiny_dir, model)
        (model / "model.safetensors").unlink()
        torch.save({"model.norm.weight": Planted(ran)}, model / "pytorch_model.bin")
        with pytest.raises(ModelError, match="a pickle that holds more than tensors"):
            HookedLM.load(model)
        assert not ran.exists()
        assert makes_folder(model / "pytorch_model.bin", ran)  # the control: it is armed
