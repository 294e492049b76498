"""find_limit(problem, flow) -> Limit: merge neurons by pattern, solve the subsampled program, check it.

At the end of a flow the patterns of its live neurons have usually settled; the max-margin KKT point with these
patterns is then the exact limit of the direction. It is accepted only if its KKT residual says so and the flow's own
end agrees with it. Source: arXiv 2110.06488, section 3; arXiv 2006.05900, section 3; theory, "The convex program".
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow.convex.arrangements import unit_rows
from gflow.convex.ascent import resting_place
from gflow.convex.newton import KKTPoint, Patterns
from gflow.convex.oracle import require_float64
from gflow.convex.subsampled import Optimum, solve_subsampled
from gflow.flow.solve import Flow
from gflow.inclusion import least_norm_slopes
from gflow.network import TwoLayer
from gflow.problem import Problem

SETTLED = 1e-2
"""Largest KKT residual of a network whose patterns are taken for those on the way to its limit, and"""

SLACK = 0.3
"""largest slackness, or"""

LARGE = 30.0
"""smallest q_min. `settled` = 2 tries always."""

ACCEPT = 1e-9
"""A limit is exact ("polished") if KKT residual and slackness are at most this."""

AGREEMENT = 10.0
"""The flow's end must agree with the limit: |P(flow) - P(limit)| <= AGREEMENT (1 + log q_min) / q_min * P."""

BAND = 1e-9
"""|x_n . u_i| <= BAND |x_n| is sliding."""

ROUNDED = 1e-13
"""The same where a pair that slides by no more than rounding has to be told from one that does not."""

MOVING = 1e-6
"""The same for a flow under way, whose neurons approach hyperplanes on which they will come to rest."""

MASSES = (1e-6, 1e-2)
"""Tried in turn: neurons below this share of the largest mass are left out."""

CHANGES = 30
"""Changes of patterns that are followed."""

OUTGROWN = 1e-6
"""A neuron outgrows a limit if it grows faster than the limit's own neurons by more than this, relatively."""

NO_MARGIN = 1e-9
"""A network whose normalised margin is proved to be below this times max|x_n| is said not to fit."""

PROGRAM = 2e7
"""Largest number of non-zeros of that proof."""

REST = 1e-9
"""A neuron rests on a border if its velocity across it is at most this share of the largest velocity."""


class Limit(eqx.Module):
    """The end of a flow, its neurons merged by (sign, pattern) and scaled to q_min = 1.

    `network`: K live neurons, W1 (d, K), w2 (K,), balanced (largest weight 1 if the data are not fitted).
    `lam` (n,): lambda = Y alpha, alpha >= 0, at an exact limit sum alpha = P. `masks`, `sliding` (n, K): samples
    strictly active / on the hyperplane. `objective`: P(theta), infinite where the data are not fitted.
    `kkt_residual`: 1 - cos(theta, v); `slackness`: max_n p_n (q_n/q_min - 1).
    `polished`: the KKT point was solved for and accepted; otherwise the network is the flow's own end. `stuck`: the
    data are not fitted and, as a linear program proves, cannot be with these patterns. `changes`: how often patterns
    were changed on the way from the flow's end to the limit, 0 if they had settled.
    """

    network: TwoLayer
    lam: Float[Array, " n"]
    margins: Float[Array, " n"]
    masks: Bool[np.ndarray, "n K"]
    sliding: Bool[np.ndarray, "n K"]
    objective: float
    kkt_residual: float
    slackness: float
    polished: bool = eqx.field(static=True)
    stuck: bool = eqx.field(static=True)
    changes: int = eqx.field(static=True)

    @property
    def fitted(self) -> bool:
        """Whether all margins are positive."""
        return bool(np.isfinite(self.objective))


def find_limit(problem: Problem, flow: Flow) -> Limit:
    """The limit of one (unbatched) flow. Raises ValueError in float32.

    A flow that failed or stopped early gives the merged network of its last saved time, `polished` False.
    """
    return limit_of_network(problem, flow.final)


