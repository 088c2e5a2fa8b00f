"""The table of formats, and the two doors: export what a format can carry, import what a file says.

Why a table: a refusal names the formats that can. A format that cannot hold a gate, a target, a cap
or a scope never drops it in silence, because the file would steer something else and look right.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from interp_steer.errors import SteeringError
from interp_steer.exchange import (
    aisteer360,
    assistant_axis,
    gguf_files,
    lm_eval_steered,
    svec,
    torch_files,
    vllm_payloads,
)
from interp_steer.exchange.carried import OPERATIONS, Incoming, ModelFacts, Operation, Outgoing
from interp_steer.exchange.choices import ReadOptions, WriteOptions
from interp_steer.probes import ProbeSet
from interp_steer.specs import SteeringSpec
from interp_steer.steering_files import JSON_NAME, SavedSteering, load_steering, save_steering

_ALL: frozenset[Operation] = frozenset(OPERATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format: what it can carry, how it is written and read."""

    title: str
    """Whose it is."""
    carries: frozenset[Operation]
    """Operations that it expresses exactly."""
    write: Callable[[Path, Outgoing, WriteOptions], tuple[Path, ...]] | None = None
    """Writes it; None where it is only read."""
    read: Callable[[Path, ReadOptions], Incoming] | None = None
    """Reads it; None for this library's own, which `steering_files` reads."""
    carries_scope: bool = False
    """Whether another scope than all can be said."""


def _write_own(path: Path, outgoing: Outgoing, _: WriteOptions) -> tuple[Path, ...]:
    return save_steering(path, outgoing.spec, outgoing.probes, provenance=outgoing.provenance)


FORMATS: Mapping[str, Format] = {
    "steering": Format(
        title="this library's folder: steering.json and steering.safetensors",
        carries=_ALL,
        write=_write_own,
        carries_scope=True,
    ),
    "gguf": Format(
        title="repeng and llama.cpp",
        carries=frozenset({"add"}),
        write=lambda path, outgoing, _: gguf_files.write_gguf(path, outgoing),
        read=lambda path, _: gguf_files.read_control_vector(path),
    ),
    "svec": Format(
        title="activation-steering, AISteer360",
        carries=frozenset({"add"}),
        write=lambda path, outgoing, options: svec.write_svec(
            path, outgoing, site=options.svec_site
        ),
        read=lambda path, options: svec.read_svec(path, site=options.svec_site),
    ),
    "lm-eval": Format(
        title="the steered model of lm-evaluation-harness",
        carries=frozenset({"add", "clamp"}),
        write=lambda path, outgoing, options: lm_eval_steered.write_lm_eval(
            path, outgoing, hookpoint=options.hookpoint
        ),
        read=lambda path, _: lm_eval_steered.read_lm_eval(path),
    ),
    "assistant-axis": Format(
        title="capping configs of assistant-axis",
        carries=frozenset({"cap"}),
        write=lambda path, outgoing, _: assistant_axis.write_caps(path, outgoing),
        read=lambda path, options: assistant_axis.read_caps(path, experiment=options.experiment),
    ),
    "vllm": Format(
        title="payloads for vLLM",
        carries=_ALL,
        write=lambda path, outgoing, _: vllm_payloads.write_payloads(path, outgoing),
        read=lambda path, options: vllm_payloads.read_vllm(path, layers=options.layers),
    ),
    "aisteer360": Format(
        title="probe directories of AISteer360",
        carries=frozenset(),
        read=lambda path, options: aisteer360.read_probe(path, alpha=options.alpha),
    ),
}
"""By the name that the command line takes."""


def check_carries(name: str, outgoing: Outgoing) -> None:
    """Refuse a format that cannot carry an intervention exactly, naming those that can.

    Raises:
        SteeringError: no such format, one that is only read, or one that lacks the operation or the
            scope.
    """
    form = _format(name)
    if form.write is None:
        raise SteeringError(f"{form.title} can only be read, got --format {name}")
    operations = outgoing.operations()
    scope = str(outgoing.spec.token_scope)
    able = [other for other, f in FORMATS.items() if f.write and operations & f.carries]
    if not operations & form.carries:
        can = "; ".join(OPERATIONS[one] for one in OPERATIONS if one in form.carries)
        wanted = OPERATIONS[
            "add" if "add" in operations else min(operations & {"target", "mirror"})
        ]
        raise SteeringError(
            f"{name} ({form.title}) carries: {can}. It cannot carry {outgoing.spec.method}, which "
            f"is {wanted}; use --format {' or '.join(able)}"
        )
    if scope != "all" and not form.carries_scope:
        able = [other for other in able if FORMATS[other].carries_scope]
        raise SteeringError(
            f"{name} ({form.title}) steers every token and cannot carry the scope {scope!r}; use "
            f"--format {' or '.join(able)}, or export the scope 'all'"
        )


