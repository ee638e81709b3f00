"""Objectives: a model and a loss made one function of parameters and batch. Knows no optimizer."""

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss.average import Average, Statistic, Terms, average

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

    def averaged(
        params: Any, batch: Any, *, model_state: Any = None, key: Array | None = None
    ) -> Average | tuple[Average, Aux]:
        inputs, targets, where, weights = _parts(batch)
        predictions, changed = _predictions(apply, params, inputs, model_state, key)
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
        return found if changed is None else (found, Aux(changed))

    averaged.__name__ = averaged.__qualname__ = f"objective({name})"
    return averaged


def penalty(
    penalty: Callable[[Any], Array], *, of: str | Callable[[Any], Any] | None = None
) -> Objective:
    """A penalty of the params, or of some of them, as an objective: a term for `combine`.

    Args:
      penalty: ``penalty(params) -> number``, such as `l1_penalty`; options go in by
        `functools.partial`.
      of: picks what is penalised: a function of the params, as in ``lambda params:
        params["dense"]``, or a pattern for the places of arrays, as in ``"*/kernel"``, where ``*``
        stands for anything. All, if not given.

    Returns:
      ``objective(params, batch) -> Average`` of weight 1, which ignores the batch.

    Raises:
      ValueError: when called, where no place matches the pattern, or the penalty is no number.

    >>> params = {"kernel": jnp.array([3.0, -4.0]), "bias": jnp.array(7.0)}
    >>> jloss.penalty(jloss.l1_penalty, of="kernel")(params, None).value
    Array(7., dtype=float32)
    """
    name = _name(penalty)

    def penalised(params: Any, batch: Any) -> Average:
        if isinstance(of, str):
            params = _matching(params, of)
        elif of is not None:
            params = of(params)
        value = penalty(params)
        if jnp.shape(value):
            raise ValueError(
                f"penalty: {name} must return one number, not an array of shape {jnp.shape(value)}"
            )
        return average(value)

    penalised.__name__ = penalised.__qualname__ = f"penalty({name})"
    return penalised


def _matching(params: Any, pattern: str) -> list[Array]:
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    found = [leaf for place, leaf in leaves.items() if fnmatch.fnmatchcase(place, pattern)]
    if not found:
        raise ValueError(
            f"penalty: no params match {pattern!r}; there are {', '.join(leaves) or 'none'}"
        )
    return found


def metric(
    apply: Callable[..., Any], statistic: Callable[..., Statistic], **options: Any
) -> Objective:
    """A statistic of a model's predictions, exact over all batches: for ``metrics`` of `fit`.

    Args:
      apply: as for `objective`; it is evaluated, with no key.
      statistic: ``statistic(predictions, targets, where=, weights=, **options)``: `f1`, `r2`,
        `calibration_error`, `binned_auc`, or your own that returns a `Statistic`. A metric with one
        value per example, such as `accuracy`, goes into `objective`.
      options: of the statistic.

    Returns:
      ``metric(params, batch, *, model_state=None) -> Statistic``, of batches as for `objective`.

    Raises:
      TypeError: here, where the statistic has no such option; on a batch, where it returns no
        `Statistic`.
      ValueError: on a batch, as for `objective`.

    >>> line = lambda params, inputs: params * inputs
    >>> explained = jloss.metric(line, jloss.r2)
    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> (explained(2.0, (x[:2], 2 * x[:2])) + explained(2.0, (x[2:], 2 * x[2:]))).value
    Array(1., dtype=float32)
    """
    name = _name(statistic)
    _check_hyper(statistic, name, options)

    def measured(params: Any, batch: Any, *, model_state: Any = None) -> Statistic:
        inputs, targets, where, weights = _parts(batch)
        predictions, _ = _predictions(apply, params, inputs, model_state, None)
        found = statistic(predictions, targets, where=where, weights=weights, **options)
        if not isinstance(found, Statistic):
            raise TypeError(
                f"metric: {name} must return a jloss.Statistic, not {type(found).__name__}; "
                f"did you mean jloss.objective({_name(apply)}, {name})?"
            )
        return found

    measured.__name__ = measured.__qualname__ = f"metric({name})"
    return measured


