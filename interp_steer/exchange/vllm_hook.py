"""SwFC, StTP and StMP inside vLLM, as a hook of vllm-lens.

vllm-lens calls a hook with the residual stream of one request's tokens, [token, d_model], as it
leaves a block (for fused layers the sum of both halves), and puts back what the hook returns.
`steer_tokens` is that edit as a pure function of a tensor and a payload, the same arithmetic as the
hooks of this library (`interventions`), so their laws hold for it and are tested. A hook sees no
positions it could trust (prompts arrive in pieces, cached or recomputed), so the scope is always
`all`.

Tested: the function, and the hook inside vllm-lens' own `Hook`. UNTESTED for want of a GPU: a
running vLLM engine, tensor or pipeline parallelism, CUDA graphs, speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.interventions import Law, edit, move, project, stmp_law, sttp_law, swfc_law
from interp_steer.specs import Direction, Method

_REMEDY = "pip install vllm-lens (Python 3.12 or newer, with vLLM)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Payload:
    """What is done at one layer. Names of the numbers as in the authors' payloads."""

    method: Method
    """Which of the numbers count."""
    v_hat: Float[Tensor, "d_model"]
    """Unit direction, float32."""
    direction: Direction = "aligned"
    """aligned: tokens below the threshold fire. reversed: those above it."""
    shift: float | None = None
    """swfc: what is added to every projection (this project's; the authors have none)."""
    threshold: float | None = None
    """sttp, stmp: the gate, in projection units."""
    target: float | None = None
    """sttp: the new projection of a token that fires."""
    coefficient: float | None = None
    """stmp: alpha."""
    cap: float | None = None
    """stmp: upper limit of the new projection; None for none."""

    def __post_init__(self) -> None:
        needed = {
            "swfc": ("shift",),
            "sttp": ("threshold", "target"),
            "stmp": ("threshold", "coefficient"),
        }[self.method]
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise SteeringError(f"expected a payload of {self.method} with {', '.join(missing)}")
        if self.method == "stmp" and self.direction == "reversed" and self.cap is not None:
            raise SteeringError(
                "expected a cap with direction aligned alone, got one with reversed: the cap of a "
                "payload is an upper limit and a reversed stmp needs a lower one; turn v_hat round"
            )

    @property
    def sign(self) -> int:
        """+1 aligned, -1 reversed."""
        return 1 if self.direction == "aligned" else -1

    def law(self) -> Law:
        """The arithmetic, in the coordinates sign * rho.

        Raises:
            SteeringError: a cap below the threshold.
        """
        sign = self.sign
        if self.shift is not None and self.method == "swfc":
            return swfc_law(alpha=1.0, delta_mu=sign * self.shift)
        threshold = sign * (self.threshold or 0.0)
        if self.method == "sttp":
            return sttp_law(threshold=threshold, target=sign * (self.target or 0.0))
        return stmp_law(threshold=threshold, alpha=self.coefficient or 0.0, cap=self.cap)


def steer_tokens(
    h: Float[Tensor, "*token d_model"], payload: Payload
) -> Float[Tensor, "*token d_model"]:
    """Return the steered residual stream of some tokens; `h` is not written to.

    h' = h + (rho' - rho) v_hat with rho = <h, v_hat> in float32; a token that does not fire keeps
    its bits. The result has the dtype and the device of `h`.
    """
    v_hat = payload.v_hat.to(device=h.device, dtype=torch.float32)
    rho = project(h, v_hat)
    shift = move(payload.sign * rho, payload.law()).shift
    return edit(h, v_hat, payload.sign * shift)


@runtime_checkable
class HookContext(Protocol):
    """What vllm-lens tells a hook, as far as it is read here."""

    layer_idx: int


class PayloadHook:
    """The `fn` of a vllm-lens `Hook`: one payload a layer.

    Sent over HTTP it is pickled by reference: interp_steer must be installed where vLLM runs.

    Args:
        payloads: by zero-based layer.
    """

    def __init__(self, payloads: Mapping[int, Payload]) -> None:
        if not payloads:
            raise SteeringError("expected a payload for at least one layer, got none")
        self.payloads = dict(payloads)

    def __call__(
        self, ctx: HookContext, hidden_states: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token d_model"] | None:
        """Return the steered residual stream, or None at a layer without payload."""
        payload = self.payloads.get(ctx.layer_idx)
        if payload is None:
            return None
        if payload.v_hat.device != hidden_states.device:  # once, not at every token
            payload = replace(payload, v_hat=payload.v_hat.to(hidden_states.device))
            self.payloads[ctx.layer_idx] = payload
        return steer_tokens(hidden_states, payload)


def vllm_lens_hook(payloads: Mapping[int, Payload]) -> Any:
    """Return a `vllm_lens.Hook` that applies the payloads after their blocks.

        LLM(...).generate(prompts, SamplingParams(extra_args={"apply_hooks": [hook]}))

    Args:
        payloads: by zero-based layer, for instance of `vllm_payloads.read_payloads`.

    Raises:
        SteeringError: vllm-lens is not installed, or no payload.
    """
    try:
        from vllm_lens import Hook  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SteeringError(f"steering in vLLM needs vllm-lens; {_REMEDY}") from error
    return Hook(fn=PayloadHook(payloads), layer_indices=sorted(payloads))
