"""Autocast by the names of precisions."""

import torch

AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device_type: str, precision: str) -> torch.autocast:
    """Autocast of "bf16" or "fp16"; for "float32" none, whatever is on around it."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device_type, dtype, enabled=dtype is not None)