def limit_of_network(problem: Problem, network: TwoLayer, *, polish: bool = True, settled: float = SETTLED) -> Limit:
    """The KKT point with the patterns of `network`, or the network itself where that is not accepted.

    Polishing needs a loss below that of one sample at margin 0 and a KKT residual <= `settled` with slackness <= SLACK,
    or q_min >= LARGE: earlier in a flow patterns say nothing about the limit, and both residuals are small in its early
    phase too. `polish=False` judges the network as it is. Raises ValueError for wrong shapes, weights that are not
    finite, and in float32.
    """
    problem.check(network)
    problem.require_max_margin()
    require_float64(problem.X, network.W1)
    if not bool(jnp.all(jnp.isfinite(network.W1)) & jnp.all(jnp.isfinite(network.w2))):
        raise ValueError("the weights are not finite")
    unit, largest = network.balanced(), float(jnp.max(jnp.log(network.masses()), initial=-jnp.inf))
    with np.errstate(over="ignore", invalid="ignore"):
        q = np.nan_to_num(np.clip(np.asarray(problem.margins(unit)) * np.exp(largest), -1e300, 1e300))
    lam = problem.multipliers(jnp.asarray(q))
    if q.min() <= 0:
        patterns, V = merge(problem, unit, ROUNDED, 0.0)
        return _limit(problem, patterns, V, np.asarray(lam), polished=False, stuck=cannot_fit(problem, patterns))
    residual, slackness, _ = _judge(problem, unit, lam, jnp.abs(lam), MOVING)
    aligned = problem.separated(jnp.asarray(q)) and residual <= settled and slackness <= SLACK
    if polish and (q.min() >= LARGE or aligned or settled >= 2.0):
        limit = follow(problem, unit, float(q.min()))
        if limit is not None:
            return limit
    patterns, V = merge(problem, unit, BAND, 0.0)
    return _limit(problem, patterns, V, np.asarray(lam), polished=False)


def follow(problem: Problem, network: TwoLayer, q_min: float) -> Limit | None:
    """The KKT point to which the patterns of `network` lead, or None.

    The optimum of the subsampled program either is a KKT point or lies on the border of a cone that a neuron wants to
    leave. The flow, which inside fixed patterns converges to this optimum, crosses there; so does the pattern, to the
    side that the least-norm velocity at the border names, and the next program is solved.
    """
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    start = float(problem.objective(network))
    q = np.asarray(problem.margins(network))
    # the weights of a network scaled to this q_min, times P(theta), are multipliers up to 1/q_min
    p = np.exp(q_min * (1 - q / q.min()))
    for mass in MASSES:
        patterns, V = merge(problem, network, BAND, mass)
        near: KKTPoint | None = KKTPoint(V / q.min(), start * p / p.sum())
        seen: set[bytes] = set()
        for changes in range(CHANGES):
            key = b"".join(np.packbits(a > 0).tobytes() for a in patterns)
            optimum = None if key in seen else solve_subsampled(X, y, patterns, near)
            seen.add(key)
            near = None
            if optimum is None:
                break
            lam = y * np.maximum(optimum.alpha, 0.0)
            limit = _limit(problem, optimum.patterns, optimum.V, lam, polished=True, changes=changes)
            if not _accepted(limit, start, q_min):
                patterns = _crossed(problem, patterns, optimum, limit)
                continue
            late = _outgrowing(problem, network, limit)
            if late.width == 0:
                return limit
            patterns = _joined(patterns, merge(problem, late, BAND, 0.0)[0])
    return None


def _outgrowing(problem: Problem, network: TwoLayer, limit: Limit) -> TwoLayer:
    """Neurons, however small, that would outgrow `limit`: where they come to rest, s lambda^T (X u)_+ > 1.

    This is the rate at which they grow there; the limit's own neurons grow at the rate 1. A flow can pass near a KKT
    point for as long as such a neuron takes. Neurons with a pattern of the limit are part of it already.
    """
    X, lam = np.asarray(problem.X), np.asarray(limit.lam)
    patterns, V = merge(problem, network, ROUNDED, 0.0)
    known = {(s, D.tobytes()) for s, D in zip(np.sign(np.asarray(limit.network.w2)), limit.masks.T, strict=True)}
    directions, signs = [], []
    for s, D, v in zip(patterns.sign, patterns.mask.T, V.T, strict=True):
        if (s, D.tobytes()) in known:
            continue
        rate, u = resting_place(X, lam, s, v / np.linalg.norm(v))
        if rate > 1 + OUTGROWN:
            directions.append(u)
            signs.append(s)
    return TwoLayer(jnp.asarray(np.array(directions).reshape(-1, X.shape[1]).T), jnp.asarray(np.array(signs)))


