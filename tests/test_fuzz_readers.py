"""Every reader on damaged files: a clear refusal or a correct read, soon, without writing.

A few examples each here; `fuzz_readers.py` searches for as many seconds as HARDEN_SECONDS says, in
a process with little memory and without the run-time type checks of the tests.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz_outcomes
from fuzz_artifacts import RUN_FILES, Artifact, write_run
from fuzz_damage import damage_bytes, damaged
from fuzz_foreign import FOREIGN_FILES
from fuzz_outcomes import outcome, shape_of
from interp_steer.cli import main
from interp_steer.errors import InterpSteerError, RunError, SteeringError
from interp_steer.exchange.torch_files import read_torch, write_torch
from interp_steer.files import (
    atomic_write_json,
    atomic_write_tensors,
    read_json,
    read_table,
    read_tensors,
)
from interp_steer.model import HookedLM
from interp_steer.study import reopen_study
from interp_steer.suites.foreign_files import read_foreign
from study_cases import new_study

ROOT = Path(__file__).resolve().parents[1]
EVERY: Mapping[str, Artifact] = {**RUN_FILES, **FOREIGN_FILES}
Whole = tuple[Path, bytes, Any]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """Every artifact as its writer makes it, and what it says."""
    found = {}
    for place, (name, artifact) in enumerate(EVERY.items()):
        path = artifact.write(tmp_path_factory.mktemp(f"a{place}"))
        found[name] = (path, path.read_bytes(), shape_of(artifact.read(path)))
    return found


@settings(max_examples=4)
@given(rng=st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", EVERY)
def test_damage_is_refused_by_name_or_does_not_matter(
    wholes: dict[str, Whole], name: str, rng: random.Random
) -> None:
    artifact, (path, content, whole) = EVERY[name], wholes[name]
    way, broken = damaged(artifact.kind, content, rng)
    path.write_bytes(broken)
    try:
        is_kept = artifact.is_checked and way == "bytes"
        _, wrong = outcome(artifact, path, expected=whole if is_kept else None)
    finally:
        path.write_bytes(content)
    assert wrong is None


@pytest.mark.slow
def test_a_search_finds_nothing(tmp_path: Path) -> None:
    """Thousands of files; seeds go on where HARDEN_SEED says, the same ones by default."""
    seconds, seed = os.environ.get("HARDEN_SECONDS", "8"), os.environ.get("HARDEN_SEED", "1")
    script = ROOT / "tests" / "fuzz_readers.py"
    done = subprocess.run(
        [sys.executable, str(script), seed, seconds],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["findings"] == {}
    # The control: nearly every reader refuses some of the damage, and much is read all the same.
    counts = found["counts"]
    assert [name for name in EVERY if f"{name}: refused" not in counts] == [
        "sidecar of an analysis",  # a damaged one only means that the analysis is made again
        "judge's answers",  # a damaged line is skipped and asked again
    ]
    n_read = sum(n for name, n in counts.items() if name.endswith(": read"))
    assert 0.1 < n_read / sum(counts.values()) < 0.9
    assert list(tmp_path.iterdir()) == []


class TestFindings:
    """The control: what a bad reader does is found."""

    @pytest.fixture
    def artifact(self, tmp_path: Path) -> tuple[Artifact, Path]:
        artifact = EVERY["steering.safetensors"]
        return artifact, artifact.write(tmp_path)

    @pytest.mark.parametrize(
        ("read", "said"),
        [
            (lambda _: {}["pins"], "KeyError: 'pins'"),
            (lambda _: (x for x in ()).throw(MemoryError), "MemoryError"),
            (lambda path: path.with_suffix(".new").write_text("x"), "reading changed files"),
            (lambda path: path.write_bytes(path.read_bytes() + b"x"), "reading changed files"),
            (lambda _: 1, "another value than was written"),
            (lambda _: time.sleep(5), "TooLongError: more than 0.2 s"),
            (lambda _: _refuse("no"), "does not name the file: no"),
            (lambda path: _refuse(f"{path} {'x' * 4000}"), "a message of 4"),
        ],
    )
    def test_a_bad_reader(
        self,
        artifact: tuple[Artifact, Path],
        monkeypatch: pytest.MonkeyPatch,
        read: Any,
        said: str,
    ) -> None:
        monkeypatch.setattr(fuzz_outcomes, "LONGEST", 0.2)
        good, path = artifact
        expected = shape_of(good.read(path))
        _, wrong = outcome(replace(good, read=read), path, expected=expected)
        assert wrong is not None and said in wrong

    def test_a_good_reader(self, artifact: tuple[Artifact, Path]) -> None:
        good, path = artifact
        assert outcome(good, path, expected=shape_of(good.read(path))) == ("read", None)


def _refuse(said: str) -> None:
    raise RunError(said)


class TestChecksums:
    @pytest.mark.parametrize("name", ["residuals", "token residuals, block", "probes.safetensors"])
    def test_one_changed_bit_anywhere_is_refused_or_does_not_matter(
        self, wholes: dict[str, Whole], name: str
    ) -> None:
        path, content, whole = wholes[name]
        rng = random.Random(3)
        n_refused = 0
        places = sorted(rng.sample(range(len(content)), 120))
        try:
            for place in places:
                broken = bytearray(content)
                broken[place] ^= 1 << rng.randrange(8)
                path.write_bytes(broken)
                try:
                    assert shape_of(EVERY[name].read(path)) == whole
                except InterpSteerError:
                    n_refused += 1
        finally:
            path.write_bytes(content)
        assert n_refused > 100  # most bits matter; those of the checksums' own name do not

    def test_files_of_earlier_versions_have_none_and_are_read(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file({"a": torch.arange(3)}, tmp_path / "old.safetensors", {"who": "me"})
        tensors, metadata = read_tensors(tmp_path / "old.safetensors")
        assert tensors["a"].tolist() == [0, 1, 2] and metadata == {"who": "me"}

    def test_every_dtype_and_shape_comes_back(self, tmp_path: Path) -> None:
        tensors = {
            "bf16": torch.ones(2, 3, dtype=torch.bfloat16),
            "bool": torch.tensor([True, False]),
            "scalar": torch.tensor(2.5),
            "none": torch.zeros(0, 4),
            "turned": torch.arange(6).reshape(2, 3).T,
        }
        atomic_write_tensors(tmp_path / "x.safetensors", tensors)
        found, _ = read_tensors(tmp_path / "x.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


class TestLittleThatStandsForMuch:
    """Files of a few bytes that a trusting reader would turn into gigabytes or years."""

    def lm_eval(self, folder: Path, **changes: Any) -> Path:
        entry = {"action": "clamp", "steering_vector": torch.ones(2), "steering_coefficient": 1.0}
        write_torch(folder / "x.pt", {"layers.1": entry | changes})
        return folder / "x.pt"

    @pytest.mark.parametrize(
        ("vector", "said"),
        [
            (torch.ones(1).expand(2**40), "got 1099511627776 numbers"),
            (torch.ones(1, dtype=torch.float64).expand(2**31), "got 2147483648 numbers"),
            (torch.empty(4, device="meta"), "a tensor without plain numbers .*meta"),
            (torch.ones(4).to_sparse(), "a tensor without plain numbers .*sparse"),
        ],
        ids=["2^40 numbers", "2^31 numbers", "meta", "sparse"],
    )
    def test_a_tensor_larger_than_its_file(
        self, tmp_path: Path, vector: torch.Tensor, said: str
    ) -> None:
        path = self.lm_eval(tmp_path, steering_vector=vector)
        with pytest.raises(SteeringError, match=rf"a vector of numbers at 'layers\.1'.*{said}"):
            EVERY["lm-eval"].read(path)

    def test_brackets_within_brackets(self, tmp_path: Path) -> None:
        """Deep enough for Python's reader and too deep for what walks through the value."""
        for levels, is_read in ((50, True), (101, False), (900, False), (100_000, False)):
            (tmp_path / "x.json").write_text("[" * levels + "]" * levels)
            if is_read:
                read_json(tmp_path / "x.json")
                continue
            with pytest.raises(RunError, match=r"x\.json is damaged .* a deeply nested value"):
                read_json(tmp_path / "x.json")

    @pytest.mark.parametrize("key", ["action", "steering_coefficient", "steering_vector", "bias"])
    def test_lists_that_share_their_parts(self, tmp_path: Path, key: str) -> None:
        laughs: Any = ["ha"]
        for _ in range(60):
            laughs = [laughs, laughs]
        with pytest.raises(SteeringError) as refusal:
            EVERY["lm-eval"].read(self.lm_eval(tmp_path, **{key: laughs}))
        assert len(str(refusal.value)) < 1000

    def test_tables_that_repeat_one_long_text(self, tmp_path: Path) -> None:
        text = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 10_000])
        messages = pa.StructArray.from_arrays(
            [pa.array(["user"] * 20_000), text], names=["role", "content"]
        )
        lists = pa.ListArray.from_arrays(pa.array(range(20_001), pa.int32()), messages)
        pq.write_table(pa.table({"messages": lists}), tmp_path / "a.parquet", store_schema=False)
        assert (tmp_path / "a.parquet").stat().st_size < 200_000
        with pytest.raises(RunError, match="unpacks to more than 10000000 bytes"):
            read_table(tmp_path / "a.parquet", most_bytes=10_000_000)

    @pytest.mark.parametrize("source", ["auditbench", "mask"])
    def test_tables_from_elsewhere_are_held_to_a_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        for module in ("transcript_files", "foreign_files"):
            monkeypatch.setattr(f"interp_steer.suites.{module}.LARGEST", 10)
        path = EVERY["auditbench" if source == "auditbench" else "mask, parquet"].write(tmp_path)
        with pytest.raises(RunError, match="unpacks to more than 10 bytes"):
            read_foreign(path, source=source, trait="honesty")

    @pytest.mark.parametrize("name", ["scenarios", "mt-bench"])
    def test_very_many_keys_or_ids_take_no_square_of_time(self, tmp_path: Path, name: str) -> None:
        path = EVERY[name].write(tmp_path)
        if name == "scenarios":
            line = "{" + ", ".join(f'"k{i}": 1' for i in range(30_000)) + "}"
        else:
            record = {"turns": ["x"]}
            line = "\n".join(json.dumps(record | {"question_id": i}) for i in range(4_000))
            line = f"{line}\n{line}"
        path.write_text(line + "\n", encoding="utf-8")
        started = time.process_time()
        assert outcome(EVERY[name], path) == ("refused", None)
        assert time.process_time() - started < 3  # a tenth of a second; in the square a minute

    def test_a_torch_file_of_one_number_is_no_dict(self, tmp_path: Path) -> None:
        torch.save(1, tmp_path / "x.pt")
        with pytest.raises(SteeringError, match="expected a dict in"):
            read_torch(tmp_path / "x.pt")


