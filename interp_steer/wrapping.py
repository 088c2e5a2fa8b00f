"""From a model, whatever its class, to the runner that calls it."""

from typing import Any

from interp_steer.errors import ModelError
from interp_steer.forwarding import ChunkRunner
from interp_steer.hooked_transformer import HookedTransformerRunner, is_hooked_transformer
from interp_steer.runners import ModelRunner


def runner_of(model: Any, *, reference: bool = False) -> ModelRunner:
    """Return the runner of a model, or a runner itself.

    Args:
        model: a `TransformerBridge`, a `HookedTransformer`, or a `ModelRunner` for another class.
        reference: of a bridge, run everything through its own components.

    Raises:
        ModelError: another class, `reference` for another than a bridge, or what the runner of the
            class refuses.
    """
    if not isinstance(model, ModelRunner) and not is_hooked_transformer(model):
        if hasattr(model, "original_model") and hasattr(model, "hook_dict"):
            return ChunkRunner(model, reference=reference)
        raise ModelError(
            f"HookedLM wraps a TransformerLens TransformerBridge, got {type(model).__name__}; "
            "boot one with TransformerBridge.boot_transformers, or use HookedLM.load. It also "
            "wraps a HookedTransformer of TransformerLens 3.x, and any other model behind a "
            "ModelRunner of your own"
        )
    if reference:
        raise ModelError(
            f"reference is of a TransformerBridge, got {type(model).__name__}, whose own "
            "components always run; leave it out"
        )
    return model if isinstance(model, ModelRunner) else HookedTransformerRunner(model)
