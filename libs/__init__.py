"""Normalisation layers: BatchNorm fused with its activation, all with the state-dict keys of ``nn.BatchNorm2d``."""

from libs.abn import ABN, NORMS, batch_norm, get_norm

__all__ = ["ABN", "NORMS", "batch_norm", "get_norm"]
