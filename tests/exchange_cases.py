"""Interventions to send through other formats, and what each tool does with them in plain PyTorch.

The edits below follow the tools' own sources, not this library: the independent means by which a
written file is judged where the tool itself cannot be installed.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_steer.exchange.carried import ModelFacts, Outgoing
from interp_steer.model import HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.specs import SteeringSpec
from interp_steer.steering import steer
from reference import random_sequences
from steering_cases import make_probe

PROVENANCE = {"model": "some/model", "weights": "abc"}
ALWAYS = torch.finfo(torch.float32).max
SPECS: dict[str, dict[str, Any]] = {
    "swfc": {"method": "swfc", "layer": (1, 2), "alpha": 1.7},
    "swfc reversed": {"method": "swfc", "layer": 1, "alpha": 0.6, "direction": "reversed"},
    "sttp": {"method": "sttp", "layer": (0, 2), "alpha": 6},
    "sttp reversed": {"method": "sttp", "layer": 1, "alpha": 2, "direction": "reversed"},
    "sttp cap": {"method": "sttp", "layer": (0, 1), "alpha": 2, "threshold": ("sigma", 2)},
    "sttp cap reversed": {
        "method": "sttp",
        "layer": 2,
        "alpha": -1,
        "threshold": ("sigma", -1),
        "direction": "reversed",
    },
    "sttp open": {"method": "sttp", "layer": 1, "alpha": 3, "threshold": ("value", ALWAYS)},
    "stmp": {"method": "stmp", "layer": (0, 1, 2), "alpha": 1.5, "cap_sigmas": 4},
    "stmp half": {"method": "stmp", "layer": 1, "alpha": 0.5},
    "stmp reversed": {"method": "stmp", "layer": 2, "alpha": 2, "direction": "reversed"},
    "stmp uncapped": {"method": "stmp", "layer": 1, "alpha": 2.5, "cap_sigmas": None},
}
CARRIED = {
    "steering": tuple(SPECS),
    "gguf": ("swfc", "swfc reversed"),
    "svec": ("swfc reversed",),
    "lm-eval": ("swfc", "swfc reversed", "sttp open"),
    "assistant-axis": ("sttp cap", "sttp cap reversed", "stmp half"),
    "vllm": tuple(SPECS),
}
"""By format, the interventions that it carries (svec: none at the tiny model's last layer)."""
PAIRS = [(form, name) for form, names in CARRIED.items() for name in names]
SUFFIXES = {
    "steering": "",
    "gguf": ".gguf",
    "svec": ".svec",
    "lm-eval": ".pt",
    "assistant-axis": ".pt",
    "vllm": ".json",
}


@cache
def probes_for(lm: HookedLM) -> ProbeSet:
    """One probe a layer whose boundary, spread and means fit the model's own projections."""
    probes = []
    seen: dict[int, Tensor] = {}
    readers = {
        layer: lambda resid, _, layer=layer: seen.__setitem__(layer, resid.clone())
        for layer in range(3)
    }
    with lm.hooks(readers):
        lm.forward(random_sequences(lm.d_vocab, (24,), seed=5), return_logits=False)
    for layer in range(3):
        v_hat = make_probe(40 + layer, layer=layer, d_model=lm.d_model).v_hat
        rho = seen[layer].reshape(-1, lm.d_model) @ v_hat
        middle, spread = float(rho.median()), float(rho.std())
        numbers = {
            "boundary": middle,
            "mu_pos": middle + 0.7 * spread,
            "mu_neg": middle - 0.8 * spread,
            "sigma_pos": 0.3 * spread,
            "sigma_neg": 0.4 * spread,
            "delta_mu": 1.5 * spread,
        }
        probes.append(make_probe(40 + layer, layer=layer, d_model=lm.d_model, **numbers))
    return ProbeSet(probes=tuple(probes), conventions={"method": "logistic"}, provenance={})


def outgoing(lm: HookedLM, name: str, **changes: Any) -> Outgoing:
    """A named intervention of the model."""
    return Outgoing(
        spec=SteeringSpec(**(SPECS[name] | changes)),
        probes=probes_for(lm),
        provenance=dict(PROVENANCE),
        model=ModelFacts(model_type="mistral", n_layers=lm.n_layers, d_model=lm.d_model),
    )


def file_for(folder: Path, form: str) -> Path:
    return folder / f"out{SUFFIXES[form]}"


def residuals(lm: HookedLM, spec: SteeringSpec | None, probes: ProbeSet | None) -> list[Tensor]:
    """resid_post [pos, d_model] of every layer for one sequence, steered."""
    seen: dict[int, Tensor] = {}
    readers = {
        layer: lambda resid, _, layer=layer: seen.__setitem__(layer, resid[0].clone())
        for layer in range(lm.n_layers)
    }
    (sequence,) = random_sequences(lm.d_vocab, (21,), n_response=6, seed=3)
    if spec is None or probes is None:
        with lm.hooks(readers):
            lm.forward([sequence], return_logits=False)
    else:
        with steer(lm, spec, probes), lm.hooks(readers):
            lm.forward([sequence], return_logits=False)
    return [seen[layer] for layer in sorted(seen)]


def token_ids(lm: HookedLM) -> list[int]:
    """The sequence of `residuals`."""
    (sequence,) = random_sequences(lm.d_vocab, (21,), n_response=6, seed=3)
    return list(sequence.token_ids)


def add(vector: Tensor) -> Callable[[Tensor], Tensor]:
    """repeng, llama.cpp, activation-steering, lm-eval's add."""
    return lambda h: h + vector


def clamp(vector: Tensor, value: float) -> Callable[[Tensor], Tensor]:
    """lm-eval's clamp."""
    unit = vector / vector.norm()
    return lambda h: h + unit * (value - (h * unit).sum(dim=-1, keepdim=True))


def cap(vector: Tensor, tau: float) -> Callable[[Tensor], Tensor]:
    """assistant-axis' cap."""
    unit = vector / (vector.norm() + 1e-8)
    return lambda h: h - ((h @ unit) - tau).clamp(min=0.0)[:, None] * unit


def payload(entry: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """A vLLM payload, read as arithmetic."""
    unit = torch.tensor(entry["v_hat"])

    def edit(h: Tensor) -> Tensor:
        rho = h @ unit
        if "shift" in entry:
            new = rho + entry["shift"]
        elif "target" in entry:
            new = torch.where(rho < entry["threshold"], entry["target"], rho)
        else:
            mirrored = rho + 2 * entry["coefficient"] * (entry["threshold"] - rho)
            limited = mirrored.clamp(max=entry["cap"])
            new = torch.where(rho < entry["threshold"], limited, rho)
        return h + (new - rho)[:, None] * unit

    assert entry["direction"] == "aligned"
    return edit
