"""A primal-dual interior-point method for penalised programs over given masks, in JAX.

    min  sum_n l(q_n) + beta sum_k |z_k|   s.t.  q = c o sum_k s_k S_k X z_k - b,   A_k z_k >= 0,  A_k = (2 D_k - I) X

with S_k = D_k + lower (I - D_k) the slopes on mask D_k, lower = 0 for ReLU, and its dual, with alpha = -l'(q) and
multipliers mu_k >= 0 of the cones,

    max  b . alpha - sum_n l*(-alpha_n)   s.t.  |w_k| <= beta,   w_k = s_k X^T S_k (c o alpha) + A_k^T mu_k.

The ball |w_k|^2 <= beta^2 has the multiplier nu_k, and z_k = 2 nu_k w_k is the primal block: the optimality conditions
are mu_k o A_k z_k = 0 and nu_k (beta^2 - |w_k|^2) = 0. A step costs one n x n system, because the blocks (d x d) couple
through q alone. Source: arXiv 2002.10553, section 2; docs/mathematics.md, "Limits that are points"; the predictor and
the corrector are Mehrotra's (SIAM J. Optim. 2, 1992), the centrality correctors Gondzio's (Comput. Optim. Appl. 6,
1996).
"""

from __future__ import annotations

import time

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gflow import deadline
from gflow.losses import AbstractLoss

BACK = 0.99
"""A step goes at most this share of the way to the border."""

CORRECTORS = 4
"""Centrality correctors per step: cheap beside the factorisation, they save a third of the steps."""

NEAR = (0.03, 30.0)
"""They aim at products within these multiples of the centre, at the end of a step longer than the last one was:"""

LONGER = (1.5, 0.1)
"""by this factor and this much."""


TURN = 0.5
"""Seconds of steps between two looks at the clock."""

FIRST = 1e-2
"""A beta below this share of the one above which the zero network is the optimum is approached,"""

DROP, CLOSE = 10.0, 0.1
"""going down by DROP whenever the gap is at most CLOSE."""


class Program(eqx.Module):
    """Data and masks: `X` (n, d) without rows of zeros, `c`, `b` (n,): q = c f - b, `masks` (K, n), `sign` (K,);
    `lower`: the activation's slope for z < 0."""

    X: Float[Array, "n d"]
    c: Float[Array, " n"]
    b: Float[Array, " n"]
    masks: Bool[Array, "K n"]
    sign: Float[Array, " K"]
    beta: Float[Array, ""]
    loss: AbstractLoss
    lower: float = eqx.field(static=True, default=0.0)

    @property
    def slopes(self) -> Float[Array, "K n"]:
        """S_k = D_k + lower (I - D_k)."""
        return self.masks if self.lower == 0 else jnp.where(self.masks, 1.0, self.lower)

    def outputs(self, z: Float[Array, "K d"]) -> Float[Array, " n"]:
        """f = sum_k s_k S_k X z_k."""
        return self.sign @ (self.slopes * (z @ self.X.T))

    def margins(self, z: Float[Array, "K d"]) -> Float[Array, " n"]:
        """q = c o f - b."""
        return self.c * self.outputs(z) - self.b

    def pull(self, alpha: Float[Array, " n"]) -> Float[Array, "K d"]:
        """s_k X^T S_k (c o alpha)."""
        return self.sign[:, None] * ((self.slopes * (self.c * alpha)) @ self.X)

    def feasible(self, q: Float[Array, " n"], mu: Float[Array, "K n"]) -> Float[Array, " n"]:
        """alpha = -l'(q), shrunk until |w_k| <= beta with the multipliers mu of the cones."""
        alpha = -self.loss.slope(q)
        largest = jnp.max(jnp.linalg.norm(self.pull(alpha) + self.outwards(mu), axis=1))
        return alpha * jnp.minimum(1.0, self.beta / jnp.maximum(largest, 1e-300))

    def inside(self, z: Float[Array, "K d"]) -> Float[Array, "K n"]:
        """A_k z_k."""
        return self.sides * (z @ self.X.T)

    def outwards(self, mu: Float[Array, "K n"]) -> Float[Array, "K d"]:
        """A_k^T mu_k."""
        return (self.sides * mu) @ self.X

    @property
    def sides(self) -> Float[Array, "K n"]:
        """2 D_k - I."""
        return jnp.where(self.masks, 1.0, -1.0)


