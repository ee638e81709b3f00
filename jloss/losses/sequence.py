r"""Losses of a sequence whose alignment with the predictions is unknown: sums over all alignments.

Connectionist temporal classification (CTC) reads one class a frame, or a *blank*. The states of an
alignment are a blank before, between and after the labels, and the labels: S = 2N + 1 in all.
`_lattice.py` holds the numbers that the sums over all paths through these states need.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jloss import _lattice
from jloss._compiled import compiled
from jloss._safe import chain, floats, keep, mask, nan_unless, two_difference
from jloss.card import Domain, card

# In place of infinite logits: what is as far behind another has a likelihood of 0 in `_lattice.py`,
# and yet two of them differ by 0, not by NaN.
_INFINITE = 2.0**126

# The claims --------------------------------------------------------------------------------------


def _draw_labels(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """So few that they fit the frames even if all are the same; 0 for padding, at the end."""
    frames, classes = shape[-2:]
    labels = rng.integers(0, classes, (*shape[:-2], (frames + 1) // 2))
    return np.where(np.minimum.accumulate(labels, -1) > 0, labels, 0).astype(np.int32)


# Differences of logits far beyond these have no digits left in float32 for a sum of them.
_FRAMES = Domain(
    "any real number",
    lambda rng, shape: rng.normal(scale=3.0, size=shape),
    (0.0, 1.0, -1.0, 1e-30, -1e-6, 0.5, 17.0, -17.0, -80.3, 103.0, 1e4, -1e4),
)
_LABELS = Domain(
    "classes other than the blank, at the end padding",
    _draw_labels,
    outside=(-1, -100, 1_000_000),
    drops=True,
)


@cache
def _paths(frames: int, classes: int, labels: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All that read as the labels: repeats are merged, then blanks (0) left out."""

    def read(path: Sequence[int]) -> tuple[int, ...]:
        return tuple(k for k, _ in itertools.groupby(path) if k)

    return [p for p in itertools.product(range(classes), repeat=frames) if read(p) == labels]


def _exact(m: Any, logits: list[list[Any]], labels: list[int]) -> Any:
    frames = [[m.exp(x - max(frame)) for x in frame] for frame in logits]
    frames = [[x / m.fsum(frame) for x in frame] for frame in frames]
    seen = tuple(label for label in labels if label)
    paths = _paths(len(frames), len(frames[0]), seen)
    return -m.log(m.fsum(m.fprod(map(list.__getitem__, frames, path)) for path in paths))