class TestNoFiles:
    """What stands where a file should be."""

    @pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name].has_name])
    def test_a_folder_a_lost_link_a_loop_and_a_device(
        self, wholes: dict[str, Whole], name: str
    ) -> None:
        path, content, _ = wholes[name]
        path.unlink()
        try:
            for target in ("nowhere", path.name, "/dev/zero"):
                path.symlink_to(target)
                result = outcome_of_link(EVERY[name], path)
                path.unlink()
                assert result == "refused" or name in READ_WITHOUT, target
            path.mkdir()
            result = outcome_of_link(EVERY[name], path)
            path.rmdir()
            assert result == "refused" or name in READ_WITHOUT
        finally:
            path.write_bytes(content)


READ_WITHOUT = (
    "operating points, suites",  # before `select` there are none
    "operating points, analyses",
    "sidecar of an analysis",
    "judge's answers",
    "manifest, sweep",
)
"""Readers that can go on without their file."""


def outcome_of_link(artifact: Artifact, path: Path) -> str:
    """read or refused, where there are no bytes to look at."""
    try:
        artifact.read(path)
    except InterpSteerError:
        return "refused"
    return "read"


def test_damage_is_damage() -> None:
    """The control: what is drawn differs from the whole file, nearly always."""
    rng = random.Random(1)
    same = sum(damage_bytes(b'{"pins": {}}', rng) == b'{"pins": {}}' for _ in range(300))
    assert same < 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "load"}, "pins the dtype 'load', which is none"),
        ({"dtype": "nn"}, "pins the dtype 'nn', which is none"),
        ({"generation": {"seed": 1, "colour": 2}}, r"does not know \(colour\)"),
        ({"generation": {"seed": 1, "top_p": "much"}}, r"does not know \(top_p\)"),
        ({"generation": {"seed": 1, "temperature": None}}, r"does not know \(temperature\)"),
        ({"generation": []}, "has pins.generation .., which is of another type"),
        ({"dtype": None}, "has pins.dtype None, which is of another type"),
    ],
)
def test_pins_that_no_study_has_are_refused(
    tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path, change: dict[str, Any], said: str
) -> None:
    study = new_study(tmp_path, tiny_lm, tiny_dir)
    assert reopen_study(study.run.path, lm=tiny_lm).sampling == study.sampling  # the control
    manifest = read_json(study.run.manifest_file)
    manifest["pins"] |= change
    atomic_write_json(study.run.manifest_file, manifest)
    with pytest.raises(RunError, match=said):
        # A dtype is asked for where the model is loaded.
        reopen_study(study.run.path, lm=None if "dtype" in change else tiny_lm)


