"""Metrics that torchmetrics and scikit-learn do not have, or not at a usable speed."""

from lossatlas.metrics.embedding import linear_probe, map_at_r, recall_at_k, squared_distances

__all__ = ["linear_probe", "map_at_r", "recall_at_k", "squared_distances"]
