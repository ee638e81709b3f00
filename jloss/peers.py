"""What a loss is called elsewhere, and how the convention differs there.

The names come from the cards; here stand further names for the same thing and what no card says.
"""

import difflib
import inspect
from collections.abc import Iterator
from typing import NamedTuple

from jloss.card import CARDS, Card

PEERS = ("optax", "torch", "keras", "sklearn", "rax")
_ABBREVIATED = {
    "F.": "torch.nn.functional.",
    "nn.": "torch.nn.",
    "tf.keras.": "keras.",
    "optax.": "optax.losses.",
}


class Likeness(NamedTuple):
    """A loss of a peer and the one of ours that is like it.

    Args:
      peer: the name there in full, as ``"keras.losses.Huber"``.
      given: the arguments with which it is like ours, as ``"from_logits=True"``, or nothing.
      card: the card of ours.
    """

    peer: str
    given: str
    card: Card


def likenesses() -> Iterator[Likeness]:
    """All losses of peers, by every name that they have there."""
    for card in CARDS.values():
        for library, name in card.also.items():
            called, _, given = f"{library}.{name}".partition("(")
            for peer in (called, *_OTHER_NAMES.get(called, ())):
                yield Likeness(peer, given.rstrip(")"), card)


def like(name: str) -> list[Likeness]:
    """Ours for a peer's name; several where its arguments decide.

    Args:
      name: in full, abbreviated, or its end: ``"torch.nn.HuberLoss"``, ``"F.huber_loss"``,
        ``"HuberLoss"``.

    Returns:
      At least one likeness.

    Raises:
      LookupError: nothing is like it; the message names what comes near.

    >>> from jloss.peers import like
    >>> [found.card.name for found in like("torch.nn.HuberLoss")]
    ['huber_loss']
    """
    short = next(
        (
            short
            for short in _ABBREVIATED
            if name.startswith(short) and not name.startswith(_ABBREVIATED[short])
        ),
        "",
    )
    wanted = _ABBREVIATED.get(short, "") + name.removeprefix(short)
    known = list(likenesses())
    found = [one for one in known if one.peer == wanted]
    found = found or [one for one in known if f".{one.peer}".endswith(f".{wanted}")]
    if found:
        return found
    whole = {one.peer: one.peer for one in known}
    names = whole if "." in wanted else {peer.rpartition(".")[2]: peer for peer in whole}
    near = difflib.get_close_matches(wanted, list(names), n=3, cutoff=0.7)
    hint = f"; near: {', '.join(names[name] for name in near)}" if near else ""
    raise LookupError(f"no loss of {', '.join(PEERS)} is called {name!r}{hint}")


# How the conventions differ ----------------------------------------------------------------------


def differences(found: Likeness) -> dict[str, str]:
    """What is to be changed in a program: order of arguments, input, reduction, axis, and more."""
    library = found.peer.partition(".")[0]
    said = {
        "arguments": _order(library, found.card),
        "input": _input(found),
        "reduction": _reduction(library, found.card),
        "axis": _axis(found.card),
    }
    first_name = next((n for n, others in _OTHER_NAMES.items() if found.peer in others), found.peer)
    return said | _DIFFERENT.get(first_name, {})


def _parameter(card: Card, name: str) -> inspect.Parameter | None:
    return inspect.signature(card.loss).parameters.get(name)


def _order(library: str, card: Card) -> str:
    first, second = card.arguments
    if library in ("keras", "sklearn"):
        return f"(y_true, y_pred) there, ({first}, {second}) here"
    return f"the same order: {first}, {second}"


def _input(found: Likeness) -> str:
    first = found.card.arguments[0].replace("_", " ")
    return f"{first} here; there with {found.given}" if found.given else f"{first} in both"


def _axis(card: Card) -> str:
    axis = _parameter(card, "axis")
    if axis is None:
        return "none"
    return "all in both" if axis.default is None else "the last in both"


def _reduction(library: str, card: Card) -> str:
    ours = "every value" if card.values == "element" else f"one value for each {card.values}"
    if _parameter(card, "reduce_fn"):
        return "reduce_fn, in both"
    if card.values == "batch":
        return "one value for the batch in both"
    return {
        "optax": f"{ours} in both",
        "torch": f"the mean there, unless reduction='none'; {ours} here: jloss.mean(...)",
        "keras": "the class gives the mean over the batch, the function over the last axis; "
        f"{ours} here: jloss.mean(...)",
        "rax": f"the mean there, by reduce_fn; {ours} here: jloss.mean(...)",
        "sklearn": f"the mean there; {ours} here: jloss.mean(...)",
    }[library]


_ON_AXIS_1 = {"axis": "classes on axis 1 there, on the last here: axis=1"}
_IGNORED = {
    "masks": "ignore_index=-100 there; where=labels != -100 here",
    "weights": "weight=w there; jloss.mean(..., weights=w[labels]) here",
}

