"""Small nasty problems, networks on them, and what refutes a false statement about them: `refuted(seed)`.

A bound is refuted by a network that is feasible and better, evaluated in rational numbers (`fractions`); GLOBAL by such
a network or by the network's own objective; UNFITTED by weights with the same signs that fit. Networks to refute with
come from convex programs over the masks of the arrangement, those of a plane enumerated in rational numbers too (CVXPY
and linear programs only suggest: what they suggest is evaluated exactly). Of gflow only public names are used.
"""

import itertools
import math
import warnings
from fractions import Fraction
from typing import NamedTuple

import cvxpy as cp
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

import gflow

SLACK = 3e-6
"""What a verdict leaves open, 1e-6, and what a bound's last digits do."""

KINDS = (
    "margin", "leaky", "decay", "squared decay", "exponential decay", "leaky decay", "least norm", "gated",
    "gated decay", "frozen", "outputs",
)  # fmt: skip
LEAKY = 0.1
BETA = 0.125
REFUSED = "the weights must be finite, and the largest of a frozen second layer"
"""What gflow says of a network about which it makes no statement."""

VERDICT = gflow.VERDICT


class Trial(NamedTuple):
    """`X` (n, d), `y` (n,) or (n, K), the network's `W1` (d, m) and `w2` (m,) or (m, K)."""

    kind: str
    X: np.ndarray
    y: np.ndarray
    W1: np.ndarray
    w2: np.ndarray

    @property
    def lower(self) -> float:
        """Slope of the activation below 0."""
        return LEAKY if self.kind.startswith("leaky") else 0.0

    @property
    def activation(self):
        return gflow.LeakyReLU(LEAKY) if self.lower else gflow.ReLU()


def rows(rng, n: int, d: int) -> np.ndarray:
    """Rows (n, d): a grid of integers or gaussian, some of them twice, opposite, nearly so, zero, long or short."""
    X = rng.integers(-2, 3, (n, d)).astype(float) if rng.random() < 0.6 else rng.standard_normal((n, d))
    for k in range(1, n):
        other, how = X[rng.integers(k)], rng.choice(6, p=[0.6, 0.1, 0.1, 0.1, 0.05, 0.05])
        if how in (1, 3):
            X[k] = rng.choice([-1.0, 1.0, 2.0]) * other
        if how in (2, 3):
            X[k] = X[k] + 10.0 ** -rng.uniform(9, 15) * rng.standard_normal(d)
        if how == 4:
            X[k] = 0.0
        if how == 5:
            X[k] = other * (np.arange(d) == 0)
    if rng.random() < 0.2:
        X = X * 10.0 ** rng.uniform(-8, 8, (n, 1))
    return X


def trial(seed: int) -> Trial:
    """The problem and the network of this seed."""
    rng = np.random.default_rng(seed)
    kind, n, m = KINDS[rng.integers(len(KINDS))], int(rng.integers(2, 5)), int(rng.integers(1, 5))
    d = int(rng.choice([1, 2, 3], p=[0.1, 0.6, 0.3]))
    X = rows(rng, n, d)
    W1 = rng.integers(-2, 3, (d, m)).astype(float) if rng.random() < 0.5 else rng.standard_normal((d, m))
    w2 = rng.choice([-1.0, 1.0], m) * rng.choice([0.5, 1.0, 2.0], m)
    for i in range(m):
        how = rng.choice(6, p=[0.6, 0.08, 0.08, 0.08, 0.08, 0.08])
        if how == 1:
            W1[:, i] = 0.0
        elif how == 2:
            w2[i] = 0.0
        elif how == 3 and i:
            W1[:, i], w2[i] = W1[:, i - 1], -w2[i - 1]  # the two cancel
        elif how == 4:
            W1[:, i] = X[rng.integers(n)] / max(np.abs(X).max(), 1.0)
        elif how == 5:
            W1[:, i], w2[i] = W1[:, i] * 10.0 ** rng.uniform(-9, 3), w2[i] * 10.0 ** rng.uniform(-9, 3)
    y = rng.choice([-1.0, 1.0], n)
    if kind == "outputs":
        y, w2 = rng.choice([-1.0, 1.0], (n, 2)), w2[:, None] * rng.choice([-1.0, 0.0, 1.0, 2.0], (m, 2))
    elif kind in ("squared decay", "least norm"):
        y = np.maximum(X @ W1, 0.0) @ w2 if rng.random() < 0.6 else rng.integers(-2, 3, n).astype(float)
        if rng.random() < 0.15:
            y = y * 10.0 ** rng.uniform(-8, 8)
    elif rng.random() < 0.7:  # labels that the network fits, where it can
        f = np.maximum(X @ W1, 0.0) @ w2
        y = np.where(f == 0, y, np.sign(f))
    return Trial(kind, X, y, W1, w2)


