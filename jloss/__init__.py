"""Losses for JAX: predict, compare, update, and see what the loss surface looks like."""

from jloss.average import Average, average, mean

__version__ = "0.1.0"

__all__ = ["Average", "average", "mean"]
