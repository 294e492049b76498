"""along(problem, flow) -> Along: what is known of a flow at each of its saved times, beyond what the flow holds.

Source: arXiv 2110.06488, sections 3 and 4; docs/mathematics.md, "The max-margin problem and its KKT points" and "The
certificate".
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.convex.faces import Faces, faces
from gflow.convex.oracle import dual_maxima, gram_bound
from gflow.flow.solve import Flow
from gflow.network import TwoLayer
from gflow.problem import Problem

BAND = 1e-6
"""|x_n . w_i| <= BAND |x_n||w_i| counts as a kink: a moving flow holds sliding neurons to within its tolerance."""


class Along(eqx.Module):
    """k saved times of a flow.

    `s` (k,), `log_t` (k,): scaled clock, natural log of physical time. `kkt_residual` (k,): 1 - cos(theta, v); of a
    flow to a point the relative speed of its fastest neuron. `slackness` (k,): max_n p_n (q_n/q_min - 1), infinite
    while not fitted; None of a flow to a point. `misalignment` (k,): mean over the mass |a_i||w_i| of
    1 - cos(w_i, a_i X^T D_i lambda), 0 where every neuron grows along itself; NaN where none moves. `balance_drift`
    (k,): largest change of a_i^2 - |w_i|^2 since the start, relative to a_i^2 + |w_i|^2. `certificate` (k,): a proved
    c >= P(theta)/P*, infinite while not fitted; None for vector output, points, leaky ReLU and float32. `exact`:
    whether c is over all faces; otherwise the Gram bound.
    """

    s: Float[Array, " k"]
    log_t: Float[Array, " k"]
    kkt_residual: Float[Array, " k"]
    slackness: Float[Array, " k"] | None
    misalignment: Float[Array, " k"]
    balance_drift: Float[Array, " k"]
    certificate: Float[Array, " k"] | None
    exact: bool = eqx.field(static=True)


def along(problem: Problem, flow: Flow, known_faces: Faces | None = None) -> Along:
    """Residuals, alignment, balance and certificates at the saved times of one (unbatched) flow.

    `known_faces`: those of X if they are at hand; of data with too many faces c is from the Gram bound. Rows after a
    failure are those of the flow's last saved time. Raises ValueError if the flow is not of these data.
    """
    problem.check(flow.final)
    residual, misalignment, drift = _residuals(problem, flow)
    slackness = None
    if problem.directional:
        slackness = jax.vmap(lambda q, lam: problem.slackness(q, abs(lam)))(flow.margins, flow.lam)
    c, exact = _certificates(problem, flow, known_faces)
    return Along(flow.s, flow.log_t, residual, slackness, misalignment, drift, c, exact)


@eqx.filter_jit
def _residuals(problem: Problem, flow: Flow):
    start = flow.network.at(0)

    def one(network, lam):
        G = problem.least_norm_gradients(network, lam, BAND)
        moves = problem.misalignment(network, G, lam) if problem.directional else problem.speed(network, G, lam)
        return moves, _misalignment(network, G), network.balance_drift(start)

    return jax.vmap(one)(flow.network, flow.lam)


def _misalignment(network, G: Float[Array, "d m"]) -> Float[Array, ""]:
    size, U = jnp.sqrt(jnp.sum(G**2, axis=0)), network.directions()
    sign = jnp.sign(network.w2) if isinstance(network, TwoLayer) else 1.0
    # half the squared chord: no cancellation near 0
    chord = 0.5 * jnp.sum((U - sign * G / jnp.where(size > 0, size, 1.0)) ** 2, axis=0)
    mass = jnp.where(size > 0, network.masses(), 0.0)
    total = jnp.sum(mass)
    return jnp.where(total > 0, jnp.sum(mass * chord) / jnp.where(total > 0, total, 1.0), jnp.nan)


def _certificates(problem: Problem, flow: Flow, known: Faces | None):
    plain = problem.directional and problem.outputs is None and problem.lower_slope == 0
    if not plain or problem.X.dtype != np.float64:
        return None, False
    known = faces(problem.X) if known is None else known
    objective = jax.vmap(problem.objective)(flow.network)
    if known.complete:
        return objective * dual_maxima(problem.X, flow.lam, known).upper, True
    return objective * jax.vmap(lambda lam: gram_bound(problem.X, lam))(flow.lam), False
