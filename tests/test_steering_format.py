"""Files of every version of the steering format, as they were written, against today's reader."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_steer.errors import SteeringError
from interp_steer.specs import SteeringSpec, resolve
from interp_steer.stand_ins import LayerNumbers, are_stand_ins, stand_in_steering
from interp_steer.steering_files import load_steering, loading_code, save_steering
from interp_steer.steering_record import FORMAT_VERSION
from steering_cases import make_probe, make_probes

HERE = Path(__file__).parent / "steering_format"
SCHEMAS = Path(__file__).resolve().parents[1] / "docs" / "schemas"
WRITTEN = sorted(path.name for path in HERE.iterdir())

# What the files said when they were written, by hand from the statistics of make_probe: aligned 1.2
# and 0.3, malicious -0.9 and 0.45, boundary 0.1.
EXPECTED: dict[str, dict[str, Any]] = {
    "swfc": {"layers": (2,), "alpha": 3, "shift": 6.3},
    "sttp": {"layers": (0, 2), "alpha": 6, "threshold": -0.675, "target": -3.6},
    "stmp": {"layers": (0,), "alpha": 1.5, "threshold": 0.1, "cap": 2.175},
    "imported": {"layers": (0, 2), "alpha": 1.25, "cap": 3.5},
}


def version_of(name: str) -> int:
    return int(name[1])


def test_there_are_files_of_every_version() -> None:
    assert {version_of(name) for name in WRITTEN} == set(range(1, FORMAT_VERSION + 1))
    assert {f"v{v}-{m}" for v in (1, 2) for m in ("swfc", "sttp", "stmp")} < set(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_of_any_version_means_what_it_meant(name: str) -> None:
    saved = load_steering(HERE / name)
    expected = EXPECTED[name.partition("-")[2]]
    assert saved.spec.layers == expected["layers"]
    assert saved.spec.alpha == expected["alpha"]
    assert are_stand_ins(saved.probes) == (name == "v2-imported")
    for layer in saved.spec.layers:
        steering = resolve(saved.spec, saved.probes.probe(layer))
        found = {"threshold": steering.threshold, "target": steering.target, "cap": steering.cap}
        found["shift"] = steering.sign * float(steering.law.offset)
        wanted = {k: v for k, v in expected.items() if k in found}
        assert {k: found[k] for k in wanted} == pytest.approx(wanted)
        own = make_probes(11, layers=(0, 2), d_model=6).probe(layer)
        assert torch.equal(saved.probes.probe(layer).v_hat, own.v_hat)


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_saved_again_as_the_latest_version(name: str, tmp_path: Path) -> None:
    saved = load_steering(HERE / name)
    save_steering(tmp_path, saved.spec, saved.probes, provenance=saved.provenance)
    record = json.loads((tmp_path / "steering.json").read_text(encoding="utf-8"))
    old = json.loads((HERE / name / "steering.json").read_text(encoding="utf-8"))
    assert record["format_version"] == FORMAT_VERSION
    assert {**old, "format_version": FORMAT_VERSION, "statistics": record["statistics"]} == record


@pytest.mark.parametrize("name", WRITTEN)
def test_it_fits_the_schema_of_its_version(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    record = json.loads((HERE / name / "steering.json").read_text(encoding="utf-8"))
    check = jsonschema.Draft202012Validator(_schema(version_of(name)))
    assert list(check.iter_errors(record)) == []
    other = jsonschema.Draft202012Validator(_schema(3 - version_of(name)))
    assert list(other.iter_errors(record))  # control: the schemas tell versions apart
    for broken in ({"alpha": "2"}, {"site": "resid_pre"}, {"layers": []}, {"extra": 1}):
        assert list(check.iter_errors(record | broken))


def _schema(version: int) -> Any:
    return json.loads((SCHEMAS / f"steering-{version}.schema.json").read_text(encoding="utf-8"))


def test_the_latest_version_has_a_schema() -> None:
    assert (SCHEMAS / f"steering-{FORMAT_VERSION}.schema.json").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"statistics": "measured"}, "statistics and its conventions contradict each other"),
        ({"statistics": "guessed"}, "statistics measured or stand_in, got 'guessed'"),
        ({"format_version": 0}, "version 1 to 2, got 0"),
        ({"format_version": True}, "version 1 to 2, got True"),
        ({"format_version": 1}, "contradict each other"),
        ({"provenance": {"model": None}}, "missing: weights"),
    ],
)
def test_an_import_that_was_changed_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(HERE / "v2-imported", folder)
    path = folder / "steering.json"
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(SteeringError, match=said):
        load_steering(folder)


def test_what_is_measured_must_name_its_model(tmp_path: Path) -> None:
    spec, probes = SteeringSpec(method="swfc", layer=0, alpha=1), make_probes(1, layers=(0,))
    with pytest.raises(SteeringError, match="missing: model, weights"):
        save_steering(tmp_path, spec, probes, provenance={"model": None, "weights": None})


def test_the_code_for_an_import_leaves_the_check_out() -> None:
    code = loading_code(HERE / "v2-imported", model="my/model")
    assert "HookedLM.load('my/model')" in code
    assert "check_model" not in code
    assert "check_model" in loading_code(HERE / "v2-stmp")


class TestStandIns:
    v_hat = make_probe(1).v_hat

    @pytest.mark.parametrize("direction", ["aligned", "reversed"])
    def test_the_numbers_come_back_as_they_were(self, direction: str) -> None:
        """Not to rounding: an import may not move a threshold by a bit."""
        down = direction == "reversed"
        given = {"threshold": 0.1 + 0.2, "target": -1 / 3 if down else 7 / 3}
        spec, probes = stand_in_steering(
            "sttp", [LayerNumbers(layer=4, v_hat=self.v_hat, **given)], direction=direction
        )
        got = resolve(spec, probes.probe(4))
        assert {"threshold": got.threshold, "target": got.target} == given
        limit = -5 / 3 if down else 5 / 3
        numbers = LayerNumbers(layer=4, v_hat=self.v_hat, threshold=0.3, cap=limit)
        spec, probes = stand_in_steering("stmp", [numbers], direction=direction, alpha=1.1)
        got = resolve(spec, probes.probe(4))
        assert (got.threshold, got.cap, got.law.gain) == (0.3, limit, 2.2)

    def test_the_strength_may_be_changed(self) -> None:
        numbers = LayerNumbers(layer=1, v_hat=self.v_hat, shift=0.7)
        spec, probes = stand_in_steering("swfc", [numbers])
        assert resolve(spec, probes.probe(1)).law.offset == 0.7
        double = SteeringSpec(method="swfc", layer=1, alpha=2)
        assert resolve(double, probes.probe(1)).law.offset == 1.4

    def test_what_is_missing_is_named(self) -> None:
        bare = LayerNumbers(layer=3, v_hat=self.v_hat, threshold=1.0)
        with pytest.raises(SteeringError, match="finite target at layer 3, got None"):
            stand_in_steering("sttp", [bare])
        with pytest.raises(SteeringError, match="finite shift at layer 3"):
            stand_in_steering("swfc", [bare])
        capped = LayerNumbers(layer=4, v_hat=self.v_hat, threshold=1.0, cap=2.0)
        with pytest.raises(SteeringError, match="a cap at every layer or at none"):
            stand_in_steering("stmp", [bare, capped])

    def test_it_is_no_probe_of_a_trait(self) -> None:
        numbers = LayerNumbers(layer=1, v_hat=self.v_hat, shift=0.7)
        spec, probes = stand_in_steering("swfc", [numbers])
        assert are_stand_ins(probes)
        assert not are_stand_ins(make_probes(1, layers=(0,)))
        other = SteeringSpec(method="sttp", layer=1, alpha=1, direction="reversed")
        with pytest.raises(SteeringError, match="a statistic that is not finite"):
            resolve(other, probes.probe(1))
        assert spec.method == "swfc"