def _joined(first: Patterns, second: Patterns) -> Patterns:
    """The patterns of both."""
    return _distinct(Patterns(*(np.concatenate([a, b], axis=-1) for a, b in zip(first, second, strict=True))))


def _distinct(patterns: Patterns) -> Patterns:
    codes = np.concatenate([patterns.sign[None] > 0, patterns.mask, patterns.sliding])
    _, first = np.unique(codes, axis=1, return_index=True)
    first = np.sort(first)
    return Patterns(patterns.sign[first], patterns.mask[:, first], patterns.sliding[:, first])


def _crossed(problem: Problem, patterns: Patterns, optimum: Optimum, limit: Limit) -> Patterns:
    """`patterns` after the neurons of `limit` have crossed the borders at which they do not rest.

    The least-norm velocity across a border says to which side: its entry of the slope does not, where lambda_n = 0.
    """
    X = np.asarray(problem.X)
    network, K = _padded(limit.network)
    slopes = np.asarray(_slopes(problem, network, limit.lam, BAND))[:, :K]
    velocity = optimum.patterns.sign * (X.T @ (slopes * np.asarray(limit.lam)[:, None]))
    across = X @ velocity / np.maximum(np.linalg.norm(X, axis=1)[:, None], 1e-300)
    border, cones = optimum.patterns.sliding, optimum.cones
    resting = np.abs(across) <= REST * np.max(np.linalg.norm(velocity, axis=0), initial=0.0)
    friendly = optimum.patterns.sign * np.asarray(problem.y)[:, None] > 0
    mask, sliding = patterns.mask.copy(), patterns.sliding.copy()
    mask[:, cones] = np.where(border & ~(friendly & resting), (across > 0) & ~resting, mask[:, cones])
    sliding[:, cones] = border & ~friendly & resting
    return _distinct(Patterns(patterns.sign, mask, sliding))


def merge(problem: Problem, network: TwoLayer, band: float, mass: float) -> tuple[Patterns, np.ndarray]:
    """Patterns and V (d, K), v_k = sum of |a_i| w_i over the neurons of equal sign and pattern.

    Neurons in one closed cone add up without changing f, and |v_k| <= the sum of their masses. Neurons below `mass`
    times the largest one, and neurons that are nowhere active (dead), are left out.
    """
    X, lower_dim = np.asarray(problem.X), np.asarray(network.directions())
    masses = np.asarray(network.masses())
    row = np.linalg.norm(X, axis=1)[:, None]
    Z = X @ lower_dim
    sliding = (np.abs(Z) <= band * row) & (row > 0)
    active = (Z > 0) & ~sliding
    live = (masses > mass * masses.max(initial=0.0)) & active.any(axis=0)
    sign = np.sign(np.asarray(network.w2))
    keys: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(live):
        key = np.packbits(np.concatenate([[sign[i] > 0], active[:, i], sliding[:, i]])).tobytes()
        keys.setdefault(key, []).append(int(i))
    # heaviest first: the order of a result must not depend on the order of the neurons
    groups = sorted(keys.values(), key=lambda g: -masses[g].sum())
    V = (
        np.stack([(lower_dim[:, g] * masses[g]).sum(axis=1) for g in groups], axis=1)
        if groups
        else np.zeros((X.shape[1], 0))
    )
    first = [g[0] for g in groups]
    return Patterns(sign[first], active[:, first], sliding[:, first]), V


