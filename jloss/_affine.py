"""Hoisting: on a line or plane, all of a function that is affine in the coordinates, done once.

There the parameters are ``p + a d + b e``. So everything that is linear in them up to the first
non-linearity, such as a first layer ``x @ (p + a d + b e)``, is affine in (a, b): its coefficients
``x @ p``, ``x @ d``, ``x @ e`` serve all points, and what does not depend on the parameters at all
serves them as it is. `hoist` traces a function and splits it into these two programs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

FREE, CONSTANT, AFFINE, PLAIN = range(4)  # depends on nothing, on data, linearly, in any way


class _Step(NamedTuple):
    """One operation; places number the values of the whole program."""

    name: str
    run: Callable[..., list[Any]]
    inputs: list[int]
    outputs: list[int]


class Hoisted(NamedTuple):
    """A function of parameters, in two programs.

    Attributes:
      prepare: ``prepare(params, directions, *arguments)`` gives a list of arrays: all that points
        have in common.
      evaluate: ``evaluate(common, coordinates)`` is the function at ``params`` plus the sum of
        coordinates times directions.
    """

    prepare: Callable[..., list[Any]]
    evaluate: Callable[[list[Any], Sequence[Any]], Any]


def hoist(
    function: Callable[..., Any],
    params: Any,
    *arguments: Any,
    moving: Sequence[bool] | None = None,
) -> Hoisted:
    """Splits ``function(params, *arguments)`` for points on a line, plane or volume of ``params``.

    Exact but for rounding. Primitives that are not known to be linear are evaluated point by point,
    as everything after the first of them is.

    Args:
      function: any traceable function.
      params: its parameters, a pytree of arrays, or their shapes.
      arguments: what else it takes, the same at every point, or their shapes.
      moving: which leaves of the params the directions move; all if not given. What comes before
        the first of them, such as the body of a model whose head moves, is done once.

    Returns:
      The two programs, for any params and arguments of these shapes.

    >>> from jloss._affine import hoist
    >>> layer = lambda w, x: jnp.tanh(x @ w).sum()
    >>> w, d, x = jnp.ones((3, 2)), jnp.eye(3, 2), jnp.ones((5, 3))
    >>> split = hoist(layer, w, x)
    >>> common = split.prepare(w, [d], x)
    >>> jax.tree.map(jnp.shape, common)
    [[(5, 2), (5, 2)]]
    >>> jnp.allclose(split.evaluate(common, [0.5]), layer(w + 0.5 * d, x))
    Array(True, dtype=bool)
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(params, *arguments)
    count = len(jax.tree.leaves(params))
    program = _Program(closed, [True] * count if moving is None else moving)

    def prepare(params: Any, directions: Sequence[Any], *arguments: Any) -> list[Any]:
        terms = zip(*map(jax.tree.leaves, (params, *directions)), strict=True)
        leaves = [
            list(term) if program.level[place] == AFFINE else term[0]
            for place, term in enumerate(terms)
        ]
        return program.prepare(leaves, jax.tree.leaves(arguments))

    def evaluate(common: list[Any], coordinates: Sequence[Any]) -> Any:
        return jax.tree.unflatten(jax.tree.structure(shape), program.evaluate(common, coordinates))

    return Hoisted(prepare, evaluate)


# The split ---------------------------------------------------------------------------------------