def _predictions(
    apply: Callable[..., Any], params: Any, inputs: Any, model_state: Any, key: Array | None
) -> tuple[Any, Any]:
    """What the model predicts, and the state it is in afterwards; None if it has no state."""
    stateful = "model_state" in _named(apply)
    if stateful and model_state is None:
        raise TypeError(
            f"objective: the model {_name(apply)} names a model_state and was given none; "
            "start with jloss.init(params, optimizer, model_state=...), or give it by "
            "functools.partial(objective, model_state=...)"
        )
    found = _given(apply, params, inputs, model_state=model_state, key=key)
    return _pair(found, _name(apply)) if stateful else (found, None)


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
        kind = type(average).__name__
        if isinstance(average, Array):  # under tracing the type says nothing
            kind = f"an array of shape {average.shape}"
        raise TypeError(
            f"an objective must return an Average, not {kind}: end it with jloss.average(values)"
        )
    if not isinstance(aux, Aux):
        raise TypeError(
            "an objective that returns more than its average must return "
            f"(average, jloss.Aux(...)), not a {type(aux).__name__} in second place"
        )
    return average, aux


# Several terms -----------------------------------------------------------------------------------


def combine(**terms: Any) -> Objective:
    r"""The sum of several objectives, each with a factor, exact in each of them.

    .. math:: L(\theta) = \sum_k c_k(\text{step})\, L_k(\theta)

    Every term adds up over parts of the data by itself, so that a penalty counts once however the
    data are cut, and a term that is defined for a few rows only is the mean over those.

    Args:
      terms: objectives by name, each alone or as ``(factor, objective)``. A factor is a number (it
        may be a tracer) or a schedule of optax, which is given ``step``. What `combine` returned
        may itself be a term; its terms are then named ``outer.inner``.

    Returns:
      ``objective(params, batch, *, model_state=None, key=None, step=None) -> (Terms, Aux)``. The
      `Terms` hold each average times its factor, ``Aux.terms`` the averages themselves. All terms
      are given the same key, so that a model in several of them drops the same units, and the
      state of the model passes through them in their order.

    Raises:
      TypeError: here, where a term is something else; when called, where a term returns no average,
        or a schedule is given no step.
      ValueError: there are no terms.

    >>> line = lambda params, inputs: params * inputs
    >>> fit = jloss.objective(line, jloss.squared_error)
    >>> small = lambda params, batch: jloss.average(params**2)
    >>> ridge = jloss.combine(fit=fit, penalty=(0.5, small))
    >>> found, aux = ridge(jnp.array(2.0), (jnp.ones(2), jnp.ones(2)))
    >>> found.value, {name: float(term.value) for name, term in aux.terms.items()}
    (Array(3., dtype=float32), {'fit': 1.0, 'penalty': 4.0})
    """
    if not terms:
        raise ValueError("combine: there are no terms; jloss.combine(fit=objective, ...)")
    parts = {name: _term(name, term) for name, term in terms.items()}

    def combined(
        params: Any,
        batch: Any,
        *,
        model_state: Any = None,
        key: Array | None = None,
        step: ArrayLike | None = None,
    ) -> tuple[Terms, Aux]:
        weighed, plain = {}, {}
        for name, (factor, term) in parts.items():
            found, aux = call(term, params, batch, model_state=model_state, key=key, step=step)
            model_state = model_state if aux.model_state is None else aux.model_state
            factor = _at(step, name, factor)
            for inner, term in _averages(name, found).items():
                scale = jnp.asarray(factor, jnp.result_type(term.total))
                weighed[inner] = Average(scale * term.total, term.weight)
            plain |= {f"{name}.{inner}": term for inner, term in aux.terms.items()}
            plain |= {name: found} if isinstance(found, Average) else {}
        return Terms(weighed), Aux(model_state, plain)

    combined.__name__ = combined.__qualname__ = f"combine({', '.join(terms)})"
    return combined


def _term(name: str, term: Any) -> tuple[Any, Objective]:
    """``(factor, objective)``, looked over."""
    factor, objective = term if isinstance(term, tuple) and len(term) == 2 else (1.0, term)
    if callable(objective) and (callable(factor) or _is_number(factor)):
        return factor, objective
    if callable(factor) and _is_number(objective):
        cure = f"the factor stands first: {name}=({objective}, {_name(factor)})"
    elif callable(objective):
        cure = f"its factor is {factor!r}, and must be one number or a schedule of the step"
    else:
        cure = "an objective is a function (params, batch) -> Average"
    raise TypeError(f"combine: {name} must be an objective or (factor, objective); {cure}")


def _is_number(factor: Any) -> bool:
    kind = getattr(factor, "dtype", type(factor))
    return kind is not bool and jnp.issubdtype(kind, jnp.number) and jnp.shape(factor) == ()


