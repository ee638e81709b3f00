"""Cards: what is claimed of a loss, kept beside its code and verified by machine.

A `Card` holds how to draw inputs for a loss, its formula in plain mathematics and its claimed
properties; the decorator `card` puts it into the table `CARDS` and returns the function unchanged.
Everything that runs over the whole catalogue (tests, tables, reports) starts from that table.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import numpy as np

Values = Literal["element", "example", "list", "sequence", "batch"]
Elicits = Literal["mean", "median", "quantile", "probability", "mode"]
Invariance = Literal["shift", "scale", "translation", "permutation"]
Constant = float | Callable[..., float]


# Domains -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Domain:
    """What an argument may hold and how to draw it.

    ``draw(rng, shape)`` gives ordinary values for predictions of that shape; ``edges`` are the
    values at which floating point or a definition is tried hardest. A domain of ``rows`` constrains
    the last axis as a whole, so that what it draws has its edges in it; one with ``drops`` has no
    last axis (one label a row); ``soft`` ones are labels that may lie between the certain ones. A
    hyper-parameter of a ``whole`` domain has the shape of the predictions, and not one value for
    all that one value of the loss stands for.
    """

    name: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    edges: tuple[float, ...] = ()
    outside: tuple[float, ...] = ()
    rows: bool = False
    drops: bool = False
    soft: bool = False
    whole: bool = False


def _simplex(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rows that sum to 1, every third one-hot and every third with zeros."""
    rows = rng.gamma(0.7, size=shape) + 1e-3
    kind = np.arange(math.prod(shape[:-1])).reshape(shape[:-1])[..., None] % 3
    rows = np.where((kind == 1) & (rows < np.median(rows, -1, keepdims=True)), 0.0, rows)
    rows = np.where(kind == 2, rows == rows.max(-1, keepdims=True), rows)
    return rows / rows.sum(-1, keepdims=True)


