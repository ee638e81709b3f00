"""Objectives: a model and a loss made one function of parameters and batch. Knows no optimizer."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss.average import Average, Statistic, average

Objective: TypeAlias = Callable[..., Any]

_WANTED = (
    "(inputs, targets), (inputs, targets, weights) or a mapping with the keys inputs, targets "
    "and optionally where, weights"
)


def objective(apply: Callable[..., Any], loss: Callable[..., Array], **hyper: Any) -> Objective:
    r"""The average loss of a model on a batch, as a function of the model's parameters.

    .. math:: \text{objective}(\theta, (x, y)) = \text{average}_i\; L(f_\theta(x_i), y_i)

    Args:
      apply: ``apply(params, inputs) -> predictions``: flax's ``model.apply`` or any function. If
        its signature names ``key``, it is given one while training and None while evaluating, which
        means: no dropout, running statistics. If it names ``model_state``, it is given that and
        returns ``(predictions, model_state)``, the state as it is after this batch.
      loss: ``loss(predictions, targets, where=, **hyper) -> values``: of jloss or your own. A
        metric that gives one value per example, such as `accuracy`, serves as well.
      hyper: hyper-parameters of the loss, fixed here; they may be tracers.

    Returns:
      ``objective(params, batch, *, model_state=None, key=None) -> Average``, or ``(Average, Aux)``
      for a model with a state. The batch is ``(inputs, targets)``, ``(inputs, targets, weights)``
      or a mapping with the keys ``inputs``, ``targets`` and optionally ``where`` and ``weights``.
      The mask ``where`` goes to the loss and to the average. If it has
      the rank of the predictions while the loss has one value per example, it masks classes or
      list items, and an example counts as long as any of its places does. A loss with one value
      for the whole batch counts as long as anything in the batch does. A mask hides NaN in targets
      and predictions, but not in inputs, where it meets the model's own derivative: fill those
      in. ``weights`` go to the average only, and are shaped like the values of the loss.

    Raises:
      TypeError: here, where the loss has no such hyper-parameter; on a batch, where it is of
        another kind, or has a mask while the loss takes none; or where the model names a state and
        is given none, or returns none.
      ValueError: on a batch, where its keys or its shapes do not fit.

    >>> line = lambda params, inputs: params["slope"] * inputs
    >>> robust = jloss.objective(line, jloss.huber_loss, delta=1.0)
    >>> robust({"slope": jnp.array(1.0)}, (jnp.array([1.0, 2.0]), jnp.array([1.0, 5.0]))).value
    Array(1.25, dtype=float32)

    Dropout and batch normalisation in flax's linen:

    >>> def apply(params, inputs, *, model_state, key):
    ...     rngs = {} if key is None else {"dropout": key}
    ...     training = key is not None
    ...     variables = {"params": params, **model_state}
    ...     return model.apply(variables, inputs, training, rngs=rngs, mutable=["batch_stats"])
    """
    name = _name(loss)
    takes_where = _check_hyper(loss, name, hyper)
    stateful = "model_state" in _named(apply)

    def averaged(
        params: Any, batch: Any, *, model_state: Any = None, key: Array | None = None
    ) -> Average | tuple[Average, Aux]:
        inputs, targets, where, weights = _parts(batch)
        if stateful and model_state is None:
            raise TypeError(
                f"objective: the model {_name(apply)} names a model_state and was given none; "
                "start with jloss.init(params, optimizer, model_state=...), or give it by "
                "functools.partial(objective, model_state=...)"
            )
        predictions = _given(apply, params, inputs, model_state=model_state, key=key)
        if stateful:
            predictions, model_state = _pair(predictions, _name(apply))
        if where is None:
            values = loss(predictions, targets, **hyper)
        elif takes_where:
            values = loss(predictions, targets, where=where, **hyper)
        else:
            raise TypeError(
                f"objective: the batch has a mask `where`, but {name} takes none; "
                "give it an argument where=None that hides what is masked out"
            )
        values = jnp.asarray(values)
        if where is not None:
            where = _of_values(jnp.asarray(where), values, hyper.get("axis", -1))
        found = average(values, where=where, weights=weights)
        return (found, Aux(model_state)) if stateful else found

    averaged.__name__ = averaged.__qualname__ = f"objective({name})"
    return averaged


class Aux(NamedTuple):
    """What an objective may return beside its average.

    Attributes:
      model_state: what the model changed by itself, as the statistics of a batch normalisation.
      terms: averages by name, to be reported.
    """

    model_state: Any = None
    terms: Mapping[str, Average] = {}


def call(objective: Objective, params: Any, batch: Any, **context: Any) -> tuple[Any, Aux]:
    """An objective's average and what it returned beside it.

    Of the ``context`` (``model_state``, ``key``, ``step``) it is given what its signature names.

    Returns:
      An `Average`, or the `Terms` of `combine`, or another `Statistic` for a metric; and an `Aux`.

    Raises:
      TypeError: it returned something else.
    """
    found = _given(objective, params, batch, **context)
    average, aux = found if isinstance(found, tuple) and len(found) == 2 else (found, Aux())
    if not isinstance(average, Statistic):
        raise TypeError(
            f"an objective must return an Average, not {type(average).__name__}: "
            "end it with jloss.average(values)"
        )
    if not isinstance(aux, Aux):
        raise TypeError(
            "an objective that returns more than its average must return "
            f"(average, jloss.Aux(...)), not a {type(aux).__name__} in second place"
        )
    return average, aux


def _given(function: Callable, *arguments: Any, **context: Any) -> Any:
    """The function of its arguments and of what its signature names of the context."""
    named = _named(function)
    return function(*arguments, **{k: v for k, v in context.items() if k in named})


def _pair(found: Any, name: str) -> tuple[Any, Any]:
    if not (isinstance(found, tuple) and len(found) == 2):
        raise TypeError(
            f"objective: the model {name} names a model_state, so it must return (predictions, "
            f"model_state), not {type(found).__name__}"
        )
    return found


def _named(function: Callable) -> set[str]:
    """The names of the arguments; none for a builtin without a signature."""
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:
        return set()


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check_hyper(loss: Callable, name: str, hyper: Mapping[str, Any]) -> bool:
    """Refuses hyper-parameters that the loss does not have; says whether it takes a mask."""
    if "where" in hyper:
        raise TypeError(
            "objective: a mask belongs to the batch, not to the loss: "
            'batch = {"inputs": ..., "targets": ..., "where": ...}'
        )
    try:
        parameters = inspect.signature(loss).parameters.values()
    except ValueError:  # some builtins have no signature; they complain when they are called
        return True
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return True
    # The first two are predictions and targets, whatever the loss calls them.
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][2:]
    known = [n for n in named if n != "where"]
    unknown = [n for n in hyper if n not in known]
    if unknown:
        raise TypeError(
            f"objective: {name} has no hyper-parameter {', '.join(unknown)}; "
            f"it has {', '.join(known) or 'none'}"
        )
    return "where" in named


def _parts(batch: Any) -> tuple[Any, Any, ArrayLike | None, ArrayLike | None]:
    """``(inputs, targets, where, weights)`` of a batch of any kind."""
    if isinstance(batch, Mapping):
        missing = {"inputs", "targets"} - batch.keys()
        unknown = batch.keys() - {"inputs", "targets", "where", "weights"}
        if missing or unknown:
            raise ValueError(
                f"objective: a batch is {_WANTED}, not a mapping with the keys "
                f"{', '.join(map(str, batch))}"
            )
        return batch["inputs"], batch["targets"], batch.get("where"), batch.get("weights")
    if not isinstance(batch, (tuple, list)):
        raise TypeError(f"objective: a batch is {_WANTED}, not {type(batch).__name__}")
    if len(batch) not in (2, 3):
        raise ValueError(
            f"objective: a batch is {_WANTED}, not a {type(batch).__name__} of {len(batch)}"
        )
    inputs, targets, weights = (*batch, None)[:3]
    if weights is not None and jnp.asarray(weights).dtype == bool:
        # As a weight of 0 it would not hide a NaN, which a mask is there for.
        raise TypeError(
            "objective: the weights of the batch are boolean; "
            'a mask goes in by name: {"inputs": ..., "targets": ..., "where": ...}'
        )
    return inputs, targets, None, weights


def _of_values(where: Array, values: Array, axis: int | tuple[int, ...]) -> Array:
    """The mask of the loss as a mask of its values: an example counts if any part of it does."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    if values.ndim == 0:
        return jnp.any(where)
    if where.ndim == values.ndim + len(axes):
        return jnp.any(where, axis=axes)
    return where