# rational arithmetic


def rational(A) -> np.ndarray:
    """The same numbers as Fractions."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(A, float))


def outputs(X, W1, w2, lower=0.0) -> np.ndarray:
    """f (n,) or (n, K) in Fractions."""
    Z = rational(X) @ rational(W1)
    return np.where(Z > 0, Z, Fraction(lower) * Z) @ rational(w2)


def half_norm(*weights) -> Fraction:
    return sum((v * v for a in weights for v in rational(a).ravel()), Fraction(0)) / 2


def number(value: Fraction | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def margin_objective(X, y, W1, w2, lower=0.0):
    """P(theta) = 1/2 |theta|^2 / q_min, a Fraction, or inf."""
    q = np.min(rational(y) * outputs(X, W1, w2, lower))
    return half_norm(W1, w2) / q if q > 0 else math.inf


def decay_objective(t: Trial, W1, w2):
    """L + BETA/2 |theta|^2 of these weights; rational for the squared loss."""
    f, y, beta = outputs(t.X, W1, w2, t.lower), t.y, BETA
    if t.kind == "squared decay":
        return sum((f - rational(y)) ** 2) / 2 + Fraction(beta) * half_norm(W1, w2)
    q = [number(v) for v in rational(y) * f]
    if t.kind == "exponential decay":
        return sum(math.exp(-v) if v > -700 else math.inf for v in q) + beta * number(half_norm(W1, w2))
    return math.fsum(float(np.logaddexp(0.0, -v)) for v in q) + beta * number(half_norm(W1, w2))


def masks(X) -> np.ndarray:
    """1[X u > 0] (P, n) of all cells and rays of the arrangement of X (n, 2), exactly; in other dimensions of cells
    and of some of the rest, as found by trying."""
    exact = rational(X)
    if X.shape[1] != 2:
        grid = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=X.shape[1])))
        U = np.concatenate([np.random.default_rng(0).standard_normal((400, X.shape[1])), grid, X, -X])
        return np.unique(X @ U.T > 0, axis=1).T
    rays = [s * np.array([-x[1], x[0]]) / max(abs(x[0]), abs(x[1])) for x in exact if any(x) for s in (1, -1)]
    rays = sorted(rays or [np.array([Fraction(1), Fraction(0)])], key=_angle)
    distinct = [r for k, r in enumerate(rays) if k == 0 or _angle(r) != _angle(rays[k - 1])]
    between = [a + b for a, b in zip(distinct, distinct[1:] + distinct[:1], strict=True)]
    # two opposite rays alone: the sides between them
    between += [s * np.array([-r[1], r[0]]) for r in distinct for s in (1, -1)]
    found = {tuple(bool(z > 0) for z in exact @ u) for u in [*distinct, *between]}
    return np.array(sorted(found))


def _angle(u) -> tuple:
    """Grows with the angle of u in [0, 2 pi), exactly."""
    x, y = u
    size = abs(x) + abs(y)
    return (0, 1 - x / size) if y > 0 or (y == 0 and x > 0) else (1, 1 + x / size)


# networks that may refute


def convex_program(t: Trial, beta=None, slopes=None, cones=True):
    """(W1, w2, D (K, n)) of the convex program over all masks, or None; `slopes` (P, n) in place of masks for gates."""
    X, y, D = t.X, t.y, masks(t.X).astype(float) if slopes is None else np.asarray(slopes, float)
    U, V = cp.Variable((X.shape[1], len(D))), cp.Variable((X.shape[1], len(D)))
    slope = np.where(D > 0, 1.0, t.lower).T
    f = cp.sum(cp.multiply(slope, X @ (U - V)), axis=1)
    sides = 2 * D.T - 1
    held = [cp.multiply(sides, X @ A) >= 0 for A in (U, V)] if cones else []
    mass = cp.sum(cp.norm(U, axis=0)) + cp.sum(cp.norm(V, axis=0))
    if beta is None:
        goal, held = mass, [*held, f == y if t.kind == "least norm" else cp.multiply(y, f) >= 1]
    elif t.kind == "squared decay":
        goal = 0.5 * cp.sum_squares(f - y) + beta * mass
    elif t.kind == "exponential decay":
        goal = cp.sum(cp.exp(cp.multiply(-y, f))) + beta * mass
    else:
        goal = cp.sum(cp.logistic(cp.multiply(-y, f))) + beta * mass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cp.Problem(cp.Minimize(goal), held).solve(solver="CLARABEL")
    except cp.SolverError:
        return None
    if U.value is None:
        return None
    A = np.concatenate([U.value, V.value], axis=1)
    size = np.linalg.norm(A, axis=0)
    kept = size > 1e-9 * size.max(initial=0.0)
    root = np.sqrt(size[kept])
    return A[:, kept] / root, np.repeat([1.0, -1.0], len(D))[kept] * root, np.concatenate([D, D])[kept] > 0


def fitting(t: Trial, lower: float):
    """Weights (W1, w2) whose signs are those of the trial's network and which fit, with what margin: or None."""
    X, y, Z = t.X, t.y, rational(t.X) @ rational(t.W1)
    (n, d), m = X.shape, len(t.w2)
    unit = X / np.where((s := np.linalg.norm(X, axis=1)) > 0, s, 1.0)[:, None]
    sign = np.sign(t.w2)
    margins = np.concatenate([(y * sign[i] * np.where(Z[:, i] > 0, 1.0, lower))[:, None] * unit for i in range(m)], 1)
    upper, equal = [np.hstack([-margins, np.ones((n, 1))])], []
    for i in range(m):
        for k in range(n):
            row = np.zeros(m * d + 1)
            row[i * d : i * d + d] = unit[k]
            if Z[k, i] == 0:
                equal.append(row)
            else:
                upper.append((-row if Z[k, i] > 0 else row)[None])
    A = np.concatenate(upper)
    found = linprog(
        np.append(np.zeros(m * d), -1.0), A_ub=A, b_ub=np.zeros(len(A)), A_eq=np.array(equal) if equal else None,
        b_eq=np.zeros(len(equal)) if equal else None, bounds=[(-1, 1)] * (m * d) + [(0, 1)],
    )  # fmt: skip
    return None if found.status else (found.x[:-1].reshape(m, d).T, sign, found.x[-1])


