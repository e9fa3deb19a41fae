"""Normalisation layers: BatchNorm fused with its activation, all with the state-dict keys of ``nn.BatchNorm2d``."""

from segdistill.libs.abn import ABN, NORMS, InPlaceABN, InPlaceABNSync, SyncABN, batch_norm, frozen_statistics, get_norm
from segdistill.libs.extension import FALLBACK

__all__ = [
    "ABN",
    "FALLBACK",
    "NORMS",
    "InPlaceABN",
    "InPlaceABNSync",
    "SyncABN",
    "batch_norm",
    "frozen_statistics",
    "get_norm",
]
