"""Files from elsewhere, damaged or hostile: a clear refusal or a correct read, never for long.

EXCHANGE_FUZZ=2000 searches that many files a test instead of eight.
"""

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchange_cases import CARRIED, file_for
from interp_steer.errors import SteeringError
from interp_steer.exchange.carried import Outgoing
from interp_steer.exchange.choices import ReadOptions
from interp_steer.exchange.formats import export_steering, import_steering
from interp_steer.exchange.gguf_reader import read_gguf
from interp_steer.exchange.torch_files import read_torch, write_torch
from interp_steer.specs import SteeringSpec
from steering_cases import make_probes

FUZZ = settings(
    max_examples=int(os.environ.get("EXCHANGE_FUZZ", "8")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FORMS = ("gguf", "svec", "lm-eval", "assistant-axis", "vllm")


def written(folder: Path, form: str) -> Path:
    """A small valid file of a format."""
    spec = {"method": "swfc", "alpha": 2, "layer": (1, 2)}
    if form == "assistant-axis":
        spec = {"method": "stmp", "alpha": 0.5, "layer": (1, 2)}
    if form == "vllm":
        spec = {"method": "stmp", "alpha": 2, "layer": (1, 2)}
    path = file_for(folder, form)
    probes = make_probes(1, layers=(1, 2), d_model=4)
    provenance = {"model": "m", "weights": "w"}
    outgoing = Outgoing(spec=SteeringSpec(**spec), probes=probes, provenance=provenance)
    export_steering(path, form, outgoing)
    return path


def read_or_refuse(path: Path, form: str) -> None:
    """What is read is whole and finite; anything else is a SteeringError."""
    try:
        got = import_steering(path, form, options=ReadOptions())
    except SteeringError as error:
        assert str(path) in str(error)
        return
    assert bool(got.probes.v_hat.isfinite().all())
    assert bool(((got.probes.v_hat.norm(dim=-1) - 1).abs() < 1e-3).all())
    assert got.probes.layers == got.spec.layers


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("form", FORMS)
def test_changed_bytes(tmp_path: Path, form: str, data: st.DataObject) -> None:
    path = tmp_path / "whole" / file_for(tmp_path, form).name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        written(path.parent, form)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # The front of a file says what the rest is.
        place = data.draw(st.integers(0, min(len(content), 600) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    broken = tmp_path / path.name
    broken.write_bytes(content[:cut])
    read_or_refuse(broken, form)


@FUZZ
@given(content=st.binary(max_size=200))
@pytest.mark.parametrize("form", FORMS)
def test_any_bytes(tmp_path: Path, form: str, content: bytes) -> None:
    path = file_for(tmp_path, form)
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + content if form == "gguf" else content)
    read_or_refuse(path, form)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("form", ["svec", "vllm"])
def test_any_value_anywhere(tmp_path: Path, form: str, data: st.DataObject) -> None:
    path = tmp_path / "whole" / file_for(tmp_path, form).name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        written(path.parent, form)
    record = json.loads(path.read_text(encoding="utf-8"))
    here: Any = record
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
            continue
        here[key] = data.draw(json_values)
        break
    broken = tmp_path / path.name
    broken.write_text(json.dumps(record), encoding="utf-8")
    read_or_refuse(broken, form)


@FUZZ
@given(
    value=st.one_of(json_values, st.just(torch.zeros(2)), st.just(torch.ones(2, dtype=torch.bool)))
)
@pytest.mark.parametrize("key", ["action", "steering_vector", "steering_coefficient", "bias"])
def test_any_value_in_a_torch_file(tmp_path: Path, key: str, value: object) -> None:
    entry = {"action": "clamp", "steering_vector": torch.ones(2), "steering_coefficient": 1.0}
    path = tmp_path / "x.pt"
    write_torch(path, {"layers.1": {**entry, key: value}})
    read_or_refuse(path, "lm-eval")


class TestHostileHeaders:
    """Counts that would keep a trusting reader busy or fill its memory."""

    head = b"GGUF" + struct.pack("<I", 3)

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (struct.pack("<QQ", 2**60, 0), "room for 1152921504606846976 tensors"),
            (struct.pack("<QQ", 0, 2**60), "more bytes"),
            (struct.pack("<QQQ", 0, 1, 2**62), "more bytes"),
            (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 4, 2**61), "more bytes"),
            (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 8, 2**61), "more bytes"),
            (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 9, 2**61), "array of scalars or strings"),
            (struct.pack("<QQQ1sI", 0, 1, 1, b"k", 77), "value type from 0 to 12, got 77"),
            (struct.pack("<QQQ1sI", 1, 0, 1, b"t", 9) + bytes(40), "at most 4 axes, got 9"),
            (struct.pack("<QQQ1sIQQIQ", 1, 0, 1, b"t", 2, 2**40, 2**40, 0, 0), "more bytes"),
            (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 4, 8, 0), "type 8; control vectors are"),
        ],
    )
    def test_gguf(self, tmp_path: Path, body: bytes, said: str) -> None:
        path = tmp_path / "x.gguf"
        path.write_bytes(self.head + body)
        with pytest.raises(SteeringError, match=said):
            read_gguf(path)

    def test_tensors_that_share_their_bytes(self, tmp_path: Path) -> None:
        """A hundred names for the same 4 KiB; of a gigabyte they would fill any memory."""
        path, n, data = tmp_path / "x.gguf", 1024, bytes(4096)

        def described(number: int) -> bytes:
            name = f"direction.{number:04d}".encode()
            head = struct.pack("<Q", len(name)) + name
            return head + struct.pack("<IQIQ", 1, n, 0, 0)

        for count, is_read in ((1, True), (100, False)):
            body = self.head + struct.pack("<QQ", count, 0)
            body += b"".join(described(number) for number in range(count))
            path.write_bytes(body + bytes(-len(body) % 32) + data)
            if is_read:
                assert len(read_gguf(path).tensors) == 1
                continue
            with pytest.raises(SteeringError, match="expected tensors that do not overlap"):
                read_gguf(path)

    def test_versions_and_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "x.gguf"
        for content, said in (
            (b"GGUF" + struct.pack(">I", 3) + bytes(16), "little-endian, got 50331648"),
            (b"GGUF" + struct.pack("<I", 1) + bytes(16), "version 2 or 3, little-endian, got 1"),
            (b"PK\x03\x04", "starts with GGUF"),
        ):
            path.write_bytes(content)
            with pytest.raises(SteeringError, match=said):
                read_gguf(path)

    def test_a_torch_file_that_unpacks_to_more_than_it_may(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10_000))
        monkeypatch.setattr("interp_steer.exchange.torch_files._LARGEST", 5_000)
        with pytest.raises(SteeringError, match="under 4 GiB, got 10000 bytes"):
            read_torch(path)


def test_every_file_that_was_not_changed_is_read(tmp_path: Path) -> None:
    """Control: the refusals above are of the damage."""
    assert set(FORMS) == set(CARRIED) - {"steering"}
    for form in FORMS:
        assert import_steering(written(tmp_path, form), form).spec.layers == (1, 2)
