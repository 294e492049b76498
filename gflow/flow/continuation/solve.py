"""continued(problem, network) -> Continued: a flow with large margins followed to the limit of its direction.

Source: docs/mathematics.md, "The limit at infinity"; arXiv 2110.06488, section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gflow.flow.continuation.stability import Stability
from gflow.flow.continuation.state import Data, Place
from gflow.flow.continuation.step import Lane, advance, start
from gflow.network import TwoLayer, host_network
from gflow.problem import Problem

TOLERANCE = 1e-2
"""Of a step: angles in radians, log masses. Of 165 natural starts with d from 3 to 10 all have the same limit with it
as with a tenth of it."""

MAX_STEPS = 500
"""Attempted steps of a flow; the most that one was seen to need is 202, with all but a fitting set of neurons lowered
by e^-60 in mass."""

TURN = 64
"""Paths between two looks from outside: at progress, and at Ctrl-C."""

SETTLED, STEPS, SHORT = "settled", "step limit", "tolerance"
"""How a continuation ended: at a limit that attracts, at its step limit, or with steps that became too short."""


class Continued(eqx.Module):
    """Where a flow goes as q_min tends to infinity.

    `network`: K neurons, those of equal sign, pattern and direction merged, balanced and scaled to q_min = 1; of a flow
    that is not `settled` those where it was left. `p` (n,): weights of the samples, sum 1. `objective`: P(theta) =
    sum_i |a_i||w_i|. `log_q`: by how much log q_min has grown since the continuation began. `stability`: the numbers
    behind `settled`. `steps`, `rejected`: attempted steps, and those not accepted; `events`: crossings and slides.
    `end`: "settled", "step limit" or "tolerance".
    """

    network: TwoLayer
    p: Float[np.ndarray, " n"]
    objective: float
    log_q: float
    stability: Stability
    steps: int
    rejected: int
    events: int
    end: str = eqx.field(static=True)

    @property
    def settled(self) -> bool:
        """Whether the place reached is a KKT point that attracts all that is near."""
        return self.end == SETTLED


def continued(
    problem: Problem,
    network: TwoLayer,
    *,
    tol: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
    watch: Callable[[Place], None] | None = None,
) -> Continued:
    """Follow the flow from a network with large margins to q_min = infinity.

    Args:
        problem: logistic or exponential loss, one output, no weight decay, an activation with a kink; float64.
        network: the end of a flow, W1 (d, m) and w2 (m,), all of whose margins are positive; it is taken as balanced.
            The larger its smallest margin is the less it matters that it is not infinite.
        tol: tolerance of a step, for angles in radians and for log masses.
        max_steps: attempted steps at most.
        watch: called with the Place after every 64 paths.

    Returns:
        Continued. A flow that fails is where it was left, and `end` says why.

    Raises:
        ValueError: for other problems, in float32, and where a margin is not positive.
    """
    problem.require_scalar()
    problem.require_max_margin()
    problem.require_sides()
    problem.check(network)
    if problem.X.dtype != jnp.float64:
        raise ValueError('limits need float64: jax.config.update("jax_enable_x64", True)')
    balanced = network.balanced()
    if not float(jnp.min(problem.margins(balanced))) > 0:
        raise ValueError("a margin is not positive: only flows that fit their data have a limit at infinity")
    data = Data(problem)
    lanes = _begun(data, jax.tree.map(lambda a: jnp.asarray(a)[None], balanced))
    while bool(jnp.any(_under_way(lanes, max_steps))):
        lanes = _turn(data, lanes, tol, max_steps, TURN)
        if watch is not None:
            watch(jax.tree.map(lambda a: a[0], lanes.place))
    return _result(jax.tree.map(lambda a: np.asarray(a)[0], lanes))


def _result(lane: Lane) -> Continued:
    """Of one lane, on the host."""
    place, neurons = lane.place, lane.place.neurons
    live = np.flatnonzero(np.isfinite(neurons.log_mass))
    live = live[np.argsort(-neurons.log_mass[live], kind="stable")]
    root = np.exp(0.5 * neurons.log_mass[live])
    network = host_network(neurons.u[:, live] * root, place.sign[live] * root)
    end = SETTLED if lane.stability.settled else SHORT if not lane.running else STEPS
    numbers = jax.tree.map(lambda a: np.asarray(a).item(), lane.stability)
    return Continued(
        network, np.asarray(place.p), float(np.exp(neurons.log_mass[live]).sum()), float(place.log_q), numbers,
        int(place.steps), int(place.rejected), int(place.events), end,
    )  # fmt: skip


def _under_way(lanes: Lane, max_steps):
    return jax.vmap(lambda lane: lane.running & (lane.place.steps < max_steps))(lanes)


@jax.jit
def _begun(data: Data, networks: TwoLayer) -> Lane:
    return jax.vmap(start, (None, 0))(data, networks)


@jax.jit
def _turn(data: Data, lanes: Lane, tol, max_steps, count) -> Lane:
    """At most `count` paths of every lane that is under way."""

    def onward(carry):
        made, lanes = carry
        return made + 1, jax.vmap(advance, (None, 0, None, 0))(data, lanes, tol, _under_way(lanes, max_steps))

    going = lambda carry: (carry[0] < count) & jnp.any(_under_way(carry[1], max_steps))  # noqa: E731
    return jax.lax.while_loop(going, onward, (0, lanes))[1]


__all__ = ["Continued", "continued"]
