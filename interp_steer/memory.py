"""Whether an error says that memory did not suffice."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory did not suffice, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)
