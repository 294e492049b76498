"""How a solve ended (RESULTS) and what is proved about its end (VERDICT), and the letters of array shapes.

Shape letters, the same in every docstring: n samples, d inputs, m neurons, k saved times, P masks.
Units: s is the scaled clock (ds = S dt), t is physical time; log_t is natural.
"""

from __future__ import annotations

import enum
import functools
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class RESULTS(diffrax.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How an integration ended. It says nothing about optimality: that is VERDICT."""

    margin_reached = "The smallest margin q_min reached its target."
    kkt_reached = "The KKT residual of the direction reached its target."
    unfitted = "The flow is stationary and does not fit the data."
    reduced_accuracy = "The gap is small, but not as small as was asked for."
    infeasible = "No network of any width with P(theta) below 1e12/min|x_n| separates the data."
    horizon_reached = "The flow was integrated up to the requested time."
    stationary = "The flow came to rest at a point."
    max_seconds_reached = "The seconds that were allowed for the flow were used up."
    steps_made = "All steps of the descent were made."


_messages = RESULTS._index_to_message  # pyright: ignore[reportAttributeAccessIssue]
_messages[0] = _messages[0] or "Success."


T = TypeVar("T")


class Module(eqx.Module):
    """An equinox Module whose methods are bound as Python binds them.

    equinox makes a Module of every bound method, which takes 0.1 ms, ten times what NumPy takes for a small sum: up
    to two fifths of the time of a limit. So methods of these are no pytrees: pass the Module to a transformation.
    """

    __getattribute__ = object.__getattribute__

    def __reduce__(self):
        """Read again past `Module.__new__`, which (equinox 0.13) keeps for ever what is not initialised afterwards: a
        process that finds limits would keep every network that was sent to it."""
        return _restored, (type(self), dict(vars(self)))


def _restored(kind: type, fields: dict):
    self = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(self, name, value)
    return self


def namespace(*arrays) -> Any:
    """numpy if all of them are NumPy arrays, else jax.numpy.

    Limits and certificates are found by many small operations on the host, each of which costs JAX a hundred times what
    it costs NumPy, and a compilation for every new width.
    """
    return np if all(isinstance(a, np.ndarray | np.generic) for a in arrays) else jnp


def on_host(tree: Any) -> Any:
    """The same with NumPy arrays in place of those of JAX."""
    if not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
        return tree  # to make it anew takes ten times as long
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


_kept: dict[int, tuple[weakref.ref, Any]] = {}


def kept_on_host(module: Any) -> Any:
    """`on_host` of a Module that is asked for again and again, kept as long as the Module lives."""
    key = id(module)
    if key not in _kept:
        # bound, since a global is None by the time the interpreter ends
        _kept[key] = weakref.ref(module, lambda _, kept=_kept: kept.pop(key, None)), on_host(module)
    return _kept[key][1]


def positive(x) -> Any:
    """Whether x is at least the smallest normal number of its type, 2.2e-308 in float64: anything smaller is 0.

    NaN counts as positive: a weight that is no number must not be taken for a neuron that does not exist.

    Below it are the denormal numbers. XLA takes them for 0, and so does NumPy in a thread where another library has
    switched them off; elsewhere NumPy keeps them. Ask this instead of x > 0 where something is divided by x or hangs
    on it, so that results are the same everywhere, and scale first where products or squares may underflow.
    """
    xp = namespace(x)
    return xp.logical_not(x < xp.finfo(x.dtype).tiny)


def normal_numbers(tree: T) -> T:
    """The same with 0 in place of denormal numbers, those that are not 0 and not `positive`."""
    return jax.tree.map(lambda x: namespace(x).where(positive(abs(x)), x, 0.0 * x), tree)


P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The same, whose float32 matrix products are float32 products also on a GPU or TPU.

    There XLA rounds their factors to 11 bits (TF32) or 8 unless asked not to: a step's error estimate is then that
    rounding, and a flow in float32 creeps.
    """

    @functools.wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return precise


class VERDICT(enum.IntEnum):
    """What is proved about a limit. GLOBAL and NOT_GLOBAL are only said with a proof."""

    GLOBAL = 0
    NOT_GLOBAL = 1
    INCONCLUSIVE = 2
    UNFITTED = 3


class ENDING(enum.IntEnum):
    """How a flow's continuation to q_min = infinity ended.

    SETTLED: at a KKT point that attracts all that is near, the same at both tolerances. NOT_FOLLOWED: the flow does not
    fit its data, was stopped on its way, or is of a kind that is not continued. STEP_LIMIT: after so many steps.
    TOLERANCE: with steps that became too short. BORDER: at a KKT point on the border of attracting: a rate within 1e-6
    of 1, or an entry, a multiplier, a margin or a hyperplane within 1e-6 of where it changes. DISAGREEMENT: the two
    tolerances name different limits. INEXACT: the KKT equations of the limit could not be solved to 1e-9.
    """

    SETTLED = 0
    NOT_FOLLOWED = 1
    STEP_LIMIT = 2
    TOLERANCE = 3
    BORDER = 4
    DISAGREEMENT = 5
    INEXACT = 6


class Scope(enum.Enum):
    """For which networks a bound or a verdict holds; the value is the phrase that sentences use."""

    ALL = "networks of every width"
    ALL_GATES = "networks with gates of any kind, whatever their width"
    GATES = "networks with these gates, whatever their width"
    MASKS = "networks of every width whose neurons have these masks"
    SECOND_LAYER = "first layers for this second layer"
    PATTERNS = "networks whose a_i and x_n . w_i have these signs"


REDUCED = 1e-6
"""A relative gap up to this is "reduced accuracy" where the one asked for was not reached."""


def result_of_gap(gap: float, rtol: float) -> RESULTS:
    """How the solution of a convex program ended whose relative gap is `gap`, where `rtol` was asked for."""
    if gap <= rtol:
        return RESULTS.successful  # pyright: ignore[reportReturnType]
    return RESULTS.reduced_accuracy if gap <= REDUCED else RESULTS.max_steps_reached  # pyright: ignore


def result_names() -> tuple[str, ...]:
    """The names of all RESULTS; the position of a name is its code."""
    return tuple(RESULTS._name_to_item)  # pyright: ignore[reportAttributeAccessIssue]


def result_code(result):
    """The integer code of RESULTS, an array if the results are batched."""
    return result._value


def result_name(code) -> str:
    """The name of one RESULTS item or of its integer code, e.g. "margin_reached"."""
    code = int(np.asarray(getattr(code, "_value", code)))
    return result_names()[code]