# statements


def refuted(seed: int) -> list[str]:
    """The false statements of gflow about the trial of this seed, one line each."""
    t = trial(seed)
    try:
        said = _CHECKS[t.kind](t)
    except Exception as broken:
        said = [] if str(broken).startswith(REFUSED) else [f"{type(broken).__name__}: {broken}"]
    return [f"seed {seed}, {t.kind}: {line}; X={t.X.tolist()} y={t.y.tolist()} W1={t.W1.tolist()} w2={t.w2.tolist()}"
            for line in said]  # fmt: skip


def _judged(name: str, said, own, others: list, verdict=None) -> list[str]:
    """What is false about a bound, a verdict and c of a network of objective `own`, where `others` are feasible too."""
    verdict = said.verdict if verdict is None else verdict
    lower, c, least = float(said.lower_bound), float(said.c), min(map(number, [own, *others]))
    own, out = number(own), []
    if not (lower >= 0 and c >= 1):
        out.append(f"{name}: lower_bound {lower}, c {c}")
    if lower > (1 + SLACK / 30) * least:
        out.append(f"{name}: lower_bound {lower!r} above {least!r}")
    if c < (1 - SLACK / 30) * own / least if 0 < least < math.inf and own < math.inf else False:
        out.append(f"{name}: c {c!r} below {own / least!r}")
    if verdict == VERDICT.GLOBAL and (own > (1 + SLACK) * least or own == math.inf):
        out.append(f"{name}: GLOBAL, with {own!r} above {least!r}")
    if verdict in (VERDICT.GLOBAL, VERDICT.NOT_GLOBAL) and own < math.inf and abs(said.objective - own) > SLACK * own:
        out.append(f"{name}: objective {said.objective!r} is {own!r}")
    return out


def _network(t: Trial):
    make = gflow.VectorTwoLayer if t.w2.ndim == 2 else gflow.TwoLayer
    return make(jnp.asarray(t.W1), jnp.asarray(t.w2))


def _weights(network):
    return np.asarray(network.W1), np.asarray(network.second)


def _margin(t: Trial) -> list[str]:
    problem = gflow.Problem(t.X, t.y, activation=t.activation)
    certificate = gflow.certify(problem, _network(t))
    return _directions(t, certificate, t.lower, [] if t.y.ndim == 2 else [convex_program(t)])


def _directions(t: Trial, said, lower: float, found: list) -> list[str]:
    own = margin_objective(t.X, t.y, t.W1, t.w2, lower)
    others = [margin_objective(t.X, t.y, *weights[:2], lower) for weights in found if weights is not None]
    better = None if said.better is None else margin_objective(t.X, t.y, *_weights(said.better), lower)
    out = _judged("certify", said, own, others if better is None else [*others, better])
    if said.verdict == VERDICT.NOT_GLOBAL and (better is None or not better < own):
        out.append(f"certify: NOT_GLOBAL, with {number(own)!r} and better {better and number(better)!r}")
    if said.verdict == VERDICT.UNFITTED:
        if own < math.inf:
            out.append(f"certify: UNFITTED, and fits with {number(own)!r}")
        other = fitting(t, lower) if t.y.ndim == 1 else None
        if other is not None and other[2] > 1e-7 and np.min(rational(t.y) * outputs(t.X, *other[:2], lower)) > 0:
            out.append(f"certify: UNFITTED, and W1={other[0].tolist()} fits with these signs")
    return out


