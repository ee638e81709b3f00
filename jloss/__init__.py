"""Losses for JAX: predict, compare, update, and see what the loss surface looks like."""

from jloss.average import Average, average, mean
from jloss.card import CARDS, Card, Domain, card
from jloss.losses.classification import (
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jloss.losses.divergence import kl_divergence
from jloss.losses.embedding import ntxent
from jloss.losses.margin import hinge_loss, multiclass_hinge_loss
from jloss.losses.ranking import ranking_softmax_loss
from jloss.losses.regression import (
    absolute_error,
    cosine_distance,
    huber_loss,
    l2_loss,
    log_cosh,
    quantile_loss,
    squared_error,
)

__version__ = "0.1.0"

__all__ = [
    "CARDS",
    "Average",
    "Card",
    "Domain",
    "absolute_error",
    "average",
    "card",
    "cosine_distance",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "l2_loss",
    "log_cosh",
    "mean",
    "multiclass_hinge_loss",
    "ntxent",
    "quantile_loss",
    "ranking_softmax_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "squared_error",
]
