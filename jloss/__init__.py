"""Losses for JAX: predict, compare, update, and see what the loss surface looks like."""

import importlib
from typing import TYPE_CHECKING, Any

from jloss._devices import one_device_per_core
from jloss.average import (
    Average,
    Statistic,
    Terms,
    average,
    mean,
)
from jloss.card import (
    CARDS,
    Card,
    Domain,
    card,
)
from jloss.check import (
    check,
)
from jloss.losses.binary import (
    multilabel_soft_margin_loss,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
)
from jloss.losses.classification import (
    poly_loss_cross_entropy,
    safe_softmax_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
)
from jloss.losses.contrastive import (
    circle_loss,
    ntxent,
)
from jloss.losses.cosine import (
    cosine_distance,
    cosine_embedding_loss,
    cosine_similarity,
)
from jloss.losses.divergence import (
    convex_kl_divergence,
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from jloss.losses.embedding import (
    hinge_embedding_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from jloss.losses.lambdaweight import (
    dcg2_lambdaweight,
    dcg_lambdaweight,
    labeldiff_lambdaweight,
)
from jloss.losses.linear import (
    AdaptiveSoftmax,
    adaptive_log_softmax,
    adaptive_softmax_cross_entropy,
    adaptive_softmax_init,
    linear_softmax_cross_entropy,
)
from jloss.losses.margin import (
    categorical_hinge_loss,
    hinge_loss,
    multi_margin_loss,
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    multilabel_margin_loss,
    perceptron_loss,
    soft_margin_loss,
    squared_hinge_loss,
)
from jloss.losses.pairwise import (
    margin_ranking_loss,
    pairwise_hinge_loss,
    pairwise_logistic_loss,
    pairwise_loss,
    pairwise_mse_loss,
    pairwise_qr_loss,
    pairwise_soft_zero_one_loss,
    pairwise_squared_hinge_loss,
)
from jloss.losses.penalty import (
    group_lasso_penalty,
    l1_penalty,
    l2_penalty,
    total_variation_penalty,
)
from jloss.losses.probabilistic import (
    binary_cross_entropy,
    categorical_cross_entropy,
    gaussian_nll,
    generalized_cross_entropy,
    nll_loss,
    poisson_nll,
    poisson_nll_with_rates,
)
from jloss.losses.ranking import (
    listmle_loss,
    pointwise_mse_loss,
    pointwise_sigmoid_loss,
    poly1_softmax_ranking_loss,
    ranking_softmax_loss,
    unique_softmax_loss,
)
from jloss.losses.ranking_metric import (
    approx_ndcg_loss,
    approx_t12n,
    bound_t12n,
    gumbel_t12n,
    segment_t12n,
)
from jloss.losses.regression import (
    absolute_error,
    huber_loss,
    l2_loss,
    log_cosh,
    mean_absolute_percentage_error,
    quantile_loss,
    smooth_l1_loss,
    squared_error,
    squared_log_error,
)
from jloss.losses.segmentation import (
    binary_dice_loss,
    dice_loss,
    generalized_dice_loss,
    multiclass_generalized_dice_loss,
    tversky_loss,
)
from jloss.losses.sequence import (
    ctc_loss,
    ctc_loss_with_forward_probs,
)
from jloss.losses.sparsemax import (
    make_fenchel_young_loss,
    multiclass_sparsemax_loss,
    sparsemax_loss,
)
from jloss.objective import (
    Aux,
    Term,
    combine,
    metric,
    objective,
    penalty,
    term_gradients,
)
from jloss.sweep import (
    Sweep,
    sweep,
)

if TYPE_CHECKING:
    from jloss import balance, curvature, landscape, optimizers, plot
    from jloss._export import export
    from jloss.explanation import Explanation, explain
    from jloss.history import csv_log, json_log, overfitting, tensorboard_log
    from jloss.metrics import accuracy, auc, binned_auc, calibration_error, f1, r2
    from jloss.precision import LossScale, mixed_precision
    from jloss.sharding import shard, shard_rows
    from jloss.statistics import GradientStatistics, gradient_statistics
    from jloss.train import NotFiniteError, fit
    from jloss.update import Ema, State, init, step, steps

__version__ = "0.1.0"

__all__ = [
    "CARDS",
    "AdaptiveSoftmax",
    "Aux",
    "Average",
    "Card",
    "Domain",
    "Ema",
    "Explanation",
    "GradientStatistics",
    "LossScale",
    "NotFiniteError",
    "State",
    "Statistic",
    "Sweep",
    "Term",
    "Terms",
    "absolute_error",
    "accuracy",
    "adaptive_log_softmax",
    "adaptive_softmax_cross_entropy",
    "adaptive_softmax_init",
    "approx_ndcg_loss",
    "approx_t12n",
    "auc",
    "average",
    "balance",
    "binary_cross_entropy",
    "binary_dice_loss",
    "binned_auc",
    "bound_t12n",
    "calibration_error",
    "card",
    "categorical_cross_entropy",
    "categorical_hinge_loss",
    "check",
    "circle_loss",
    "combine",
    "convex_kl_divergence",
    "cosine_distance",
    "cosine_embedding_loss",
    "cosine_similarity",
    "csv_log",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "curvature",
    "dcg2_lambdaweight",
    "dcg_lambdaweight",
    "dice_loss",
    "explain",
    "export",
    "f1",
    "fit",
    "gaussian_nll",
    "generalized_cross_entropy",
    "generalized_dice_loss",
    "generalized_kl_divergence",
    "gradient_statistics",
    "group_lasso_penalty",
    "gumbel_t12n",
    "hinge_embedding_loss",
    "hinge_loss",
    "huber_loss",
    "init",
    "json_log",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l1_penalty",
    "l2_loss",
    "l2_penalty",
    "labeldiff_lambdaweight",
    "landscape",
    "linear_softmax_cross_entropy",
    "listmle_loss",
    "log_cosh",
    "make_fenchel_young_loss",
    "margin_ranking_loss",
    "mean",
    "mean_absolute_percentage_error",
    "metric",
    "mixed_precision",
    "multi_margin_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "ntxent",
    "objective",
    "one_device_per_core",
    "optimizers",
    "overfitting",
    "pairwise_hinge_loss",
    "pairwise_logistic_loss",
    "pairwise_loss",
    "pairwise_mse_loss",
    "pairwise_qr_loss",
    "pairwise_soft_zero_one_loss",
    "pairwise_squared_hinge_loss",
    "penalty",
    "perceptron_loss",
    "plot",
    "pointwise_mse_loss",
    "pointwise_sigmoid_loss",
    "poisson_nll",
    "poisson_nll_with_rates",
    "poly1_softmax_ranking_loss",
    "poly_loss_cross_entropy",
    "quantile_loss",
    "r2",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "segment_t12n",
    "shard",
    "shard_rows",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "smooth_labels",
    "soft_margin_loss",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    "sparsemax_loss",
    "squared_error",
    "squared_hinge_loss",
    "squared_log_error",
    "step",
    "steps",
    "sweep",
    "tensorboard_log",
    "term_gradients",
    "total_variation_penalty",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "tversky_loss",
    "unique_softmax_loss",
]

# Rooms that many programs never enter open when they are first asked for.
_LATER = {room: room for room in ("balance", "curvature", "landscape", "optimizers", "plot")} | {
    "Ema": "update",
    "Explanation": "explanation",
    "GradientStatistics": "statistics",
    "LossScale": "precision",
    "NotFiniteError": "train",
    "State": "update",
    "accuracy": "metrics",
    "auc": "metrics",
    "binned_auc": "metrics",
    "calibration_error": "metrics",
    "csv_log": "history",
    "explain": "explanation",
    "export": "_export",
    "f1": "metrics",
    "fit": "train",
    "gradient_statistics": "statistics",
    "init": "update",
    "json_log": "history",
    "mixed_precision": "precision",
    "overfitting": "history",
    "r2": "metrics",
    "shard": "sharding",
    "shard_rows": "sharding",
    "step": "update",
    "steps": "update",
    "tensorboard_log": "history",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'jloss' has no attribute {name!r}")
    room = importlib.import_module(f"jloss.{_LATER[name]}")
    return room if name == _LATER[name] else getattr(room, name)
