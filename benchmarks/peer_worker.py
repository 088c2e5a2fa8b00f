"""Generation steered by another package, in that package's own environment.

`benchmarks.peer_packages` starts this file with the interpreter of `.venv/peers`, so it imports
nothing of this project. It reads one JSON object a line and answers each with one:

- {"do": "load", "folder", "package"}: the model, as Hugging Face loads it.
- {"do": "steer", "layer", "v_hat", "shift", "gate"}: from now on. Additive where gate is null:
  shift * v_hat is added; else {"below", "target"}: tokens whose projection is below go to target.
- {"do": "work", "prompts", "max_new_tokens", "temperature", "top_p"}: prompts of one length.
- {"do": "generate"}: does the work; answers {"n_tokens"}.
- {"do": "tokens"}: the responses of the last time.
"""

import json
import sys
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class Worker:
    """One model with one package around it."""

    def load(self, *, folder: str, package: str) -> dict[str, Any]:
        """Load the model in float32."""
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None
        self.package = package
        return {}

    def steer(
        self, *, layer: int, v_hat: list[float], shift: float, gate: dict[str, float] | None
    ) -> dict[str, Any]:
        """Say how to steer."""
        direction = torch.tensor(v_hat)
        self.steering = {
            "steering_vectors": _with_steering_vectors,
            "repeng": _with_repeng,
        }[self.package](self.model, layer, direction, shift, gate)
        return {}

    def work(
        self, *, prompts: list[list[int]], max_new_tokens: int, temperature: float, top_p: float
    ) -> dict[str, Any]:
        """Say what to generate."""
        self.prompts = torch.tensor(prompts)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        self.options = {"max_new_tokens": max_new_tokens, "pad_token_id": 0, **sampling}
        return {}

    @torch.no_grad()
    def generate(self) -> dict[str, Any]:
        """Do it, steered."""
        with self.steering() as model:
            mask = torch.ones_like(self.prompts)
            made = model.generate(input_ids=self.prompts, attention_mask=mask, **self.options)
        self.made = made[:, self.prompts.shape[1] :].tolist()
        return {"n_tokens": sum(map(len, self.made))}

    def tokens(self) -> dict[str, Any]:
        """Give what was made."""
        return {"tokens": self.made}


def _with_steering_vectors(
    model: Any, layer: int, v_hat: torch.Tensor, shift: float, gate: dict[str, float] | None
) -> Any:
    """`SteeringVector.apply`; its operators return what is added to the residual stream."""
    from steering_vectors import SteeringVector

    def gated(h: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        rho = h @ unit.flatten()
        return torch.where(rho < gate["below"], gate["target"] - rho, 0.0)[..., None] * unit

    vector = SteeringVector(layer_activations={layer: v_hat}, layer_type="decoder_block")

    @contextmanager
    def steered() -> Any:
        how: dict[str, Any] = {"operator": gated} if gate else {"multiplier": shift}
        with vector.apply(model, **how):
            yield model

    return steered


def _with_repeng(
    model: Any, layer: int, v_hat: torch.Tensor, shift: float, gate: dict[str, float] | None
) -> Any:
    """`ControlModel`; its operators return the new residual stream."""
    from repeng import ControlModel, ControlVector

    def gated(h: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        rho = (h * unit).sum(dim=-1)  # the package masks the vector token by token
        return h + torch.where(rho < gate["below"], gate["target"] - rho, 0.0)[..., None] * unit

    vector = ControlVector(model_type=model.config.model_type, directions={layer: v_hat.numpy()})

    @contextmanager
    def steered() -> Any:
        wrapped = ControlModel(model, [layer])
        how: dict[str, Any] = {"operator": gated} if gate else {"coeff": shift}
        wrapped.set_control(vector, **how)
        try:
            yield wrapped
        finally:
            wrapped.unwrap()

    return steered


def main() -> int:
    """Answer requests until there are no more."""
    worker = Worker()
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever the packages print
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