class Iterate(eqx.Module):
    """z and w (K, d), s = A z and mu (K, n), nu (K,), q (n,), alpha = -l'(q).

    s, mu, nu and beta^2 - |w|^2 are positive, the equations hold in the end. `primal`, `dual`: proved over the masks.
    `steps` made.
    """

    z: Array
    s: Array
    mu: Array
    nu: Array
    w: Array
    q: Array
    primal: Array
    dual: Array
    steps: Array

    @property
    def gap(self) -> Array:
        """(primal - dual) / primal."""
        return (self.primal - self.dual) / jnp.maximum(jnp.abs(self.primal), 1e-300)

    def moved(self, by: Direction, a: Array, loss: AbstractLoss) -> Iterate:
        """`a` times the direction `by` further."""
        return Iterate(
            self.z + a * by.z, self.s + a * by.s, self.mu + a * by.mu, self.nu + a * by.nu, self.w + a * by.w,
            loss.moved(self.q, a * by.q), self.primal, self.dual, self.steps,
        )  # fmt: skip


class Direction(eqx.Module):
    """Changes of the fields of Iterate."""

    z: Array
    s: Array
    mu: Array
    nu: Array
    w: Array
    q: Array

    def longest(self, at: Iterate, room: Array) -> Array:
        """The largest step in [0, 1] that keeps s, mu, nu and room = beta^2 - |w|^2 non-negative."""
        pairs = ((at.s, self.s), (at.mu, self.mu), (at.nu, self.nu))
        ratios = [jnp.min(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, 1.0), jnp.inf)) for x, dx in pairs]
        slope, square = jnp.sum(at.w * self.w, axis=1), jnp.sum(self.w**2, axis=1)
        root = jnp.sqrt(slope**2 + square * room)
        ratios.append(jnp.min(jnp.where(square > 0, room / jnp.maximum(slope + root, 1e-300), jnp.inf)))
        return jnp.minimum(1.0, jnp.min(jnp.stack(ratios)))