def _decay(t: Trial) -> list[str]:
    loss = {"squared decay": gflow.Squared(), "exponential decay": gflow.Exponential()}.get(t.kind, gflow.Logistic())
    problem = gflow.Problem(t.X, t.y, loss=loss, activation=t.activation, weight_decay=BETA)
    nothing = np.zeros((t.X.shape[1], 1)), np.zeros(1)
    said, found = gflow.certify(problem, _network(t)), [convex_program(t, BETA), nothing]
    others = [decay_objective(t, *weights[:2]) for weights in found if weights is not None]
    own = decay_objective(t, t.W1, t.w2)
    better = None if said.better is None else decay_objective(t, *_weights(said.better))
    out = _judged("certify", said, own, others if better is None else [*others, better])
    if said.verdict == VERDICT.NOT_GLOBAL and (better is None or not better < own):
        out.append(f"certify: NOT_GLOBAL, with {number(own)!r} and better {better and number(better)!r}")
    return out


def _least_norm(t: Trial) -> list[str]:
    said = gflow.certify(gflow.Problem(t.X, t.y, loss=gflow.Squared()), _network(t))
    missed = np.abs(outputs(t.X, t.W1, t.w2) - rational(t.y))
    whole, own = not missed.any(), half_norm(t.W1, t.w2)
    out = _judged("certify", said, own if whole else math.inf, []) if whole else []
    far = [n for n, miss in enumerate(missed) if miss > Fraction(1e-5) * abs(rational(t.y)[n])]
    if said.verdict == VERDICT.GLOBAL and any(t.y[n] != 0 for n in far):
        out.append(f"certify: GLOBAL, and misses {[number(v) for v in missed]}")
    if said.better is not None:
        left = np.abs(outputs(t.X, *_weights(said.better)) - rational(t.y))
        if any(left[n] > Fraction(1e-5) * max(abs(rational(t.y))) for n in range(len(left))):
            out.append(f"certify: better misses {[number(v) for v in left]}")
    return out


def _gated(t: Trial) -> list[str]:
    beta = BETA if t.kind == "gated decay" else None
    problem = gflow.Problem(t.X, t.y, weight_decay=beta or 0.0)
    gates = np.unique(np.array([[z > 0 for z in column] for column in (rational(t.X) @ rational(t.W1)).T]), axis=0)
    said = gflow.gated_limit(gflow.gated(problem, _network(t)), _network(t))

    def value(D, V):
        f = (np.where(D.T, rational(t.X) @ rational(V), Fraction(0))).sum(axis=1)
        mass = math.fsum(np.linalg.norm(V, axis=0))
        q = rational(t.y) * f
        if beta is None:
            return mass / number(min(q)) if min(q) > 0 else math.inf
        return math.fsum(float(np.logaddexp(0.0, -number(v))) for v in q) + beta * mass

    found, others = convex_program(t, beta, gates, cones=False), []
    if found is not None and found[0].shape[1]:
        others = [value(found[2], found[0] * found[1])]
    own = value(np.asarray(said.masks, bool), np.asarray(said.V).T)
    return _judged("gated_limit", said, own, others)


def _frozen(t: Trial) -> list[str]:
    problem = gflow.Problem(t.X, t.y)
    said = gflow.frozen_limit(problem, _network(t))
    X, rng = t.X / max(np.abs(t.X).max(), 1e-300), np.random.default_rng(0)

    def value(W1):
        q = np.min(rational(t.y) * outputs(t.X, W1, t.w2))
        return half_norm(W1) / (q * q) if q > 0 else math.inf

    def margin(W1):
        return np.min(t.y * (np.maximum(X @ W1, 0.0) @ t.w2)) / max(np.linalg.norm(W1), 1e-300)

    tried = [np.asarray(said.network.W1), t.W1, *(rng.standard_normal((60, *t.W1.shape)))]
    tried += [np.outer(u, t.w2) for u in rng.standard_normal((40, len(X.T)))]
    best = max(tried, key=margin)
    for _ in range(300):  # climb
        other = best + 0.1 * 10.0 ** -rng.uniform(0, 4) * np.linalg.norm(best) * rng.standard_normal(best.shape)
        best = max(best, other, key=margin)
    verdict = VERDICT.GLOBAL if said.optimal else VERDICT.INCONCLUSIVE
    return _judged("frozen_limit", said, value(np.asarray(said.network.W1)), [value(best), value(t.W1)], verdict)


_CHECKS = {
    "margin": _margin, "leaky": _margin, "outputs": _margin, "decay": _decay, "squared decay": _decay,
    "exponential decay": _decay, "leaky decay": _decay,
    "least norm": _least_norm, "gated": _gated, "gated decay": _gated, "frozen": _frozen,
}  # fmt: skip