class _Program:
    """The steps of a jaxpr, each with the level of its results, and what the points need."""

    def __init__(self, closed: ClosedJaxpr, moving: Sequence[bool]):
        self.steps: list[_Step] = []
        self.level: list[int] = []
        self.origin: dict[int, _Step] = {}
        self.constants: dict[int, Any] = {}
        levels = [AFFINE if moves else CONSTANT for moves in moving]
        levels += [CONSTANT] * (len(closed.jaxpr.invars) - len(levels))
        self.inputs = [self._places(1, level)[0] for level in levels]
        self.outputs = self._inline(closed, self.inputs)
        self.common: dict[int, None] = {}
        self.late = self._needed()

    def _places(self, count: int, level: int) -> list[int]:
        self.level += [level] * count
        return list(range(len(self.level) - count, len(self.level)))

    def _given(self, values: Sequence[Any]) -> list[int]:
        places = self._places(len(values), FREE)
        self.constants |= dict(zip(places, values, strict=True))
        return places

    def _inline(self, closed: ClosedJaxpr, inputs: Sequence[int]) -> list[int]:
        """The steps of a jaxpr and of those that it calls; the places of its results."""
        jaxpr = closed.jaxpr
        places = [*self._given(closed.consts), *inputs]
        at = dict(zip([*jaxpr.constvars, *jaxpr.invars], places, strict=True))

        def find(variable: Any) -> int:
            return self._given([variable.val])[0] if isinstance(variable, Literal) else at[variable]

        for equation in jaxpr.eqns:
            if not equation.outvars:  # a check, which outside of checkify does nothing
                continue
            inputs, called = list(map(find, equation.invars)), _called(equation)
            outputs = (
                self._inline(called, inputs)
                if called is not None
                else self._append(equation, inputs, jaxpr)
            )
            at |= dict(zip(equation.outvars, outputs, strict=True))
        return list(map(find, jaxpr.outvars))

    def _append(self, equation: Any, inputs: list[int], whole: Jaxpr) -> list[int]:
        outputs = self._places(len(equation.outvars), self._level_of(equation, inputs))
        step = _Step(equation.primitive.name, _alone(equation, whole), inputs, outputs)
        self.steps.append(step)
        self.origin |= dict.fromkeys(outputs, step)
        return outputs

    def _level_of(self, equation: Any, inputs: list[int]) -> int:
        levels = [self.level[place] for place in inputs]
        highest = max(levels, default=FREE)
        if equation.effects:
            return PLAIN
        return PLAIN if highest == AFFINE and not _is_linear(equation, levels) else highest

    def _needed(self) -> list[_Step]:
        """The steps to be taken at each point; what they start from goes into ``common``."""
        late, open_places, seen = [], list(self.outputs), set()
        while open_places:
            place = open_places.pop()
            if place in seen or place in self.constants:
                continue
            seen.add(place)
            step = self.origin.get(place)
            if step and self._is_late(step):
                late.append(step)
                seen.update(step.outputs)
                open_places += step.inputs
            else:
                self.common[place] = None
        chosen = {id(step) for step in late}
        return [step for step in self.steps if id(step) in chosen]

    def _is_late(self, step: _Step) -> bool:
        """What only enlarges is cheaper to do again than to read."""
        level = self.level[step.outputs[0]]
        return level in (FREE, PLAIN) or step.name == "broadcast_in_dim"

    # Once

    def prepare(self, params: list[Any], arguments: list[Any]) -> list[Any]:
        """The constants and the affine coefficients that the points share."""
        known: dict[int, Any] = dict(self.constants)
        known |= dict(zip(self.inputs, [*params, *arguments], strict=True))
        for step in self.steps:
            level = self.level[step.outputs[0]]
            if level != PLAIN:
                affine = level == AFFINE
                results = (
                    self._coefficients(step, known) if affine else step.run(*_read(step, known))
                )
                known |= dict(zip(step.outputs, results, strict=True))
        return [known[place] for place in self.common]

    def _coefficients(self, step: _Step, known: dict[int, Any]) -> list[list[Any]]:
        """The step for each coefficient: the constant one first, then one for each direction."""
        values = _read(step, known)
        affine = [self._is_affine(place) for place in step.inputs]
        lifted = _LINEAR[step.name].lifts
        count = next(len(value) for value, has in zip(values, affine, strict=True) if has)
        results = []
        for number in range(count):
            # A constant summand belongs to the first coefficient, a constant factor to all.
            results.append(
                step.run(
                    *(
                        value[number]
                        if has
                        else jnp.zeros_like(value)
                        if number and position in lifted(len(values))
                        else value
                        for position, (value, has) in enumerate(zip(values, affine, strict=True))
                    )
                )
            )
        return [list(terms) for terms in zip(*results, strict=True)]

    def _is_affine(self, place: int) -> bool:
        return self.level[place] == AFFINE

    # At each point

    def evaluate(self, common: list[Any], coordinates: Sequence[Any]) -> list[Any]:
        """The results at one point."""
        known: dict[int, Any] = dict(self.constants)
        for place, value in zip(self.common, common, strict=True):
            known[place] = _at(value, coordinates) if self._is_affine(place) else value
        for step in self.late:
            known |= dict(zip(step.outputs, step.run(*_read(step, known)), strict=True))
        return [jnp.asarray(known[place]) for place in self.outputs]


def _read(step: _Step, known: dict[int, Any]) -> list[Any]:
    return [known[place] for place in step.inputs]


def _at(terms: list[Array], coordinates: Sequence[Any]) -> Array:
    first, *rest = terms
    total = first
    for coordinate, term in zip(coordinates, rest, strict=True):
        total = total + jnp.asarray(coordinate, first.dtype) * term
    return total