# What no card and no rule above says, by the peer's first name.
_DIFFERENT: dict[str, dict[str, str]] = {
    "torch.nn.functional.cross_entropy": _ON_AXIS_1 | _IGNORED,
    "torch.nn.functional.nll_loss": _ON_AXIS_1 | _IGNORED,
    "torch.nn.functional.cosine_similarity": {"axis": "dim=1 there, the last here: axis=1"},
    "torch.nn.functional.kl_div": {
        "reduction": "the mean over all elements there; here the sum over the last axis, as with "
        "reduction='batchmean'"
    },
    "torch.nn.functional.gaussian_nll_loss": {
        "constant": "left out there unless full=True; here it is part of the value",
        "variance": "raised to eps=1e-6 there; taken as it is here",
    },
    "torch.nn.functional.poisson_nll_loss": {
        "constant": "log k! is left out there unless full=True, and then approximated"
    },
    "torch.nn.functional.binary_cross_entropy": {
        "clamping": "logarithms not below -100 there; none here"
    },
    "keras.losses.binary_crossentropy": {"clamping": "at 1e-7 there; none here"},
    "keras.losses.categorical_crossentropy": {"clamping": "at 1e-7 there; none here"},
    "keras.losses.kl_divergence": {
        "input": "log-probabilities here, probabilities clamped at 1e-7 there: jnp.log(y_pred)"
    },
    "keras.losses.tversky": {
        "weights": "alpha is of what is missed there, of what is wrongly seen here: interchange "
        "alpha and beta"
    },
    "torch.nn.functional.multilabel_margin_loss": {
        "labels": "indices that -1 ends there; a 0 or 1 for each class here"
    },
    "keras.losses.cosine_similarity": {
        "sign": "negative there, so that it is to be minimised; here take cosine_distance for that"
    },
    "keras.losses.mean_absolute_percentage_error": {
        "zeros": "targets raised to 1e-7 there; NaN here: where=targets != 0"
    },
    "keras.losses.mean_squared_logarithmic_error": {
        "clamping": "at 1e-7 there; none here, above -1"
    },
    "sklearn.metrics.mean_absolute_percentage_error": {
        "unit": "a fraction there, percent here",
        "zeros": "targets raised to 2e-16 there; NaN here: where=targets != 0",
    },
    "sklearn.metrics.mean_squared_error": {"axis": "outputs are averaged as well there"},
}

# Further names that a peer has for the same function: classes and abbreviations.
_OTHER_NAMES: dict[str, list[str]] = (
    {
        f"torch.nn.functional.{function}": [f"torch.nn.{name}" for name in names.split()]
        for function, names in {
            "binary_cross_entropy": "BCELoss",
            "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
            "cosine_embedding_loss": "CosineEmbeddingLoss",
            "cosine_similarity": "CosineSimilarity",
            "cross_entropy": "CrossEntropyLoss",
            "ctc_loss": "CTCLoss",
            "gaussian_nll_loss": "GaussianNLLLoss",
            "hinge_embedding_loss": "HingeEmbeddingLoss",
            "huber_loss": "HuberLoss",
            "kl_div": "KLDivLoss",
            "l1_loss": "L1Loss",
            "linear_cross_entropy": "LinearCrossEntropyLoss",
            "margin_ranking_loss": "MarginRankingLoss",
            "mse_loss": "MSELoss",
            "multi_margin_loss": "MultiMarginLoss",
            "multilabel_margin_loss": "MultiLabelMarginLoss",
            "multilabel_soft_margin_loss": "MultiLabelSoftMarginLoss",
            "nll_loss": "NLLLoss NLLLoss2d",
            "poisson_nll_loss": "PoissonNLLLoss",
            "smooth_l1_loss": "SmoothL1Loss",
            "soft_margin_loss": "SoftMarginLoss",
            "triplet_margin_loss": "TripletMarginLoss",
            "triplet_margin_with_distance_loss": "TripletMarginWithDistanceLoss",
        }.items()
    }
    | {
        f"keras.losses.{function}": [f"keras.losses.{name}"]
        for function, name in {
            "binary_crossentropy": "BinaryCrossentropy",
            "binary_focal_crossentropy": "BinaryFocalCrossentropy",
            "categorical_crossentropy": "CategoricalCrossentropy",
            "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
            "categorical_generalized_cross_entropy": "CategoricalGeneralizedCrossEntropy",
            "categorical_hinge": "CategoricalHinge",
            "circle": "Circle",
            "cosine_similarity": "CosineSimilarity",
            "ctc": "CTC",
            "dice": "Dice",
            "hinge": "Hinge",
            "huber": "Huber",
            "kl_divergence": "KLDivergence",
            "log_cosh": "LogCosh",
            "mean_absolute_error": "MeanAbsoluteError",
            "mean_absolute_percentage_error": "MeanAbsolutePercentageError",
            "mean_squared_error": "MeanSquaredError",
            "mean_squared_logarithmic_error": "MeanSquaredLogarithmicError",
            "poisson": "Poisson",
            "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
            "squared_hinge": "SquaredHinge",
            "tversky": "Tversky",
        }.items()
    }
    | {"optax.losses.generalized_kl_divergence": ["optax.losses.convex_kl_divergence"]}
)
