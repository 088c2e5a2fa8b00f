"""A study: one run directory together with the model, the scenarios and the sampling it is about.

Opening one again loads the same model and the same scenarios and refuses others by name, so that no
stage adds rows made under different conditions. That the weights are the same does not say that
another machine's arithmetic is.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from interp_steer.config import ModelPlace, SamplingConfig
from interp_steer.errors import RunError, ScenarioError
from interp_steer.model import ChatOptions, HookedLM
from interp_steer.model_identity import processing_difference
from interp_steer.runs import Run
from interp_steer.sampling import GenerationSettings
from interp_steer.scenario_sets import find_scenarios
from interp_steer.scenarios import Scenario, load_scenarios, scenario_hash

PACKAGES = ("interp-steer", "torch", "transformers", "transformer-lens", "numpy", "scikit-learn")
"""Packages whose versions a manifest records."""


LATER_PINS = ("config", "weight_processing")
"""Pins that the first runs lack; one that has them is held to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A run with the model, the scenarios and the sampling that it is about."""

    run: Run
    """Where artifacts go."""
    lm: HookedLM
    """The model."""
    scenarios: tuple[Scenario, ...]
    """All scenarios of one trait, both splits."""
    sampling: SamplingConfig
    """How responses are sampled."""

    @property
    def trait(self) -> str:
        """The one trait of the scenarios."""
        return self.scenarios[0].trait

    @property
    def settings(self) -> GenerationSettings:
        """Sampling as the model takes it."""
        return GenerationSettings(**asdict(self.sampling))

    def split(self, name: str) -> tuple[Scenario, ...]:
        """Scenarios of the training or the test split.

        Raises:
            ScenarioError: there are none.
        """
        found = tuple(scenario for scenario in self.scenarios if scenario.split == name)
        if not found:
            raise ScenarioError(
                f"the scenario file has no scenario with split {name!r}; this stage needs some"
            )
        return found

    @property
    def pins(self) -> dict[str, object]:
        """What may not change within the run."""
        return {
            **model_pins(self.lm),
            "scenarios": scenario_hash(self.scenarios),
            "generation": asdict(self.sampling),
        }


def model_pins(lm: HookedLM) -> dict[str, object]:
    """The parts of a model's identity that change what it says; its name and commit are none."""
    names = ("model", "revision")
    return {key: value for key, value in lm.identity().items() if key not in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a run's model and scenarios come from, so that a later stage finds them again."""

    model: str
    """Local directory or hub name."""
    scenarios: Path
    """Scenario file, JSONL, or the name of a bundled set."""


def start_study(out: Path, lm: HookedLM, sources: Sources, *, sampling: SamplingConfig) -> Study:
    """A study in a new run directory, or in one with the same pins.

    Raises:
        ScenarioError: no such file or set, a file that does not fit, or more than one trait.
        RunError: the run was made with something else, by name.
    """
    file = find_scenarios(sources.scenarios)
    scenarios = load_one_trait(file)
    study = Study(run=Run.create(out), lm=lm, scenarios=scenarios, sampling=sampling)
    if study.run.manifest_file.exists():
        _refuse_other_trait(study, file)
        _refuse_other_processing(study)
    study.run.pin(
        study.pins,
        trait=study.trait,
        model=lm.identity(),
        sources={
            "model": _absolute(sources.model),
            "scenarios": str(file.resolve()),
            **({} if lm.revision is None else {"revision": lm.revision}),
        },
        versions=versions(),
    )
    return study


def reopen_study(
    path: Path,
    *,
    place: ModelPlace | None = None,
    lm: HookedLM | None = None,
) -> Study:
    """The study of an existing run, with its own model, dtype, scenarios and sampling.

    Args:
        path: the run directory.
        place: where the model runs; the CPU by default.
        lm: the model itself, where it cannot be loaded by name (quantised on loading, for
            instance); what the run pins is checked all the same.

    Raises:
        RunError: no run there, or its model or scenarios are not what they were.
        ModelError: the model cannot be loaded.
    """
    run = Run.open(path)
    manifest = run.manifest
    if lm is None:
        at = place or ModelPlace()
        lm = HookedLM.load(
            manifest["sources"]["model"],
            device=at.device,
            device_map=at.device_map,
            n_devices=at.n_devices,
            reference=at.reference,
            dtype=_dtype(run),
            revision=manifest["sources"].get("revision"),
            chat=ChatOptions.from_record(manifest["pins"].get("chat")),
        )
    study = Study(
        run=run,
        lm=lm,
        scenarios=run_scenarios(run),
        sampling=_sampling(run),
    )
    _refuse_other_processing(study)
    run.check_pins(_known_pins(run, study.pins))
    return study


def _refuse_other_trait(study: Study, file: Path) -> None:
    """Say so where the scenarios are of another trait than the run's, instead of two hashes."""
    known = study.run.manifest.get("trait", study.trait)
    if known != study.trait:
        raise RunError(
            f"the run {study.run.path} is about {known!r:.60}, and the scenarios of {file} about "
            f"{study.trait!r}; give them a new run directory"
        )


def _refuse_other_processing(study: Study) -> None:
    """Say so where the weights are the run's but processed otherwise, instead of two hashes."""
    run, lm = study.run, study.lm
    if difference := processing_difference(run.manifest["pins"], lm.weight_processing):
        raise RunError(f"the run {run.path} was made with {difference} in a new run directory")


def _dtype(run: Run) -> torch.dtype:
    name = run.manifest["pins"]["dtype"]
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise RunError(
            f"{run.manifest_file} pins the dtype {name!r:.60}, which is none; make the run again"
        )
    return dtype


def _sampling(run: Run) -> SamplingConfig:
    pinned = run.manifest["pins"]["generation"]
    kinds = {f.name: f.type for f in fields(SamplingConfig)}
    wrong = [
        name
        for name, value in pinned.items()
        if name not in kinds or type(value) not in {kinds[name], int}
    ]
    if wrong:
        raise RunError(
            f"{run.manifest_file} pins a generation that this version does not know "
            f"({', '.join(wrong)[:200]}); make the run again"
        )
    return SamplingConfig(**pinned)


def _known_pins(run: Run, pins: Mapping[str, object]) -> dict[str, object]:
    """Without those that runs of earlier versions do not have, where this one does not."""
    known = run.manifest["pins"]
    return {name: v for name, v in pins.items() if name in known or name not in LATER_PINS}


def run_scenarios(run: Run) -> tuple[Scenario, ...]:
    """The scenarios of a run, read from the file they came from.

    Raises:
        RunError: the file holds other scenarios than the run was made with.
    """
    file = Path(run.manifest["sources"]["scenarios"])
    try:
        scenarios = load_one_trait(file)
    except ScenarioError as error:
        raise ScenarioError(
            f"the scenarios of {run.path} cannot be read again: {str(error)[:500]}; put the file "
            f"back where {run.manifest_file} says it was"
        ) from error
    run.check_pins({"scenarios": scenario_hash(scenarios)})
    return scenarios


def load_one_trait(path: Path) -> tuple[Scenario, ...]:
    """Load scenarios and refuse more than one trait."""
    scenarios = load_scenarios(path)
    traits = sorted({scenario.trait for scenario in scenarios})
    if len(traits) > 1:
        raise ScenarioError(
            f"{path} holds scenarios of {len(traits)} traits ({', '.join(traits)}); a run is one "
            "model and one trait, so split the file"
        )
    return scenarios


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def _absolute(model: str) -> str:
    """A local directory's absolute path; a hub name as it is."""
    path = Path(model)
    return str(path.resolve()) if path.is_dir() else model
