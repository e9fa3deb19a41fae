"""Loading of weight files, our own and released ones; one module per code base."""

from segdistill.network.weights.checkpoint import LoadReport, load_network, load_weights

__all__ = ["LoadReport", "load_network", "load_weights"]
