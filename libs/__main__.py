"""Prints the active implementation of in-place ABN, and the reason: ``python -m segdistill.libs``."""

from segdistill.libs.extension import FALLBACK
from segdistill.libs.sources import library_path

for device, reason in FALLBACK.items():
    print(f"{device}: " + (f"pure PyTorch ({reason})" if reason else f"compiled kernels ({library_path(device).name})"))
