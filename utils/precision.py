"""Autocast by the names of precisions."""

import logging

import torch

AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

logger = logging.getLogger(__name__)


def autocast(device_type: str, precision: str) -> torch.autocast:
    """Autocast of "bf16" or "fp16"; for "float32" none, whatever is on around it."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device_type, dtype, enabled=dtype is not None)


def warn_if_slow(device_type: str, flag: str, precision: str) -> None:
    """Warn where bfloat16 takes longer than float32: on a CPU that has no instructions for it."""
    if precision == "bf16" and device_type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        logger.warning(
            "%s bf16: this CPU has no instructions for bfloat16, and float32 takes a fraction of the time", flag
        )
