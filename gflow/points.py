"""point_limit(problem, network) -> Limit: where a flow of the squared loss, or with weight decay, has come to rest.

With weight decay the point is isolated, and a function of its patterns: the reduced program is solved to the end.
Without it the squared loss has whole manifolds of minima; which point of them a flow reaches only the flow knows.
Source: docs/mathematics.md, "Limits that are points".
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gflow.convex.ascent import resting_places
from gflow.convex.interior_point import Program
from gflow.convex.oracle import require_float64
from gflow.convex.reduced import newton_on
from gflow.network import TwoLayer, host_network
from gflow.patterns import merge
from gflow.problem import Problem
from gflow.programs.base import BAND, Limit

RESTING = 1e-8
"""Largest residual of a flow's end that counts as a limit."""

MOVING = 1e-6
"""Pairs with |x_n . u_i| <= MOVING |x_n| count as sliding where the residual of a flow's end is measured."""

EXACT = 1e-9
"""A solved point is accepted up to this residual,"""

AGREEMENT = 1e-4
"""if its objective is that of the flow's end up to this, relatively, and not larger."""

OUTGROWN = 1e-6
"""A neuron left out grows if its rate exceeds beta by this share."""

VANISHED = (1e-12, 1e-9, 1e-6, 1e-4)
"""Tried in turn: neurons below this share of the largest mass are on their way to 0."""


def point_limit(problem: Problem, network: TwoLayer, *, polish: bool = True) -> Limit:
    """The point at which a flow that ended at `network` comes to rest, or the network itself, `polished` False.

    `objective`: L + weight_decay/2 |theta|^2, or 1/2 |theta|^2 without weight decay; `loss`: L; `lam` (n,): -dL/df;
    `kkt_residual`: `Problem.speed` of the least-norm velocity, 0 at a stationary point; `slackness` 0.
    With weight decay the neurons are merged by pattern and exact. Without it the network is the flow's own
    end, each neuron for itself, "polished" if its residual is at most 1e-8. Raises ValueError as `find_limit` does.
    """
    problem.check(network)
    require_float64(problem.X, network.W1)
    if not (np.all(np.isfinite(network.W1)) and np.all(np.isfinite(network.w2))):
        raise ValueError("the weights are not finite")
    own = _judged(problem, network, moving=True)
    if problem.weight_decay is None or not polish:
        return own
    for share in VANISHED:
        limit = _solved(problem, network, share)
        if limit is None or limit.kkt_residual > EXACT or not _agrees(limit.objective, own.objective):
            continue
        if not _grows(problem, network, limit, share):
            return limit
    return _unpolished(own) if own.kkt_residual > EXACT else own


def _agrees(objective: float, flow: float) -> bool:
    return (1 - AGREEMENT) * flow <= objective <= (1 + 1e-12) * flow


def _grows(problem: Problem, network: TwoLayer, limit: Limit, share: float) -> bool:
    """Whether a neuron that was left out, where it comes to rest, grows at `limit`: s lambda^T (X u)_+ > beta."""
    small = network.masses() <= share * jnp.max(network.masses(), initial=0.0)
    # its size says nothing: unit vectors, whose masses do not underflow
    others = TwoLayer(jnp.where(small, network.directions(), 0.0), jnp.where(small, jnp.sign(network.w2), 0.0))
    patterns, V = merge(problem, others, BAND, 0.0)
    X, lam, beta = np.asarray(problem.X), np.asarray(limit.lam), float(problem.weight_decay)  # pyright: ignore
    rates, _ = resting_places(X, lam, patterns.sign, V / np.linalg.norm(V, axis=0), problem.lower_slope)
    return bool(np.any(rates > beta * (1 + OUTGROWN)))


def _unpolished(limit: Limit) -> Limit:
    return dataclasses.replace(limit, polished=False)


def _solved(problem: Problem, network: TwoLayer, share: float) -> Limit | None:
    """The minimum of the penalised program whose blocks are the network's patterns, in their cones; else None."""
    patterns, V = merge(problem, network, BAND, share)
    c, b = np.asarray(problem.signs()), np.asarray(problem.targets())
    beta = problem.weight_decay
    assert beta is not None
    program = Program(
        problem.X, jnp.asarray(c), jnp.asarray(b), jnp.asarray(patterns.mask.T), jnp.asarray(patterns.sign), beta,
        problem.loss, problem.lower_slope,
    )  # fmt: skip
    found = newton_on(program, V.T, patterns.sign, patterns.mask, patterns.sliding)
    if found is None:
        return None
    root = np.sqrt(np.linalg.norm(found, axis=0))
    units = found / np.where(root > 0, root, 1.0)
    return _judged(problem, TwoLayer(jnp.asarray(units), jnp.asarray(patterns.sign * root)))


def _judged(problem: Problem, network: TwoLayer, moving: bool = False) -> Limit:
    """The network as a Limit; `moving`: it is a flow's end, whose neurons approach the hyperplanes they rest on."""
    band = MOVING if moving else BAND
    q, lam, residual, loss = _stationarity(problem, _padded(network), band)
    X, U = np.asarray(problem.X), np.asarray(network.directions())
    Z, row = X @ U, np.linalg.norm(X, axis=1)[:, None]
    sliding = (np.abs(Z) <= BAND * row) & (row > 0)
    whole = 0.5 * float(network.squared_norm())
    objective = whole if problem.weight_decay is None else float(loss) + float(problem.weight_decay) * whole
    return Limit(
        network, lam, q, (Z > 0) & ~sliding, sliding, objective, float(residual), 0.0, bool(residual <= RESTING), False,
        0, float(loss),
    )  # fmt: skip


def _padded(network: TwoLayer) -> TwoLayer:
    """The network with zero neurons up to a multiple of 16, so that few shapes are compiled."""
    K = network.width
    more = -K % 16 or (16 if K == 0 else 0)
    return host_network(np.pad(network.W1, ((0, 0), (0, more))), np.pad(network.w2, (0, more)))


@jax.jit
def _stationarity(problem: Problem, network: TwoLayer, band):
    q = problem.margins(network)
    lam = -problem.loss.slope(q) * problem.signs()
    G = problem.least_norm_gradients(network, lam, band)
    return q, lam, problem.speed(network, G, lam), problem.loss_value(q)
