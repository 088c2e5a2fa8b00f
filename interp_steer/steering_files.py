"""One intervention as two files to hand on: `steering.json` and `steering.safetensors`.

A run holds everything that was tried. What goes to a colleague or into a service is one spec with
its directions and numbers. The JSON says all of it (`steering_record`) but the vectors, whose hash
it has. That files load does not say that they steer the model at hand: their directions mean
something in one residual stream only, and `SavedSteering.check_model` compares the weights.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from interp_steer.errors import RunError, SteeringError
from interp_steer.files import atomic_write_json, atomic_write_tensors, read_json, read_tensors
from interp_steer.model import HookedLM
from interp_steer.model_identity import processing_difference
from interp_steer.probes import ProbeSet
from interp_steer.specs import SteeringSpec
from interp_steer.steering_record import check_format, read_steering, steering_record

JSON_NAME, TENSORS_NAME = "steering.json", "steering.safetensors"

_REMEDY = "save the steering again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedSteering:
    """What `load_steering` read: `with steer(lm, saved.spec, saved.probes): ...`."""

    spec: SteeringSpec
    """The intervention, as asked for."""
    probes: ProbeSet
    """The probes of its layers."""
    provenance: dict[str, Any]
    """Model, hashes, versions; values of JSON."""

    def check_model(self, lm: HookedLM) -> None:
        """Refuse another model than the one that the probes were fitted on.

        Raises:
            SteeringError: `lm` has other weights, or the same in another dtype or processed
                otherwise; or the steering was imported from a file that does not say for which
                model it is.
        """
        wanted, got = self.provenance, lm.identity()
        if wanted["weights"] is None:
            raise SteeringError(
                "expected a steering that names its model, got one imported from "
                f"{wanted.get('imported', {}).get('file')!r}, which does not; import it with "
                "--model or --run, or leave this check out if you know that it is for this model"
            )
        if difference := processing_difference(wanted, got["weight_processing"]):
            raise SteeringError(f"the steering is for {wanted['model']!r} with {difference}")
        if wanted["weights"] == got["weights"]:
            return
        dtype = wanted.get("dtype")
        is_cast = wanted["model"] == got["model"] and dtype not in (None, got["dtype"])
        remedy = f"load it with dtype=torch.{dtype}" if is_cast else "load that model"
        raise SteeringError(
            f"the steering is for the model {wanted['model']!r} (weights {wanted['weights']:.12}, "
            f"{dtype or 'dtype unknown'}), got {got['model']!r} (weights {got['weights']:.12}, "
            f"{got['dtype']}); {remedy}, or fit probes on this one"
        )


def run_provenance(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of what is saved out of a run, from its manifest; no model is loaded.

    Name of the model, hashes of weights, tokenizer, chat template and scenarios, dtype, trait,
    versions.
    """
    return {
        **manifest["model"],
        "scenarios": manifest["pins"]["scenarios"],
        "trait": manifest["trait"],
        "versions": manifest["versions"],
    }


def save_steering(
    folder: str | os.PathLike[str],
    spec: SteeringSpec,
    probes: ProbeSet,
    *,
    provenance: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write `steering.json` and `steering.safetensors` into `folder`, each atomically.

    Args:
        folder: made if it is not there; the files of an earlier save are replaced.
        spec: the intervention.
        probes: have a probe at each of its layers.
        provenance: at least `model` (name) and `weights` (hash), for instance `run_provenance`;
            values of JSON. Both may be None for stand-ins (`stand_ins`).

    Returns:
        The two files.

    Raises:
        SteeringError: a control, a provenance that does not name the model, or a spec that does not
            fit its probes (`specs.resolve`).
        ProbeError: a layer without probe.
        RunError: the files cannot be written, or a value is none of JSON.
    """
    folder = Path(folder)
    chosen = replace(probes, probes=tuple(probes.probe(layer) for layer in spec.layers))
    record = steering_record(spec, chosen, provenance)
    tensors = {"v_hat": chosen.v_hat, "layers": torch.tensor(chosen.layers)}
    # The JSON last: a writer killed between the two leaves a pair that loading refuses.
    atomic_write_tensors(folder / TENSORS_NAME, tensors)
    atomic_write_json(folder / JSON_NAME, record)
    return folder / JSON_NAME, folder / TENSORS_NAME


def load_steering(folder: str | os.PathLike[str]) -> SavedSteering:
    """Read what `save_steering` wrote; steering with it gives bit-identical residuals.

    Raises:
        SteeringError: a missing or damaged file, another format or version, files that do not
            belong together, or numbers that are not finite or do not follow from each other.
    """
    path = Path(folder) / JSON_NAME
    try:
        record = read_json(path, remedy=_REMEDY)
        check_format(record)
        tensors, _ = read_tensors(path.with_name(TENSORS_NAME), remedy=_REMEDY)
        spec, probes = read_steering(record, tensors)
    except RunError as error:
        raise SteeringError(str(error)) from error
    except SteeringError as error:
        raise SteeringError(f"cannot use {path}: {str(error)[:500]}; or {_REMEDY}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise SteeringError(
            f"cannot use {path}: it is not as it was written ({repr(error)[:300]}); {_REMEDY}"
        ) from error
    return SavedSteering(spec=spec, probes=probes, provenance=probes.provenance)


def loading_code(
    folder: str | os.PathLike[str], *, model: str | None = None, shown_as: str | None = None
) -> str:
    """The lines of Python that load the steering in `folder` and generate with it.

    Args:
        folder: where `save_steering` wrote.
        model: what to give `HookedLM.load`; by default the recorded name, which of a local model is
            its directory's name alone.
        shown_as: how the code names the folder, where that is not where it is now.

    Raises:
        SteeringError: see `load_steering`.
    """
    provenance = load_steering(folder).provenance
    name = model or provenance["model"] or "the model that it is for"
    dtype = provenance.get("dtype") or "float32"
    is_known = provenance["weights"] is not None
    is_plain = dtype == "float32"  # what HookedLM.load does by itself
    lines = [
        *([] if is_plain else ["import torch", ""]),
        "from interp_steer.model import GenerationSettings, HookedLM, Prompt",
        "from interp_steer.steering import steer",
        "from interp_steer.steering_files import load_steering",
        "",
        f"lm = HookedLM.load({name!r}{'' if is_plain else f', dtype=torch.{dtype}'})",
        f"saved = load_steering({shown_as or os.fspath(folder)!r})",
        *(["saved.check_model(lm)"] if is_known else []),
        'prompt = lm.tokenize(Prompt.chat("Who are you?"))',
        "with steer(lm, saved.spec, saved.probes):",
        '    (made,) = lm.generate([prompt], GenerationSettings(), sample_keys=["1"])',
        "print(made.text)",
    ]
    return "\n".join(lines) + "\n"