def _of_labels(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss where all frames count and label 0, the blank, stands for padding."""

    def usual(logits: Any, labels: Any, *, where: Any = None) -> Any:
        given = logits, jnp.zeros(jnp.shape(logits)[:-1]), labels, jnp.asarray(labels) == 0
        result = loss(*given, where=where)
        return result[0] if isinstance(result, tuple) else result

    return usual


_CLAIMS = dict(
    values="sequence",
    predictions=_FRAMES,
    targets=_LABELS,
    exact=_exact,
    form=_of_labels,
    source="Graves, Fernández, Gomez & Schmidhuber (2006), Connectionist temporal classification, "
    "ICML",
    ulp=4,
    scale="unit",
    minimum=0.0,
    convex=False,
    kinks=False,
    invariant=("shift",),
)


# The losses --------------------------------------------------------------------------------------


@card(
    **_CLAIMS,
    also=dict(optax="losses.ctc_loss", torch="nn.functional.ctc_loss", keras="losses.ctc"),
)
@compiled
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
    zero_infinity: bool = False,
    where: ArrayLike | None = None,
) -> Array:
    r"""The negative log-likelihood of the labels, over all their alignments with the frames.

    .. math:: L = -\log \sum_{\pi \in \mathcal{B}^{-1}(y)} \prod_t p(\pi_t \mid t),
        \qquad p(k \mid t) = \mathrm{softmax}(z_t)_k

    A path :math:`\pi` names one class a frame, and :math:`\mathcal{B}` reads it: repeats are
    merged, then blanks are left out.

    Args:
      logits: (..., T, K), for T frames the scores of K classes, the blank included.
      logit_paddings: (..., T), 0 for a frame that counts and 1 for padding, wherever it stands;
        boolean or any number.
      labels: (..., N), integer classes from 0 to K - 1 other than the blank.
      label_paddings: (..., N), 0 for labels that count, then 1 for padding.
      blank_id: the class of the blank, a Python integer.
      log_epsilon: ignored, and here only for optax's callers: nothing is approximated.
      zero_infinity: 0 in place of an infinite loss.
      where: boolean mask of the sequences that count, (...).

    Returns:
      One value a sequence, (...), in float32 or float64, never negative. It is infinite where no
      path reads as the labels (there must be a frame for each label, and one more between equal
      ones) or where each meets a logit of minus infinity; its gradient there is 0. It is NaN for a
      sequence with a label out of range, or with paddings that are not as above.

    Raises:
      ValueError: shapes do not fit, or ``blank_id`` is no class.
      TypeError: logits are not floating, labels not integers, or ``where`` not boolean.

    Prefer it for speech and handwriting, where labels come in the order of the frames but nobody
    knows when. The gradient, softmax minus posterior, keeps its digits (about six in float32) at
    any length, for the likelihoods of paths are never written as logarithms; only where logits are
    more than some :math:`10^4` apart float32 has fewer. It stores the states at every tenth frame
    or so and computes them twice. optax gives 1e5 where we give infinity, may be negative and loses
    three digits of the gradient in a thousand frames; torch wants log-probabilities, frames first.
    Source: Graves et al. (2006).

    >>> logits = jnp.log(jnp.array([[[0.5, 0.4, 0.1], [0.3, 0.6, 0.1]]]))
    >>> labels = jnp.array([[1]])  # as 1 1, 1 blank or blank 1
    >>> loss = jloss.ctc_loss(logits, jnp.zeros((1, 2)), labels, jnp.zeros((1, 1)))
    >>> jnp.exp(-loss)  # 0.4 * 0.6 + 0.4 * 0.3 + 0.5 * 0.6
    Array([0.65999997], dtype=float32)
    """
    del log_epsilon
    given = logits, logit_paddings, labels, label_paddings
    inputs = _inputs("ctc_loss", *given, blank_id=blank_id, where=where)
    return _values(inputs, zero_infinity)


@card(**_CLAIMS, also=dict(optax="losses.ctc_loss_with_forward_probs"))
@compiled
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
    zero_infinity: bool = False,
    where: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    r"""`ctc_loss`, and how likely each beginning of the labels is after each frame.

    .. math:: \alpha_t(n) = \sum_{\pi_{1:t}} \prod_{i \le t} p(\pi_i \mid i)

    over the paths that read as the first n labels, apart for those that end in a blank and those
    that end in the n-th label.

    Args:
      logits: (..., T, K), as for `ctc_loss`.
      logit_paddings: (..., T), likewise; after padding stands what stood before it.
      labels: (..., N), likewise.
      label_paddings: (..., N), likewise.
      blank_id: the class of the blank, a Python integer.
      log_epsilon: ignored: the logarithm of an impossible beginning is minus infinity.
      zero_infinity: 0 in place of an infinite loss.
      where: boolean mask of the sequences that count, (...).

    Returns:
      The values of `ctc_loss`; the logarithms of :math:`\alpha` for paths that end in a blank,
      (T, ..., N + 1), n from 0; and for paths that end in a label, (T, ..., N), n from 1. As in
      optax the last frame of the former has both kinds of paths.

    Raises:
      ValueError: shapes do not fit, or ``blank_id`` is no class.
      TypeError: logits are not floating, labels not integers, or ``where`` not boolean.

    Prefer `ctc_loss` where the loss alone is wanted: it stores far less. In place of minus infinity
    optax gives ``log_epsilon`` and its multiples. Source: Graves et al. (2006).

    >>> logits, labels = jnp.zeros((1, 3, 2)), jnp.array([[1]])
    >>> loss, blank, label = jloss.ctc_loss_with_forward_probs(
    ...     logits, jnp.zeros((1, 3)), labels, jnp.zeros((1, 1))
    ... )
    >>> jnp.exp(label[:, 0, 0])  # of all 2, 4 and 8 paths
    Array([0.5  , 0.5  , 0.375], dtype=float32)
    """
    del log_epsilon
    given = logits, logit_paddings, labels, label_paddings
    inputs = _inputs("ctc_loss_with_forward_probs", *given, blank_id=blank_id, where=where)
    values = _values(inputs, zero_infinity)
    return values, *_forward_probabilities(inputs)


# Their inputs ------------------------------------------------------------------------------------


class _Alignment(NamedTuple):
    """What may be aligned with what. The sequences B are the minor axis, which is vectorised."""

    frames: Array  # (T, B), those that count
    emitted: Array  # (S, B), the class of each state, the blank for padding
    skips: Array  # (S, B), whether a state may follow the state before the last
    end: Array  # (B,), the last state, a blank


class _Inputs(NamedTuple):
    logits: Array  # (B, T, K)
    alignment: _Alignment
    spoilt: Array  # (B,), NaN for a sequence with values out of their domain, else 0
    where: Array | None  # (...)
    shape: tuple[int, ...]  # (...), whose product is B


def _inputs(
    loss: str,
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int,
    where: ArrayLike | None,
) -> _Inputs:
    (logits,) = floats(loss, logits=logits)
    labels = jnp.asarray(labels)
    paddings = {
        "logit_paddings": jnp.asarray(logit_paddings),
        "label_paddings": jnp.asarray(label_paddings),
    }
    _check_shapes(loss, logits, labels, **paddings)
    *shape, frames, size = logits.shape
    if not 0 <= blank_id < size:
        raise ValueError(f"{loss}: blank_id {blank_id} is none of the {size} classes.")
    where = mask(loss, where, tuple(shape))
    shown = None if where is None else where[..., None]
    for_frames, for_labels = (keep(shown, array, 1) for array in paddings.values())
    unread = for_labels != 0
    classes = f"from 0 to {size - 1} and not the blank, {blank_id}"
    known = unread | ((labels >= 0) & (labels < size) & (labels != blank_id))
    in_order = ~unread | jnp.concatenate([unread[..., 1:], unread[..., :1] | True], -1)
    spoilt = nan_unless(loss, known, classes, labels=labels)
    in_order &= _is_flag(for_labels)
    spoilt += nan_unless(loss, in_order, "0, then 1", label_paddings=for_labels)
    spoilt = spoilt.sum(-1)
    flags = _is_flag(for_frames)
    spoilt += nan_unless(loss, flags, "0 or 1", logit_paddings=for_frames).sum(-1)
    batch = math.prod(shape)
    labels = jnp.where(unread | ~known, blank_id, labels).astype(jnp.int32)
    alignment = _alignment(
        (for_frames == 0).reshape(batch, frames),
        labels.reshape(batch, labels.shape[-1]),
        (~unread).sum(-1).reshape(batch),
        blank_id,
    )
    return _Inputs(
        logits.reshape(batch, frames, size),
        alignment,
        spoilt.astype(logits.dtype).reshape(batch),
        where,
        tuple(shape),
    )


def _check_shapes(
    loss: str, logits: Array, labels: Array, logit_paddings: Array, label_paddings: Array
) -> None:
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{loss}: labels must be integer class indices, not {labels.dtype}.")
    if logits.ndim < 2:
        raise ValueError(
            f"{loss}: logits {logits.shape} must have the shape (..., frames, classes)."
        )
    if labels.ndim != logits.ndim - 1 or labels.shape[:-1] != logits.shape[:-2]:
        cure = " One-hot? Take labels.argmax(-1)." if labels.ndim == logits.ndim else ""
        raise ValueError(
            f"{loss}: labels {labels.shape} must have the shape {(*logits.shape[:-2], 'N')}, that "
            f"of logits {logits.shape} with N labels for the frames and classes.{cure}"
        )
    for name, array, wanted in (
        ("logit_paddings", logit_paddings, logits.shape[:-1]),
        ("label_paddings", label_paddings, labels.shape),
    ):
        if array.shape != wanted:
            cure = " Lengths? Take jnp.arange(size) >= lengths[:, None]."
            raise ValueError(
                f"{loss}: {name} {array.shape} must have the shape {wanted}."
                f"{cure if array.shape == wanted[:-1] else ''}"
            )


def _is_flag(paddings: Array) -> Array:
    return (paddings == 0) | (paddings == 1)


def _alignment(frames: Array, labels: Array, length: Array, blank: int) -> _Alignment:
    labels = labels.T
    one = 1, labels.shape[1]
    emitted = _interleave(jnp.full(one, blank, labels.dtype), labels)
    # Two labels that are equal have a blank between them. Padding may do as it likes: no path that
    # enters it comes to the end.
    new = jnp.concatenate([labels[:1] < 0, labels[1:] != labels[:-1]])
    skips = _interleave(jnp.zeros(one, bool), new)
    return _Alignment(frames.T, emitted, skips, 2 * length)


def _interleave(blank: Array, labels: Array) -> Array:
    """What is given for the blank, (1, B), and each label, (N, B), for all states."""
    count, batch = labels.shape
    pairs = jnp.stack([jnp.broadcast_to(blank, labels.shape), labels], 1)
    return jnp.concatenate([pairs.reshape(2 * count, batch), blank])


# Segments of frames ------------------------------------------------------------------------------


class _Leader(NamedTuple):
    """The leading class of each frame, against which are the odds of all."""

    logit: Array  # (C, B)
    excess: Array  # (C, B), what the odds sum to beyond the leader's own, 1


class _Segment(NamedTuple):
    """C successive frames."""

    given: Array  # (C, B, K), the logits as they are
    counts: Array  # (C, B)

    @property
    def logits(self) -> Array:
        return _counted(self.given, self.counts[..., None])

    def leader(self) -> _Leader:
        logits = self.logits
        top = logits.max(-1)
        leads = logits == top[..., None]
        rivals = leads.astype(logits.dtype).sum(-1) - 1.0
        others = jnp.where(leads, 0.0, jnp.exp(logits - top[..., None])).sum(-1)
        return _Leader(top, others + rivals)

    def paths(self, leader: _Leader, alignment: _Alignment) -> tuple[Array, Array, Array]:
        """What a recursion goes by: the odds (C, S, B) of what each state emits, as scaled numbers;
        the frames that count; the states that may be skipped to.
        """
        # Gathered first: XLA's CPU compiler would do again, entry by entry, all that comes before.
        places = jnp.arange(self.counts.shape[1])
        logits = self.given.at[:, places, alignment.emitted].get(mode="promise_in_bounds")
        logits = _counted(logits, self.counts[:, None])
        behind, lost = two_difference(leader.logit[:, None], logits)
        emissions = _lattice.exp(-behind, -lax.stop_gradient(lost))
        return emissions, self.counts, alignment.skips

    def normaliser(self, leader: _Leader) -> Array:
        """The logarithm of the sum of the odds of each frame, 0 for padding."""
        return jnp.where(self.counts, jnp.log1p(leader.excess), 0.0)


def _counted(logits: Array, counts: Array) -> Array:
    """0 for padding, and nothing infinite."""
    return jnp.where(counts, jnp.clip(logits, -_INFINITE, _INFINITE), 0.0)


def _scan(
    through: Callable[..., Any],
    start: Any,
    logits: Array,
    alignment: _Alignment,
    *more: Any,
    reverse: bool = False,
) -> Any:
    """`jax.lax.scan` over segments: ``through(carry, segment, *more)``."""
    frames = logits.shape[1]
    # In ten to twenty frames mantissas grow by 2**40 at most; the fewer, the better for caches.
    size = min(range(10, 21), key=lambda size: -frames % size)
    count = max(1, -(-frames // size))
    missing = count * size - frames
    logits = jnp.pad(logits, ((0, 0), (0, missing), (0, 0)))
    counts = jnp.pad(alignment.frames, ((0, missing), (0, 0)))

    def step(carry: Any, inputs: Any) -> Any:
        place, counts, *rest = inputs
        # To cut all the logits into segments beforehand would be to copy them.
        here = lax.dynamic_slice_in_dim(logits, place * size, size, 1).swapaxes(0, 1)
        return through(carry, _Segment(here, counts), *rest)

    inputs = jnp.arange(count), counts.reshape(count, size, len(logits)), *more
    return lax.scan(step, start, inputs, reverse=reverse)


def _joined(segments: Array, alignment: _Alignment) -> Array:
    """All frames in a row again."""
    count, size, *shape = segments.shape
    return segments.reshape(count * size, *shape)[: len(alignment.frames)]


def _onward(
    states: Array, emissions: Array, counts: Array, skips: Array, all_frames: bool = False
) -> Any:
    """The forward recursion: how likely each state is with all frames up to its own."""

    def step(states: Array, frame: tuple[Array, Array]) -> tuple[Array, Array | None]:
        counts, emissions = frame
        padded = jnp.pad(states, ((2, 0), (0, 0)), constant_values=_lattice.ZERO)
        skipping = jnp.where(skips, padded[:-2], _lattice.ZERO)
        after = _lattice.multiply(_lattice.add(states, padded[1:-1], skipping), emissions)
        after = jnp.where(counts, after, states)
        return after, after if all_frames else None

    return _scan_frames(step, states, (counts, emissions))


def _homeward(
    future: Array, past: Array, emissions: Array, counts: Array, skips: Array
) -> tuple[Array, Array]:
    """The backward recursion: how likely are all frames after each state's own; past * future."""
    skipped = jnp.pad(skips, ((0, 2), (0, 0)))[2:]

    def step(future: Array, frame: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        counts, emissions, past = frame
        both = _lattice.value(_lattice.multiply(past, future))
        states = _lattice.multiply(future, emissions)
        padded = jnp.pad(states, ((0, 2), (0, 0)), constant_values=_lattice.ZERO)
        skipping = jnp.where(skipped, padded[2:], _lattice.ZERO)
        before = _lattice.add(states, padded[1:-1], skipping)
        return jnp.where(counts, before, future), both

    return _scan_frames(step, future, (counts, emissions, past), reverse=True)


def _scan_frames(step: Callable[..., Any], start: Any, frames: Any, reverse: bool = False) -> Any:
    """`jax.lax.scan` over the frames of a segment: a loop on a processor.

    An accelerator would be launching kernels most of the time; written out, a segment takes few.
    """
    return lax.scan(step, start, frames, reverse=reverse, unroll=jax.default_backend() != "cpu")


# Their values and gradients ----------------------------------------------------------------------


def _values(inputs: _Inputs, zero_infinity: bool) -> Array:
    values = _negative_log_likelihood(inputs.logits, inputs.alignment)
    values *= 1.0 + inputs.spoilt  # added, it would leave the gradient as it is
    values = jnp.where(zero_infinity & (values == jnp.inf), 0.0, values)
    return keep(inputs.where, values.reshape(inputs.shape))


@jax.custom_jvp
def _negative_log_likelihood(logits: Array, alignment: _Alignment) -> Array:
    return _forward(logits, alignment)[0]


@partial(_negative_log_likelihood.defjvp, symbolic_zeros=True)
def _negative_log_likelihood_jvp(primals, tangents):
    # Autodiff would store every step; and all that is done here can be differentiated again.
    value, slope = _value_and_slope(*primals)
    return chain(value, (slope, tangents[0]), axis=(1, 2))


@jax.custom_jvp
def _value_and_slope(logits: Array, alignment: _Alignment) -> tuple[Array, Array]:
    value, stored = _forward(logits, alignment)
    slope = _backward(logits, alignment, *stored)
    return value, jnp.where((value == jnp.inf)[:, None, None], 0.0, slope)


@_value_and_slope.defjvp
def _value_and_slope_jvp(primals, tangents):
    # As JAX would by itself; but a function with a rule it traces once, where it would search the
    # loops for what depends on tangents, which takes twice as long and moves constants out of them.
    return jax.jvp(_value_and_slope.fun, primals, tangents)


def _forward(logits: Array, alignment: _Alignment) -> tuple[Array, tuple[Array, _Leader]]:
    """The values, and what is stored: the states that segments start from, and their leaders."""

    def through(carry: tuple[Array, Array], segment: _Segment) -> Any:
        states, normaliser = carry
        start, leader = _lattice.normalised(states), segment.leader()
        last, _ = _onward(start, *segment.paths(leader, alignment))
        return (last, normaliser + segment.normaliser(leader).sum(0)), (start, leader)

    carry = _start(alignment, logits.dtype), jnp.zeros(len(logits), logits.dtype)
    (last, normaliser), stored = _scan(through, carry, logits, alignment)
    likelihood = _lattice.add(*_ends(_lattice.normalised(last), alignment))
    return jnp.maximum(normaliser - _lattice.log(likelihood), 0.0), stored


def _backward(logits: Array, alignment: _Alignment, starts: Array, leaders: _Leader) -> Array:
    """The gradient, by segments from the last, whose states are computed again."""

    def through(future: Array, segment: _Segment, start: Array, leader: _Leader) -> Any:
        paths = segment.paths(leader, alignment)
        _, past = _onward(start, *paths, all_frames=True)
        # Over the states, past * future sums to the same at each frame: the likelihood.
        future = _lattice.balanced(_lattice.normalised(future), past[-1])
        future, states = _homeward(future, past, *paths)
        posterior = _of_classes(states, alignment.emitted, logits.shape[-1])
        return future, _slope(segment, leader, posterior)

    place = _places(alignment)
    is_end = (place == alignment.end) | (place == alignment.end - 1)
    future = _lattice.indicator(is_end, logits.dtype)
    _, slope = _scan(through, future, logits, alignment, starts, leaders, reverse=True)
    return _joined(slope, alignment).swapaxes(0, 1)


def _places(alignment: _Alignment) -> Array:
    return lax.broadcasted_iota(jnp.int32, alignment.skips.shape, 0)


def _start(alignment: _Alignment, dtype: Any) -> Array:
    """Before the first frame: one step before the first label, if not two."""
    return _lattice.indicator(_places(alignment) == 0, dtype)


def _ends(states: Array, alignment: _Alignment) -> Array:
    """The last label, if there is one, and the blank behind it; (2, B)."""
    padded = jnp.pad(states, ((1, 0), (0, 0)), constant_values=_lattice.ZERO)
    rows = alignment.end + jnp.arange(2)[:, None]
    return jnp.take_along_axis(padded, rows, 0, mode="promise_in_bounds")


def _of_classes(states: Array, emitted: Array, classes: int) -> Array:
    """The sum (C, B, K) over the states (C, S, B) that emit a class."""
    frames, _, batch = states.shape
    # Scattered by rows of frames, which XLA does several times as fast as one by one.
    rows = jnp.arange(batch) * classes + emitted
    sums = jnp.zeros((batch * classes, frames), states.dtype)
    sums = sums.at[rows].add(states.transpose(1, 2, 0), mode="promise_in_bounds")
    return sums.reshape(batch, classes, frames).transpose(2, 0, 1)


def _slope(segment: _Segment, leader: _Leader, posterior: Array) -> Array:
    """Softmax minus posterior; the latter is given but for a factor in each frame."""
    logits, top = segment.logits, leader.logit[..., None]
    total = posterior.sum(-1)
    posterior /= jnp.where(total == 0, 1.0, total)[..., None]
    slope = jnp.exp(logits - top) / (1.0 + leader.excess)[..., None] - posterior
    # They sum to 0: that of a class near 1 follows from the others', without a cancellation.
    near_1 = (logits == top) & (leader.excess < 1)[..., None]
    others = jnp.where(near_1, 0.0, slope).sum(-1)
    slope = jnp.where(near_1, -others[..., None], slope)
    return jnp.where(segment.counts[..., None], slope, 0.0)


def _forward_probabilities(inputs: _Inputs) -> tuple[Array, Array]:
    logits, alignment = inputs.logits, inputs.alignment

    def through(states: Array, segment: _Segment) -> tuple[Array, tuple[Array, Array]]:
        start, leader = _lattice.normalised(states), segment.leader()
        last, states = _onward(start, *segment.paths(leader, alignment), all_frames=True)
        return last, (states, segment.normaliser(leader))

    start = _start(alignment, logits.dtype)
    _, stacked = _scan(through, start, logits, alignment)
    states, normaliser = (_joined(part, alignment) for part in stacked)
    states = jnp.where(_places(alignment) <= alignment.end, states, _lattice.ZERO)
    states = _lattice.normalised(states)
    blanks, labels = states[:, ::2], states[:, 1::2]
    blanks = blanks.at[-1:, 1:].set(_lattice.add(blanks[-1:, 1:], labels[-1:]))
    shift = inputs.spoilt - jnp.cumsum(normaliser, 0)

    def logarithms(numbers: Array) -> Array:
        result = (_lattice.log(numbers) + shift[:, None]).swapaxes(1, 2)
        return result.reshape(len(result), *inputs.shape, numbers.shape[1])

    return logarithms(blanks), logarithms(labels)