class InteriorPoint(eqx.Module):
    """The method: `rtol` relative gap at which it ends, `max_steps`."""

    rtol: float = 1e-9
    max_steps: int = 200

    def init(self, program: Program) -> Iterate:
        """The zero network, and multipliers inside the cones' dual balls; every product is the zero network's loss
        divided by the number of products."""
        (K, n), d = program.masks.shape, program.X.shape[1]
        z = jnp.zeros((K, d))
        q = program.margins(z)
        t = jnp.sum(program.loss.value(q)) / (K * (n + 1))
        one, each = jnp.ones((K, n)), jnp.ones(K)
        reach = jnp.max(jnp.linalg.norm(program.outwards(one), axis=1))
        mu = program.beta / (2 * jnp.where(reach > 0, reach, 1.0))
        start = Iterate(
            z, t / mu * one, mu * one, t / program.beta**2 * each, z, q,
            jnp.asarray(jnp.inf), jnp.asarray(-jnp.inf), jnp.asarray(0),
        )  # fmt: skip
        return _judged(program, start)

    def step(self, program: Program, at: Iterate) -> Iterate:
        """Predictor, corrector, and the longest step that keeps s, mu, nu, beta^2 - |w|^2 positive."""
        system = _System(program, at)
        count, room = at.s.size + at.nu.size, system.room
        products = lambda i, c: (jnp.sum(i.s * i.mu) + jnp.sum(i.nu * c)) / count  # noqa: E731
        t = products(at, room)
        first = system.direction(-at.s * at.mu, -at.nu * room, jnp.zeros_like(at.z))
        ahead = at.moved(first, first.longest(at, room), program.loss)
        centre = jnp.clip(products(ahead, _room(program, ahead.w)) / t, 0.0, 1.0) ** 3 * t
        bent = 2 * first.nu * jnp.sum(at.w * first.w, axis=1) + at.nu * jnp.sum(first.w**2, axis=1)
        by_mu, by_nu = centre - at.s * at.mu - first.s * first.mu, centre - at.nu * room + bent
        bend = 2 * first.nu[:, None] * first.w
        best = system.direction(by_mu, by_nu, bend)
        a = best.longest(at, room)
        into = lambda v: jnp.clip(jnp.clip(v, NEAR[0] * centre, NEAR[1] * centre) - v, -NEAR[1] * centre, None)  # noqa: E731
        for _ in range(CORRECTORS):
            ahead = at.moved(best, jnp.minimum(1.0, LONGER[0] * a + LONGER[1]), program.loss)
            by_mu, by_nu = by_mu + into(ahead.s * ahead.mu), by_nu + into(ahead.nu * _room(program, ahead.w))
            other = system.direction(by_mu, by_nu, bend)
            b = other.longest(at, room)
            best, a = jax.tree.map(lambda new, old: jnp.where(b > a, new, old), (other, b), (best, a))  # noqa: B023
        moved = at.moved(best, jnp.minimum(1.0, BACK * a), program.loss)
        return _judged(program, eqx.tree_at(lambda i: i.steps, moved, at.steps + 1))

    def terminate(self, at: Iterate) -> Bool[Array, ""]:
        """The gap is reached, the steps are used up, or a number is not finite."""
        return (at.gap <= self.rtol) | (at.steps >= self.max_steps) | ~jnp.all(jnp.isfinite(at.z))

    def solve(self, program: Program) -> tuple[Iterate, Iterate]:
        """From `init` to `terminate` or the deadline; the best iterate. A small beta is approached from larger ones:
        the second one is the last whose gap was at most CLOSE, for a beta that may have been larger."""
        carry, count, going = self._begun(program), 1, True
        while going and not deadline.passed():
            begun = time.monotonic()
            carry, more = self._made(program, carry, jnp.asarray(count))
            going = bool(more)
            count = 2 * count if time.monotonic() - begun < TURN else max(count // 2, 1)
        return carry[1:3]

    @eqx.filter_jit
    def _begun(self, program: Program):
        first = program.margins(jnp.zeros((len(program.masks), program.X.shape[1])))
        largest = jnp.max(jnp.linalg.norm(program.pull(-program.loss.slope(first)), axis=1))
        beta = jnp.maximum(program.beta, FIRST * largest)
        start = self.init(eqx.tree_at(lambda p: p.beta, program, beta))
        return start, _judged(program, start), start, beta

    @eqx.filter_jit
    def _made(self, program: Program, carry, count):
        """At most `count` further steps, and whether there are more to make."""

        def body(carry):
            at, best, close, beta = carry
            at = self.step(eqx.tree_at(lambda p: p.beta, program, beta), at)
            keep = lambda which, old: jax.tree.map(lambda a, b: jnp.where(which, a, b), at, old)  # noqa: E731
            best, close = keep((at.gap < best.gap) & (beta == program.beta), best), keep(at.gap <= CLOSE, close)
            lower = jnp.where(at.gap <= CLOSE, jnp.maximum(program.beta, beta / DROP), beta)
            return _with_beta(program, at, beta, lower), best, close, lower

        def going(carry):
            at, *_, beta = carry
            reached = (at.gap <= self.rtol) & (beta > program.beta)
            return reached | ~self.terminate(at)

        some = lambda carry: (carry[0] < count) & going(carry[1])  # noqa: E731
        step = lambda carry: (carry[0] + 1, body(carry[1]))  # noqa: E731
        carry = jax.lax.while_loop(some, step, (jnp.zeros_like(count), carry))[1]
        return carry, going(carry)


def _with_beta(program: Program, at: Iterate, beta: Array, new: Array) -> Iterate:
    """`at`, an iterate for `beta`, made one for `new`: w and mu shrink with it, z = 2 nu w stays."""
    ratio = new / beta
    other = eqx.tree_at(lambda i: (i.mu, i.nu, i.w), at, (at.mu * ratio, at.nu / ratio, at.w * ratio))
    other = _judged(eqx.tree_at(lambda p: p.beta, program, new), other)
    return jax.tree.map(lambda a, b: jnp.where(ratio < 1, a, b), other, at)


def _room(program: Program, w: Array) -> Array:
    """beta^2 - |w_k|^2, without cancellation."""
    size = jnp.linalg.norm(w, axis=1)
    return (program.beta - size) * (program.beta + size)


class _System:
    """Newton's equations at one iterate, factored once for predictor and corrector."""

    def __init__(self, program: Program, at: Iterate):
        X, (K, n) = program.X, program.masks.shape
        d = X.shape[1]
        self.program, self.at, self.room, self.T = program, at, _room(program, at.w), at.mu / at.s
        # dz = H^-1 (..), H = M^-1 + A^T T A; H^-1 = R^T R with M = 2 nu (I + (2/room) w w^T) and its root
        square = jnp.sum(at.w**2, axis=1)
        stretch = (jnp.sqrt(1 + 2 * square / self.room) - 1) / jnp.where(square > 0, square, 1.0)
        ww, size = at.w[:, :, None] * at.w[:, None, :], jnp.sqrt(2 * at.nu)[:, None, None]
        root = size * (jnp.eye(d) + stretch[:, None, None] * ww)
        # row by row, so that the small x . w of sliding rows meets the large factors before anything is added to it
        E = size * (X.T + (stretch[:, None] * at.w)[:, :, None] * (at.w @ X.T)[:, None, :])
        L = jnp.linalg.cholesky(jnp.eye(d) + jnp.einsum("kin,kn,kjn->kij", E, self.T, E))
        inverse = jax.scipy.linalg.solve_triangular(L, jnp.broadcast_to(jnp.eye(d), L.shape), lower=True)
        self.R = inverse @ root
        E = (inverse @ E) * program.slopes[:, None, :]
        E = E.reshape(K * d, n) * program.c
        self.G = E.T @ E
        self.D = jnp.sqrt(program.loss.curvature(at.q))
        self.factor = jax.scipy.linalg.cho_factor(jnp.eye(n) + self.D[:, None] * self.G * self.D)

    def direction(self, by_mu: Array, by_nu: Array, bend: Array) -> Direction:
        """The step after which, to first order, s o mu and nu o room have changed by `by_mu` and `by_nu`.

        `bend`: the second-order part of z = 2 nu w. All other equations hold after a full step, to first order.
        """
        program, at = self.program, self.at
        apply = lambda v: jnp.einsum("kji,kjl,kl->ki", self.R, self.R, v)  # noqa: E731
        r_s = program.inside(at.z) - at.s
        r_w = program.pull(-program.loss.slope(at.q)) + program.outwards(at.mu) - at.w
        kappa = by_mu / at.s - self.T * r_s
        straight = 2 * at.w * (at.nu + by_nu / self.room)[:, None] - at.z + bend
        h = r_w + program.outwards(kappa - self.T * program.inside(straight))
        e = program.margins(at.z + straight + apply(h)) - at.q
        x = jax.scipy.linalg.cho_solve(self.factor, self.D * e)
        # the same twice: where the blocks weigh more than the loss the difference would cancel
        steep = self.D**2 * jnp.diagonal(self.G) > 1
        dq = jnp.where(steep, x / jnp.where(steep, self.D, 1.0), e - self.G @ (self.D * x))
        dalpha = -self.D * x
        dz = straight + apply(h + program.pull(dalpha))
        ds = program.inside(dz) + r_s
        dmu = by_mu / at.s - self.T * ds
        dw = program.pull(dalpha) + program.outwards(dmu) + r_w
        # from dz, not from dw: that would blow up the rounding of dw by 1 / room
        along = jnp.sum(at.w * (dz + at.z - 2 * at.nu[:, None] * at.w - bend), axis=1)
        dnu = (by_nu + along) / (self.room + 2 * jnp.sum(at.w**2, axis=1))
        return Direction(dz, ds, dmu, dnu, dw, dq)


def _judged(program: Program, at: Iterate) -> Iterate:
    """`primal`: the objective of the network with neurons z, whatever their patterns. `dual`: of alpha and mu, scaled
    until |w_k| <= beta."""
    U = at.z @ program.X.T
    q = program.c * (program.sign @ jnp.maximum(U, program.lower * U)) - program.b
    primal = jnp.sum(program.loss.value(q)) + program.beta * jnp.sum(jnp.linalg.norm(at.z, axis=1))
    alpha = program.feasible(at.q, at.mu)
    dual = program.b @ alpha - jnp.sum(program.loss.conjugate(alpha))
    return eqx.tree_at(lambda i: (i.primal, i.dual), at, (primal, dual))
