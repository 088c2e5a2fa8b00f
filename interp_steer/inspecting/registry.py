"""What Inspect finds through the entry point: provider, solver, task and scorer.

The provider's module loads a model's machinery and is imported when a model is asked for.
"""

from typing import Any

from inspect_ai.model import modelapi  # pyright: ignore[reportMissingImports]

from interp_steer.inspecting.tasks import scenarios, steered, trait_judge

__all__ = ["provider", "scenarios", "steered", "trait_judge"]


@modelapi(name="interp-steer")
def provider() -> Any:
    """The class of models `interp-steer/RUN`."""
    from interp_steer.inspecting.provider import SteeredRunAPI

    return SteeredRunAPI