def _log_simplex(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rows from nearly uniform to all but certain."""
    logits = rng.normal(size=shape) * 10 ** rng.uniform(-1.0, 2.5, (*shape[:-1], 1))
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def _log_targets(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Those of rows of which many are one-hot or have zeros."""
    with np.errstate(divide="ignore"):
        return np.log(_simplex(rng, shape))


def _probability(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Half of them certain: exactly 0 or 1."""
    return np.where(rng.random(shape) < 0.5, rng.integers(0, 2, shape), rng.random(shape))


REAL = Domain(
    "any real number",
    lambda rng, shape: rng.normal(scale=3.0, size=shape),
    (0.0, 1.0, -1.0, 1e-30, -1e-6, 1e-4, 0.5, -17.0, 89.0, -1e4, 1e30, -1e30),
)
LOGIT = Domain(
    "any real number or infinity",
    lambda rng, shape: rng.normal(scale=5.0, size=shape),
    (*REAL.edges, 17.0, -80.3, 103.0, math.inf, -math.inf),
)
LOG_PROBABILITIES = Domain(
    "the logarithms of probabilities along the axis", _log_simplex, rows=True
)
COSINE = Domain(
    "a number in [-1, 1]",
    lambda rng, shape: rng.uniform(-1.0, 1.0, shape),
    (0.0, 0.5, -1.0, 1.0),
    (-1.1, 1.5, math.nan),
)
DEGREE = Domain(
    "a number of at least 1",
    lambda rng, shape: 1.0 + rng.lognormal(size=shape),
    (1.0, 2.0, 3.0),
    (0.5, -2.0, math.nan),
)
LOG_TARGETS = Domain(
    "the logarithms of probabilities along the axis, minus infinity for 0", _log_targets, rows=True
)
EMBEDDING = Domain(
    "a vector along the axis", lambda rng, shape: rng.normal(size=shape), (0.0, 1.0, 1e-30, -1e30)
)
PROBABILITY = Domain(
    "a number in [0, 1]", _probability, (0.0, 1.0, 0.5), (-0.1, 1.1, math.nan), soft=True
)
PROBABILITIES = Domain(
    "numbers in [0, 1] that sum to 1 along the axis",
    _simplex,
    outside=(-0.5, math.nan),
    rows=True,
    soft=True,
)
RELEVANCE = Domain(
    "a grade of at least 0",
    lambda rng, shape: rng.integers(0, 4, shape).astype(float),
    (0.0, 1.0),
    (-1.0, math.nan),
    soft=True,
)
SIGN = Domain(
    "-1 or 1", lambda rng, shape: rng.choice([-1.0, 1.0], shape), (-1.0, 1.0), (0.0, 0.5, math.nan)
)
CLASS = Domain(
    "the index of a class",
    lambda rng, shape: rng.integers(0, max(shape[-1], 1), shape[:-1]).astype(np.int32),
    outside=(-1, -100, 1_000_000),
    drops=True,
)
ONE_HOT = Domain(
    "1 for one class along the axis, else 0",
    lambda rng, shape: np.eye(shape[-1])[rng.integers(0, max(shape[-1], 1), shape[:-1])],
    outside=(-1.0, 0.5, math.nan),
    rows=True,
)
GROUP = Domain(
    "an integer that names a group",
    lambda rng, shape: rng.integers(0, 3, shape[:-1]).astype(np.int32),
    drops=True,
)
UNIT = Domain(
    "a number in [0, 1]", lambda rng, shape: rng.random(shape), (0.0, 0.1, 0.5, 1.0), (-0.1, 1.5)
)
POSITIVE = Domain(
    "a positive number",
    lambda rng, shape: rng.lognormal(size=shape),
    (1e-3, 1.0, 100.0),
    (-1.0, math.nan),
)
NONNEGATIVE = Domain(
    "a number of at least 0",
    lambda rng, shape: rng.lognormal(size=shape),
    (0.0, 0.5, 1.0, 5.0),
    (-1.0, math.nan),
)
ABOVE_MINUS_ONE = Domain(
    "a number above -1",
    lambda rng, shape: rng.lognormal(sigma=2.0, size=shape) - 1.0,
    (0.0, 1.0, -0.5, 1e-6, -1e-4, 1e-30, 17.0, 1e4, 1e30),
    (-1.5, -1.0, math.nan),
)
NONZERO = Domain(
    "any number but 0",
    lambda rng, shape: rng.normal(scale=3.0, size=shape),
    (1.0, -1.0, 1e-30, -1e-6, 0.5, -17.0, 89.0, 1e30, -1e30),
    (0.0, math.nan),
)
COEFFICIENT = Domain(
    "any number; claims are for those of at least -1",
    lambda rng, shape: rng.lognormal(size=shape) - 1.0,
    (-1.0, 0.0, 2.0),
)
COUNT = Domain(
    "a count, or another number of at least 0",
    lambda rng, shape: rng.poisson(rng.lognormal(1.0, 1.5, shape)).astype(float),
    (0.0, 1.0, 2.0, 17.0, 1000.0),
    (-1.0, math.nan),
    soft=True,
)
LOG_RATE = Domain(
    "any real number or minus infinity",
    lambda rng, shape: rng.normal(scale=3.0, size=shape),
    (0.0, 1.0, -1.0, 1e-30, -1e-6, 0.5, 3.0, -17.0, 80.0, -80.3, -1e4, -1e30, -math.inf),
)
RATE = Domain(
    "a number of at least 0",
    lambda rng, shape: rng.lognormal(sigma=4.0, size=shape),
    (0.0, 1e-6, 0.5, 1.0, 3.0, 1e4, 1e30),
    (-1.0, math.nan),
)
BINARY = Domain(
    "0 or 1",
    lambda rng, shape: rng.integers(0, 2, shape).astype(float),
    (0.0, 1.0),
    (-1.0, 0.5, math.nan),
)


# Cards -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Card:
    r"""What is claimed of a loss. None means that nothing is claimed.

    Args:
      name: the loss's name.
      loss: the function itself.
      family: the module it stands in, as ``"regression"``.
      values: what one value stands for: an element, an example (a row), a list of items to rank, a
        sequence (of frames, which are rows), or the whole batch.
      predictions: the domain of the first argument.
      targets: the domain of the second.
      hyper: domains of the hyper-parameters that are traced.
      exact: ``exact(m, predictions, targets, **hyper)``, the formula as the source states it, for
        one value: on numbers, on lists of numbers for an example or a list, on a list of lists for
        a sequence or a batch. ``m`` is mpmath, where exp, log and the like come from.
      source: author, year, title.
      also: the same loss elsewhere: peer to its name there.
      ulp: how many units of ``eps * |exact|`` value and gradient may be off.
      scale: what these units count of where it is larger than the exact value: a constant, or a
        function of the hyper-parameters, or ``"input"``, the largest magnitude in the row of
        predictions (``inputs`` in such a function), or ``"unit"``, 1 for value and gradient alike,
        as suits logarithms of sums of probabilities. Losses of a residual count from the residual
        as floating point rounds it.
      minimum: the smallest value there is. One of 0 claims also that no value is negative.
      minimizer: predictions at which the minimum is taken, a function of ``targets`` and those
        hyper-parameters that it names.
      maximum: the largest value there is, for a bounded loss.
      convex: convex in the predictions.
      lipschitz: the smallest constant that bounds the norm of the gradient, or a function of the
        hyper-parameters.
      smooth: likewise for the spectral norm of the Hessian.
      kinks: the predictions at which the gradient jumps, likewise; ``False`` claims a gradient
        everywhere.
      symmetric: predictions and targets may be swapped.
      elicits: what the best constant prediction tells of random targets.
      invariant: what leaves the value unchanged: adding a constant to the predictions (shift) or to
        both arguments (translation), a positive factor on the predictions (scale), one permutation
        of both along the last axis (permutation).
      given: hyper-parameters at which all this is claimed, where it is not for any.
      form: ``form(loss)`` is a loss ``(predictions, targets, *, hyper, where)`` for which all this
        is claimed, where the function itself has other arguments, or makes losses of losses.
    """

    name: str
    loss: Callable[..., Any] = field(repr=False)
    family: str
    values: Values
    predictions: Domain
    targets: Domain
    exact: Callable[..., Any]
    source: str
    hyper: Mapping[str, Domain] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)
    ulp: int = 4
    scale: Constant | Literal["input", "unit"] = 0.0
    minimum: float | None = None
    minimizer: Callable[..., Any] | None = None
    maximum: float | None = None
    convex: bool | None = None
    lipschitz: Constant | None = None
    smooth: Constant | None = None
    kinks: Callable[..., Any] | Literal[False] | None = None
    symmetric: bool | None = None
    elicits: Elicits | None = None
    invariant: tuple[Invariance, ...] = ()
    given: Mapping[str, float] = field(default_factory=dict)
    form: Callable[[Any], Callable[..., Any]] | None = field(default=None, repr=False)

    @property
    def summary(self) -> str:
        """The first sentence of the loss's docstring."""
        return (inspect.getdoc(self.loss) or "").split("\n")[0]

    def constant(
        self,
        claim: Literal["lipschitz", "smooth", "scale", "minimizer", "kinks"],
        **arguments: Any,
    ) -> Any:
        """A claim at given hyper-parameters (and ``targets``); defaults serve for the rest."""
        value: Any = getattr(self, claim)
        if not callable(value):
            return value
        wanted = inspect.signature(value).parameters
        return value(
            **{name: x for name, x in {**self.defaults, **arguments}.items() if name in wanted}
        )

    @property
    def unreduced(self) -> Callable[..., Any]:
        """The loss in its usual form, with all values where it averages them as its peers do."""
        loss = self.form(self.loss) if self.form else self.loss
        reduces = "reduce_fn" in inspect.signature(loss).parameters
        return partial(loss, reduce_fn=None) if reduces else loss

    @property
    def arguments(self) -> tuple[str, str]:
        """What the loss calls its predictions and its targets."""
        first, second, *_ = inspect.signature(self.unreduced).parameters
        return first, second

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of each traced hyper-parameter."""
        parameters = inspect.signature(self.unreduced).parameters
        return {name: parameters[name].default for name in self.hyper}


CARDS: dict[str, Card] = {}

Loss = TypeVar("Loss", bound=Callable[..., Any])


def card(**claims: Any) -> Callable[[Loss], Loss]:
    """Puts a card for the decorated loss into `CARDS` and returns the loss itself.

    The family is the name of the loss's module.

    Args:
      **claims: the other fields of `Card`.

    Raises:
      TypeError: a field is unknown or missing.

    >>> from jloss.card import REAL
    >>> @jloss.card(
    ...     values="element",
    ...     predictions=REAL,
    ...     targets=REAL,
    ...     exact=lambda m, prediction, target: (prediction - target) ** 4,
    ...     source="this example",
    ...     convex=True,
    ... )
    ... def quartic_error(predictions, targets, *, where=None):
    ...     return (predictions - targets) ** 4
    >>> jloss.CARDS.pop("quartic_error").convex
    True
    """

    def put(loss: Loss) -> Loss:
        family = loss.__module__.rsplit(".", 1)[-1]
        CARDS[loss.__name__] = Card(name=loss.__name__, loss=loss, family=family, **claims)
        return loss

    return put