def export_steering(
    path: str | Path, name: str, outgoing: Outgoing, *, options: WriteOptions | None = None
) -> tuple[Path, ...]:
    """Write an intervention in the format `name`, each file all or nothing.

    Args:
        path: file, or for `steering` folder, to write.
        name: a key of `FORMATS`.
        outgoing: the intervention.
        options: what the format leaves open.

    Raises:
        SteeringError: a format that cannot carry it (`check_carries`).
        RunError: it cannot be written.
    """
    check_carries(name, outgoing)
    write = _format(name).write
    if write is None:
        raise SteeringError(f"{name} can only be read")
    return write(Path(path), outgoing, options or WriteOptions())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Imported:
    """What `import_steering` made of a file."""

    spec: SteeringSpec
    """To every token; strength and scope may be changed."""
    probes: ProbeSet
    """Stand-ins: they steer and hold no statistics."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The model, if it was said which; and the file, with its hash."""
    notes: tuple[str, ...] = ()
    """What was left out or had to be assumed."""

    def save(self, folder: str | Path) -> SavedSteering:
        """Write it as this library's own files, and return what was read back."""
        save_steering(folder, self.spec, self.probes, provenance=self.provenance)
        return load_steering(folder)


def import_steering(
    path: str | Path,
    name: str | None = None,
    *,
    options: ReadOptions | None = None,
    model: ModelFacts | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Imported:
    """Read a file of another format as a steering.

    Args:
        path: file, or for aisteer360 folder.
        name: a key of `FORMATS`; by default what the file looks like.
        options: what the file leaves open.
        model: what is known of the model it is for; the file must fit it.
        provenance: of that model, at least model and weights; by default unknown.

    Raises:
        SteeringError: no such file or format, a file that does not say what to do, or one that does
            not fit the model.
    """
    path, options = Path(path), options or ReadOptions()
    _check_is_there(path)
    name = name or recognised(path)
    read = _format(name).read
    if read is None:
        raise SteeringError(f"{path} is this library's own format; load_steering reads it")
    try:
        incoming = read(path, options).only(options.layers)
        spec, probes = incoming.steering()
    except SteeringError as error:
        raise SteeringError(f"cannot import {path} as {name}: {error}") from error
    notes = incoming.notes + _fits(probes, incoming, model or ModelFacts())
    origin = {
        "format": name,
        "file": path.name,
        "sha256": _hash_of(path),
        "model_type": incoming.model_type,
        "notes": list(notes),
    }
    said = {"model": None, "weights": None, **(provenance or {}), "imported": origin}
    return Imported(
        spec=spec, probes=replace(probes, provenance=said), provenance=said, notes=notes
    )


def _check_is_there(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise SteeringError(f"there is no {path} to import; check the spelling") from error
    except (OSError, ValueError):
        pass  # a reader says what is wrong with it


def recognised(path: Path) -> str:
    """The format that a file looks like.

    Raises:
        SteeringError: none of them.
    """
    if path.is_dir():
        if (path / aisteer360.JSON_NAME).is_file():
            return "aisteer360"
        if (path / JSON_NAME).is_file():
            return "steering"
    by_suffix = {".gguf": "gguf", ".svec": "svec", ".json": "vllm"}
    if path.suffix in by_suffix:
        return by_suffix[path.suffix]
    if path.suffix in (".pt", ".pth") and path.is_file():
        content = torch_files.read_torch(path)
        if "experiments" in content:
            return "assistant-axis"
        return "vllm" if "v_hat" in content else "lm-eval"
    raise SteeringError(
        f"expected a .gguf, .svec, .json, .pt or .pth file or a probe directory, got {path}; give "
        "--format if it has another name"
    )


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise SteeringError(f"expected a format ({', '.join(FORMATS)}), got {name!r}")
    return FORMATS[name]


def _fits(probes: ProbeSet, incoming: Incoming, model: ModelFacts) -> tuple[str, ...]:
    width, last = probes.v_hat.shape[1], max(probes.layers)
    if model.d_model is not None and model.d_model != width:
        raise SteeringError(
            f"expected vectors of width {model.d_model} like the model, got {width}: the file is "
            "for another model"
        )
    if model.n_layers is not None and last >= model.n_layers:
        raise SteeringError(
            f"expected layers 0 to {model.n_layers - 1} of the model, got layer {last}; the file "
            "is for another model, or counts layers otherwise"
        )
    hint = incoming.model_type
    if hint and model.model_type and hint != model.model_type:
        return (f"the file says model type {hint[:40]!r}, the model is {model.model_type!r}",)
    return ()


def _hash_of(path: Path) -> str:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()
