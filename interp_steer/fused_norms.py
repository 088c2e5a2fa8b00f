"""RMS norms as one operation where a model writes them out in seven.

Hugging Face's modules spell the norm out, and at small batches an operation costs what it costs to
launch. PyTorch's `rms_norm` computes the same; whether it does for a given module is not guessed
from its name (some add 1 to the weight, some take a gate) but tried on numbers, once a module.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import rms_norm

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Of weights that are taken."""

_TRIED: "WeakKeyDictionary[nn.Module, tuple[torch.dtype, torch.device, bool]]" = WeakKeyDictionary()
"""Norms that were tried, with what they were then and whether they can be fused."""


def fused_forward(norm: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return what a module can use for its `forward` to the same effect; None if it is no RMS norm.

    It reads weight and epsilon at every call, and is for use without gradients.
    """
    if not _looks_like_one(norm):
        return None
    weight: Any = norm.weight
    found = _TRIED.get(norm)
    if found is None or found[:2] != (weight.dtype, weight.device):
        found = (weight.dtype, weight.device, _says_the_same(norm))
        _TRIED[norm] = found
    return partial(_fused, norm) if found[2] else None


def _looks_like_one(norm: Any) -> bool:
    """Whether a module has one weight and an epsilon, and nothing else that its forward reads."""
    if len(norm._parameters) != 1 or norm._modules or norm._buffers or "forward" in vars(norm):
        return False
    weight = norm._parameters.get("weight")
    return (
        type(weight) in (nn.Parameter, Tensor)  # one that is spread over devices is another class
        and weight.ndim == 1
        and weight.dtype in DTYPES
        and not weight.is_meta
        and isinstance(_epsilon(norm), float)
        and _n_arguments(type(norm)) == 2  # self and what it norms
    )


@cache
def _n_arguments(kind: type[nn.Module]) -> int:
    return len(inspect.signature(kind.forward).parameters)


def _epsilon(norm: Any) -> Any:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _says_the_same(norm: Any) -> bool:
    """Whether both give the same on rows of which some are as small as the epsilon."""
    weight = norm.weight
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 6, weight.numel(), generator=generator)
    scales = torch.tensor([1e-4, 1e-3, 1e-2, 1.0, 30.0, 1e3])[:, None]
    x = (rows * scales).to(weight)
    expected, found = norm(x), _fused(norm, x)
    close = 4 * torch.finfo(weight.dtype).eps
    return found.dtype == expected.dtype and torch.allclose(found, expected, rtol=close, atol=1e-30)


def _fused(norm: Any, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Return x / rms(x) * weight, the norm in float32 and rounded before it is scaled."""
    weight, epsilon = norm.weight, _epsilon(norm)
    if x.dtype == torch.float32 == weight.dtype:
        return rms_norm(x, weight.shape, weight, epsilon)
    return weight * rms_norm(x.float(), weight.shape, None, epsilon).to(x.dtype)
