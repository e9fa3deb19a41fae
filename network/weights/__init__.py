"""Files of weights, our own and every released one, through one door; one module per code base."""

from segdistill.network.weights.checkpoint import LoadReport, load_network, load_weights

__all__ = ["LoadReport", "load_network", "load_weights"]