def _alone(equation: Any, whole: Jaxpr) -> Callable[..., list[Any]]:
    """One operation of a program as a function of all its operands."""
    operands = [Var(operand.aval) for operand in equation.invars]
    alone = equation.replace(invars=operands)
    jaxpr = whole.replace(constvars=[], invars=operands, outvars=alone.outvars, eqns=[alone])
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))


def _called(equation: Any) -> ClosedJaxpr | None:
    """The program that an operation only calls. Rules for derivatives stay as they are."""
    if equation.primitive.name not in ("jit", "closed_call", "remat2"):
        return None
    jaxpr = equation.params["call_jaxpr" if "call_jaxpr" in equation.params else "jaxpr"]
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


# What is linear ----------------------------------------------------------------------------------


class _Linear(NamedTuple):
    """How an operation is linear: jointly in some operands, or in each of two factors.

    ``operands(count)`` are those that may be affine, ``lifts(count)`` those among them whose
    constants are summands.
    """

    operands: Callable[[int], range]
    lifts: Callable[[int], range]
    factors: bool = False


def _jointly(start: int = 0, stop: int | None = None) -> _Linear:
    def operands(count: int) -> range:
        return range(start, count if stop is None else stop)

    return _Linear(operands, operands)


_FACTORS = _Linear(lambda count: range(2), lambda count: range(0), factors=True)


def _ends(count: int) -> range:
    """The operand and the updates of a scatter, not the indices between them."""
    return range(0, count, 2)


_ADDED = _Linear(_ends, _ends)
_FIRST = _Linear(lambda count: range(1), lambda count: range(0))
_LINEAR: dict[str, _Linear] = (
    dict.fromkeys(("mul", "dot_general", "conv_general_dilated"), _FACTORS)
    | dict.fromkeys(("div", "gather", "dynamic_slice"), _FIRST)
    | dict.fromkeys(
        ("add", "add_any", "broadcast_in_dim", "concatenate", "convert_element_type", "copy"),
        _jointly(),
    )
    | dict.fromkeys(
        ("cumsum", "expand_dims", "neg", "pad", "reduce_sum", "reduce_window_sum", "reshape"),
        _jointly(),
    )
    | dict.fromkeys(("rev", "slice", "split", "squeeze", "sub", "transpose"), _jointly())
    | dict.fromkeys(("complex", "conj", "fft", "imag", "real"), _jointly())
    | {"select_n": _jointly(1), "dynamic_update_slice": _jointly(0, 2), "scatter-add": _ADDED}
)


def _is_linear(equation: Any, levels: list[int]) -> bool:
    """Whether an operation with these operands, none plain and some affine, is affine."""
    linear = _LINEAR.get(equation.primitive.name)
    if linear is None or not jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.inexact):
        return False
    affine = [position for position, level in enumerate(levels) if level == AFFINE]
    if linear.factors and len(affine) > 1:
        return False
    return set(affine) <= set(linear.operands(len(levels))) and _keeps(equation)


def _keeps(equation: Any) -> bool:
    """Whether nothing is rounded off or filled in that would be counted once a coefficient."""
    if equation.primitive.name == "convert_element_type":
        given, wanted = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
        return jnp.promote_types(given, wanted) == wanted
    if equation.primitive.name == "gather":
        return not equation.params["fill_value"]  # None or 0
    return True


# What is left to do ------------------------------------------------------------------------------


_MOVES = ("broadcast_in_dim", "concatenate", "iota", "pad", "reshape", "slice", "transpose")


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Additions and multiplications, those of a loop of unknown length once.

    XLA counts them too, but for processors alone.
    """
    return _operations(jax.make_jaxpr(function)(*arguments).jaxpr)


def _operations(jaxpr: Jaxpr) -> float:
    return sum(map(_operations_of, jaxpr.eqns), start=0.0)


def _operations_of(equation: Any) -> float:
    inner = [x for x in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr) if _is_jaxpr(x)]
    if inner:
        counts = [_operations(x.jaxpr if isinstance(x, ClosedJaxpr) else x) for x in inner]
        if equation.primitive.name == "cond":
            return max(counts)
        return equation.params.get("length", 1) * sum(counts)
    size = sum(x.aval.size for x in equation.outvars)
    if equation.primitive.name == "dot_general":
        (summed, _), _ = equation.params["dimension_numbers"]
        return 2.0 * size * math.prod(equation.invars[0].aval.shape[axis] for axis in summed)
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = equation.params["dimension_numbers"].rhs_spec[0]
        return 2.0 * size * kernel.size / kernel.shape[features]
    if equation.primitive.name.startswith("reduce"):
        return equation.invars[0].aval.size
    return 0.0 if equation.primitive.name in _MOVES else size


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
