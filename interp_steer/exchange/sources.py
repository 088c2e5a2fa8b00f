"""Where an intervention to export comes from: a run, or a folder that `save_steering` wrote.

Neither loads a model: what a format wants to know of it (model type, number of blocks) is read from
its config.json where the run's model is a directory that is still there, and left open otherwise.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from interp_steer.errors import RunError, SteeringError
from interp_steer.exchange.carried import ModelFacts, Outgoing
from interp_steer.exchange.choices import SpecChoice
from interp_steer.files import read_json
from interp_steer.probes import ProbeSet
from interp_steer.runs import Run
from interp_steer.specs import SteeringSpec
from interp_steer.steering_files import JSON_NAME, load_steering, run_provenance


def is_steering_folder(path: Path) -> bool:
    """Whether `save_steering` wrote there."""
    return (path / JSON_NAME).is_file()


def outgoing_from_folder(path: Path, *, model_type: str | None = None) -> Outgoing:
    """Return the intervention in a folder of `save_steering`.

    Raises:
        SteeringError: see `load_steering`.
    """
    saved = load_steering(path)
    return Outgoing(
        spec=saved.spec,
        probes=saved.probes,
        provenance=saved.provenance,
        model=ModelFacts(model_type=model_type),
    )


def outgoing_from_run(
    run: Run,
    probes: ProbeSet,
    choice: SpecChoice,
    *,
    point: tuple[int, float] | None = None,
    model_type: str | None = None,
) -> Outgoing:
    """Return an intervention of a run.

    Args:
        run: its manifest names the model.
        probes: the run's.
        choice: what is asked for.
        point: layer and coefficient of the operating point, for what `choice` leaves open.
        model_type: where the model's config.json does not say it or is not there.

    Raises:
        SteeringError: a combination without meaning, or no layer or coefficient.
    """
    layers = choice.layers or (() if point is None else (point[0],))
    alpha = choice.alpha if choice.alpha is not None or point is None else point[1]
    if not layers or alpha is None:
        raise SteeringError("expected layers and a coefficient; give --layers and --alpha")
    spec = SteeringSpec(
        method=choice.method,
        layer=layers[0] if len(layers) == 1 else layers,
        alpha=alpha,
        scope=choice.scope,
        direction=choice.direction,
        threshold=(
            "boundary" if choice.threshold_sigmas is None else ("sigma", choice.threshold_sigmas)
        ),
        cap_sigmas=None if choice.no_cap else choice.cap_sigmas,
    )
    facts = facts_of_source(str(run.manifest["sources"]["model"]))
    return Outgoing(
        spec=spec,
        probes=probes,
        provenance=run_provenance(run.manifest),
        model=ModelFacts(
            model_type=model_type or facts.model_type,
            n_layers=facts.n_layers,
            d_model=probes.v_hat.shape[1],
        ),
    )


def facts_of_run(run: Run) -> ModelFacts:
    """What a run knows of its model without loading it."""
    facts = facts_of_source(str(run.manifest["sources"]["model"]))
    if not run.probes_file.exists():
        return facts
    return replace(facts, d_model=ProbeSet.load(run.path).v_hat.shape[1])


def facts_of_source(model: str) -> ModelFacts:
    """What the config.json of a local model directory says; nothing for a hub's name."""
    try:
        config: Any = read_json(Path(model) / "config.json")
    except RunError:
        return ModelFacts()  # a hub's name, or only a hint is lost
    config = config if isinstance(config, dict) else {}
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    names = (("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd"))
    n_layers, d_model = (
        next((inner[name] for name in group if type(inner.get(name)) is int), None)
        for group in names
    )
    kind = config.get("model_type")
    return ModelFacts(
        model_type=kind if isinstance(kind, str) else None, n_layers=n_layers, d_model=d_model
    )