def cannot_fit(problem: Problem, patterns: Patterns) -> bool:
    """Whether no weights with these patterns separate the data: the best margin of a linear program is 0.

    max tau  s.t.  Y sum_k s_k D_k (x_n/|x_n|) . v_k >= tau, v_k in the closed cone of pattern k, |v_k|_inf <= 1,
    is at most 1e-9. False where that is not proved, also for programs that are too large.
    """
    import scipy.sparse as sp
    from scipy.optimize import linprog

    X, y = unit_rows(np.asarray(problem.X)), np.asarray(problem.y)
    (n, d), K = X.shape, len(patterns.sign)
    if K == 0 or not X.any(axis=1).all():
        return True
    if 2 * K * n * d > PROGRAM:
        return False
    margins = np.concatenate(
        [(y * s * D)[:, None] * X for s, D in zip(patterns.sign, patterns.mask.T, strict=True)], axis=1
    )
    sides = [np.where(mask, -1.0, 1.0)[:, None] * X for mask in patterns.mask.T]
    slide = patterns.sliding.T.ravel()
    cones = sp.csr_array(sp.hstack([sp.block_diag(sides), sp.csr_array((len(slide), 1))]))
    A_ub = sp.vstack([sp.csr_array(np.hstack([-margins, np.ones((n, 1))])), cones[~slide]])
    border = {"A_eq": cones[slide], "b_eq": np.zeros(slide.sum())} if slide.any() else {}
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    sol = linprog(
        np.append(np.zeros(K * d), -1.0), A_ub=A_ub, b_ub=np.zeros(n + np.sum(~slide)), **border,
        bounds=[(-1, 1)] * (K * d) + [(0, 1)], method="highs", options=tight,
    )  # fmt: skip
    return bool(sol.status == 0 and -sol.fun <= NO_MARGIN)


def _limit(problem: Problem, patterns: Patterns, V, lam, *, polished: bool, stuck: bool = False, changes: int = 0):
    mass = np.linalg.norm(V, axis=0)
    root = np.sqrt(mass)
    network = TwoLayer(jnp.asarray(V / np.where(root > 0, root, 1.0)), jnp.asarray(patterns.sign * root))
    q_min = float(jnp.min(problem.margins(network)))
    if q_min > 0:
        network = network.scaled(jnp.asarray(1 / np.sqrt(q_min)))
    q = problem.margins(network)
    p = np.abs(lam) / max(np.abs(lam).sum(), 1e-300)
    # sliding pairs of a solved point are exact to rounding; the band only has to cover that
    padded, _ = _padded(network)
    residual, slackness, objective = _judge(problem, padded, jnp.asarray(lam), jnp.asarray(p), BAND)
    if not polished and q_min > 0:
        lam = lam * float(objective)  # multipliers of the scaled problem: sum alpha = P
    return Limit(
        network, jnp.asarray(lam), q, patterns.mask, patterns.sliding, float(objective), float(residual),
        float(slackness), polished, stuck, changes,
    )  # fmt: skip


def _padded(network: TwoLayer) -> tuple[TwoLayer, int]:
    """The network with zero neurons up to a multiple of 16, so that few shapes are compiled, and its width."""
    K = network.width
    more = -K % 16 or (16 if K == 0 else 0)
    return TwoLayer(jnp.pad(network.W1, ((0, 0), (0, more))), jnp.pad(network.w2, (0, more))), K


@jax.jit
def _slopes(problem: Problem, network: TwoLayer, lam, band):
    return least_norm_slopes(problem.X, lam, network.W1, problem.activation, band, problem.lines)


@jax.jit
def _judge(problem: Problem, network: TwoLayer, lam, p, band):
    q = problem.margins(network)
    return problem.kkt_residual(network, lam, band), problem.slackness(q, p), problem.objective(network)


def _accepted(limit: Limit, objective: float, q_min: float) -> bool:
    tolerance = AGREEMENT * (1 + max(np.log(q_min), 0.0)) / q_min
    return (
        limit.fitted
        and limit.kkt_residual <= ACCEPT
        and limit.slackness <= ACCEPT
        and abs(objective - limit.objective) <= tolerance * limit.objective
    )