def test_text_of_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": bad}), path)
    assert pq.read_table(path).num_rows == 1  # the control: parquet itself does not look
    for filters in (None, [("a", "!=", "b")]):
        with pytest.raises(RunError, match=r"x\.parquet is damaged or cut short"):
            read_table(path, filters=filters)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["select"],
        ["trace", "--method", "sttp", "--prompt", "Is it?"],
        ["export", "--format", "vllm", "--method", "sttp", "--out", "OUT/x.json"],
        ["report", "--out", "OUT/x.html"],
        ["sweep"],
        ["rescore"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("seed", range(2))
def test_commands_end_with_a_line_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], seed: int
) -> None:
    """On a run of which one file is damaged; the model that it names is not there either."""
    run, rng = write_run(tmp_path).path, random.Random(seed)
    names = ("manifest.json", "operating_points.json", "sweep/part-00000.parquet", "probes.json")
    for name in names:
        whole = (run / name).read_bytes()
        kind = "parquet" if name.endswith("parquet") else "json"
        (run / name).write_bytes(damaged(kind, whole, rng)[1])
        arguments = [word.replace("OUT", str(tmp_path)) for word in command]
        code = main([arguments[0], str(run), *arguments[1:], "--quiet"])
        said = capsys.readouterr().err
        assert code in (0, 1) and "Traceback" not in said
        assert bool(said.strip()) == bool(code)
        (run / name).write_bytes(whole)
