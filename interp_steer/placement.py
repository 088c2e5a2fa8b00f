"""Where a model goes, and in which dtype: what a caller may say, read and refused in one place."""

from dataclasses import dataclass
from typing import Literal

import torch

from interp_steer.errors import ModelError

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of Hugging Face to spread a model over devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a model goes, and in which dtype."""

    device: str | None = None
    """One device; None where the model is spread."""
    device_map: str | dict[str, str | int] | None = None
    """How Hugging Face spreads it."""
    n_devices: int | None = None
    """Split evenly over so many GPUs."""
    dtype: torch.dtype = torch.float32
    """Of weights and residual stream."""

    @classmethod
    def of(
        cls,
        device: str | torch.device | None,
        dtype: torch.dtype | str,
        *,
        device_map: str | dict[str, str | int] | None = None,
        n_devices: int | None = None,
    ) -> "Placement":
        """Read what a caller may say: a device map instead of a device, "auto" for the dtype.

        Raises:
            ModelError: a device that is not there, contradicting options, an unknown dtype.
        """
        if device is not None and str(device) in DEVICE_MAPS:
            device, device_map = None, str(device)
        is_spread = device_map is not None or (n_devices or 1) > 1
        if is_spread and device not in (None, "cpu"):
            raise ModelError(
                f"give one device or a device map, not both; got device {str(device)!r} with "
                f"device_map {device_map!r} and n_devices {n_devices}"
            )
        if device_map is not None and (n_devices or 1) > 1:
            raise ModelError("give device_map or n_devices, not both: each says how to spread")
        one = None if is_spread else _checked_device(str(device or "cpu"))
        return cls(
            device=one,
            device_map=device_map,
            n_devices=n_devices if (n_devices or 1) > 1 else None,
            dtype=_dtype(
                dtype, on_gpu=torch.cuda.is_available() if one is None else one.startswith("cuda")
            ),
        )


def _checked_device(device: str) -> str:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(
            f"there is no device {device!r}; use cpu, cuda, cuda:1, mps, or a device map "
            f"({', '.join(DEVICE_MAPS)})"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device {device!r} was asked for and PyTorch sees no CUDA GPU; use --device cpu, or "
            "install a build of PyTorch for your driver"
        )
    return device


def _dtype(dtype: torch.dtype | str, *, on_gpu: bool) -> torch.dtype:
    """Read a dtype; "auto" is bfloat16 on CUDA GPUs and float32 elsewhere."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if on_gpu else torch.float32
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"dtype must be auto, float32, bfloat16 or float16, got {dtype!r}")
    return found