def _at(step: ArrayLike | None, name: str, factor: Any) -> Any:
    if not callable(factor):
        return factor
    if step is None:
        raise TypeError(
            f"combine: the factor of {name} is a schedule, which needs a step; "
            "functools.partial(objective, step=...) gives it one"
        )
    return factor(step)


def _averages(name: str, found: Statistic) -> dict[str, Average]:
    if isinstance(found, Average):
        return {name: found}
    if isinstance(found, Terms):
        return {f"{name}.{inner}": average for inner, average in found.averages.items()}
    raise TypeError(
        f"combine: {name} returned {type(found).__name__}, a metric without a gradient; "
        "a term must return an Average"
    )


class Term(NamedTuple):
    """What a term contributes to a loss and to its gradient.

    Attributes:
      value: what it adds to the loss, its factor included.
      gradient: of the value, a tree like the params.
      norm: the length of the gradient.
      share: of the whole gradient, how much of its length is due to this term: its component along
        the whole gradient. The shares sum to 1; below 0 stands a term that is worked against.
    """

    value: Array
    gradient: Any
    norm: Array
    share: Array


def term_gradients(
    objective: Objective, params: Any, batch: Any, **context: Any
) -> dict[str, Term]:
    r"""Value, gradient, gradient norm and share of each term of an objective on a batch, by name.

    .. math:: \text{share}_k = \frac{\langle g_k, g \rangle}{\langle g, g \rangle},
        \qquad g = \sum_k g_k

    It costs one backward pass for each term, and is meant for a look now and then, or for balancing
    the terms (`jloss.balance`).

    Args:
      objective: from `combine`; any other has one term named ``loss``.
      params: any pytree of floating arrays.
      batch: what the objective takes.
      context: ``model_state``, ``key``, ``step``, of which the objective is given what it names.

    Returns:
      A `Term` by name.

    >>> fit = lambda params, batch: jloss.average(3 * params)
    >>> pull = lambda params, batch: jloss.average(-params)
    >>> found = jloss.term_gradients(jloss.combine(fit=fit, pull=pull), jnp.array(1.0), None)
    >>> {name: (float(term.norm), float(term.share)) for name, term in found.items()}
    {'fit': (3.0, 1.5), 'pull': (1.0, -0.5)}
    """

    def values(params: Any) -> dict[str, Array]:
        found, _ = call(objective, params, batch, **context)
        averages = found.averages if isinstance(found, Terms) else {"loss": found}
        return {name: average.value for name, average in averages.items()}

    value, pull = jax.vjp(values, params)
    nothing = {name: jnp.zeros_like(v) for name, v in value.items()}
    gradients = {name: pull(nothing | {name: jnp.ones_like(v)})[0] for name, v in value.items()}
    whole = jax.tree.map(lambda *leaves: sum(leaves), *gradients.values())
    square = dot(whole, whole)
    return {
        name: Term(
            value[name],
            gradient,
            jnp.sqrt(dot(gradient, gradient)),
            jnp.where(square > 0, dot(gradient, whole) / jnp.where(square > 0, square, 1.0), 0.0),
        )
        for name, gradient in gradients.items()
    }


def dot(one: Any, other: Any) -> Array:
    """The inner product of two trees, at least in float32."""

    def product(a: Array, b: Array) -> Array:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return jnp.vdot(a.astype(wide), b.astype(wide))

    return sum(jax.tree.leaves(jax.tree.map(product, one, other)), jnp.zeros(()))


def _given(function: Callable, *arguments: Any, **context: Any) -> Any:
    """The function of its arguments and of what its signature names of the context."""
    named, given = _named(function), {}
    for name, entry in context.items():
        # No state and no step leave those that functools.partial gave; but no key means evaluation.
        bound = name in named and named[name].default is not inspect.Parameter.empty
        if name in named and (entry is not None or name == "key" or not bound):
            given[name] = entry
    return function(*arguments, **given)


def _pair(found: Any, name: str) -> tuple[Any, Any]:
    if not (isinstance(found, tuple) and len(found) == 2):
        raise TypeError(
            f"objective: the model {name} names a model_state, so it must return (predictions, "
            f"model_state), not {type(found).__name__}"
        )
    return found


def _named(function: Callable) -> Mapping[str, inspect.Parameter]:
    """The arguments by name; none for a builtin without a signature."""
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


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
