"""Nearly degenerate data: every bound holds and every optimum is one, against exact and plain computations.

Rows that are (anti)parallel up to 1e-9 .. 1e-15, of very different lengths, in grids, zero, or twice there.
"""

import itertools
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow.convex.oracle import dual_maxima, dual_maximum, one_sided


def nasty_rows(rng, n, d):
    """Rows (n, d): some independent ones, the others nearly multiples of them of either sign, or sums, or zero."""
    kind = rng.choice(["gaussian", "grid"])
    X = rng.standard_normal((n, d)) if kind == "gaussian" else rng.integers(-2, 3, (n, d)).astype(float)
    for row in range(1, n):
        other = X[rng.integers(row)]
        how = rng.choice(["as it is", "near", "multiple", "zero"], p=[0.35, 0.4, 0.2, 0.05])
        if how == "near":
            X[row] = rng.choice([-1, 1]) * (other + 10.0 ** -rng.uniform(9, 16) * rng.standard_normal(d))
        elif how == "multiple":
            X[row] = rng.choice([-3.0, -1.0, 1.0, 0.1]) * other
        elif how == "zero":
            X[row] = 0.0
    if rng.random() < 0.4:
        X = X * 10.0 ** rng.uniform(-3, 3, (n, 1))
    return X


def one_sided_in_the_plane(X, lam):
    """max_{|u|<=1} s lambda^T (X u)_+ for s = +1, -1, d = 2: it is at a ray or at +-X^T D lambda of some D."""
    n = len(X)
    rays = np.stack([-X[:, 1], X[:, 0]], axis=1)
    pulls = (np.array(list(itertools.product((0.0, 1.0), repeat=n))) * lam) @ X
    U = np.concatenate([rays, -rays, pulls, -pulls])
    length = np.linalg.norm(U, axis=1, keepdims=True)
    values = np.maximum((U[length[:, 0] > 0] / length[length > 0][:, None]) @ X.T, 0.0) @ lam
    return max(values.max(initial=0.0), 0.0), max(-values.min(initial=0.0), 0.0)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bounds_over_all_faces_hold_and_are_tight(seed):
    rng = np.random.default_rng(seed)
    X, lam = nasty_rows(rng, 5, 2), rng.standard_normal(5)
    expected, known = one_sided_in_the_plane(X, lam), gflow.faces(X)
    assert known.complete
    size = np.abs(lam) @ np.linalg.norm(X, axis=1)
    for found, true in zip(one_sided(X, lam, known), expected, strict=True):
        assert true - 1e-15 * size <= found <= true + 1e-9 * size
    bound, many = dual_maximum(X, lam, known), dual_maxima(X, np.stack([lam, -lam]), known)
    for upper in (bound.upper, *many.upper):
        assert max(expected) - 1e-15 * size <= upper <= max(expected) + 1e-9 * size


def test_a_frozen_layer_on_rows_that_are_nearly_opposite():
    X = np.array([[1.0, -1.0], [-0.9999999999995, 1.0], [2.0, 1.0]])
    network = gflow.TwoLayer(jnp.array([[-1.0, 1.0, 1.0], [2.0, 1.0, -2.0]]), jnp.array([1.0, -1.0, 1.0]))
    limit = gflow.frozen_limit(gflow.Problem(X, [1.0, 1.0, -1.0]), network)
    # p = (1, 1, 1)/3: B_+ = |(1,-1)|/3, B_- is attained at (1, 1)/sqrt(2), where row 3 is 3/sqrt(2)
    assert limit.objective == pytest.approx(2 / 3, rel=1e-9)
    assert limit.lower_bound == pytest.approx(1 / (2 * (2 * 2 / 9 + 1 / 2)), rel=1e-9)
    assert not limit.optimal


def interpolating_length(X, y, network):
    """The length of an exactly interpolating network beside `network`, by rational elimination; None if none is found.

    f - y is supplied by the network's own directions and a few others, the weights of all others as they are.
    """
    W1, w2 = np.asarray(network.W1), np.asarray(network.w2)
    live = (w2 != 0) & W1.any(axis=0)
    root = np.linalg.norm(W1[:, live], axis=0)
    others = np.random.default_rng(0).standard_normal((X.shape[1], 4 * len(X)))
    U, mass = np.hstack([W1[:, live] / root, others]), np.append(w2[live] * root, np.zeros(4 * len(X)))
    rows = [[Fraction(a) for a in row] for row in X]
    H = [
        [max(sum((Fraction(b) * a for a, b in zip(x, u, strict=True)), Fraction(0)), Fraction(0)) for u in U.T]
        for x in rows
    ]
    left = [
        [*h, Fraction(label) - sum((Fraction(m) * entry for m, entry in zip(mass, h, strict=True)), Fraction(0))]
        for h, label in zip(H, y, strict=True)
    ]
    change = {}
    for k in range(len(left)):
        row = left[k]
        column = max(range(len(mass)), key=lambda j, row=row: abs(row[j]))
        if row[column] == 0:
            if row[-1] != 0:
                return None
            continue
        left[k] = [a / row[column] for a in row]
        change[column] = k
        for i in range(len(left)):
            if i != k:
                left[i] = [a - left[i][column] * b for a, b in zip(left[i], left[k], strict=True)]
    exact = [Fraction(m) + (left[change[j]][-1] if j in change else 0) for j, m in enumerate(mass)]
    return float(sum(abs(m) * Fraction(float(np.linalg.norm(u))) for m, u in zip(exact, U.T, strict=True)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_least_norm_is_bracketed_for_networks_that_interpolate_exactly(seed):
    rng = np.random.default_rng(seed)
    d, near = int(rng.integers(1, 4)), 2.0 ** -rng.integers(2, 44)
    X = rng.integers(-2, 3, (4, d)).astype(float)
    X[2] = rng.choice([-1, 1]) * X[0] + near * rng.integers(-1, 2, d)
    W, a = rng.integers(-3, 4, (d, 3)).astype(float), rng.choice([-2.0, -1.0, 1.0, 2.0**-30], 3)
    y = np.maximum(X @ W, 0.0) @ a  # without rounding
    solved = gflow.solve_min_norm(gflow.Problem(X, y, loss=gflow.Squared()))
    assert gflow.result_name(solved.result) != "infeasible"
    assert solved.dual <= solved.primal
    assert solved.dual <= np.abs(a) @ np.linalg.norm(W, axis=0) * (1 + 1e-14)
    if y.any() and solved.network is not None:
        assert 0.5 * float(solved.network.squared_norm()) <= solved.primal * (1 + 1e-14)
        length = interpolating_length(X, y, solved.network)
        assert length is None or length <= solved.primal * (1 + 1e-4)
        missed = np.abs(np.asarray(solved.network(X)) - y)
        label = np.where(y == 0, np.max(np.abs(y)), np.abs(y))
        assert np.all(missed <= 1e-8 * label + 1e-14 * (np.abs(X) @ np.abs(W)) @ np.abs(a))


def test_rows_that_nearly_agree_and_labels_that_do_not():
    X, y = np.array([[1.0, 0.0], [1.0, 1e-10]]), np.array([1.0, 1.0 + 1e-10])
    problem = gflow.Problem(X, y, loss=gflow.Squared())
    solved = gflow.solve_min_norm(problem)
    v = np.array([1.0, (y[1] - 1.0) / 1e-10])  # X v = y, and no network is shorter
    assert solved.dual <= np.linalg.norm(v) <= solved.primal
    assert solved.primal == pytest.approx(solved.dual, rel=1e-4)
    root = np.sqrt(np.linalg.norm(v))
    proof = gflow.certify(problem, gflow.TwoLayer(jnp.asarray(v / root)[:, None], jnp.asarray([root])))
    assert proof.verdict != gflow.VERDICT.NOT_GLOBAL and proof.lower_bound <= np.linalg.norm(v)


@pytest.mark.parametrize("share, verdict", [(0.0, "NOT_GLOBAL"), (0.5, "NOT_GLOBAL"), (1.0, "GLOBAL")])
def test_a_label_that_is_small_beside_another_one_counts(share, verdict):
    problem = gflow.Problem(np.eye(2), [1e-8, 1e8], loss=gflow.Squared())
    small = np.sqrt(share * 1e-8)
    network = gflow.TwoLayer(jnp.asarray([[small, 0.0], [0.0, 1e4]]), jnp.asarray([small, 1e4]))
    assert gflow.certify(problem, network).verdict.name == verdict


def gates_in_the_plane(X):
    """All masks 1[X u > 0] of u != 0 in R^2, by fractions: of the rays, and of sums of two, which reach every cell."""
    rows = [tuple(map(Fraction, x)) for x in X]
    rays = [(s * b, -s * a) for a, b in rows if a or b for s in (1, -1)]
    size = [abs(a) + abs(b) for a, b in rays]
    rays = [(a / r, b / r) for (a, b), r in zip(rays, size, strict=True)]
    sums = [(a + c, b + e) for (a, b), (c, e) in itertools.combinations(rays, 2)]
    across = [(s * b, -s * a) for a, b in rays for s in (1, -1)]  # beside a ray that is alone
    return {tuple(a * u + b * v > 0 for a, b in rows) for u, v in [*rays, *sums, *across]}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_all_gates_are_all(seed):
    X = nasty_rows(np.random.default_rng(seed), 5, 2)
    listed = gflow.gate_masks(X)
    nothing = (False,) * 5  # the gate of u = 0, whose neuron is 0
    assert listed.complete
    assert {tuple(mask) for mask in listed.masks} - {nothing} == gates_in_the_plane(X) - {nothing}


def test_gates_on_hyperplanes_and_between_rows_that_nearly_agree():
    X, y = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0]]), np.array([0.0, 0.0, 1.0])
    problem = gflow.Problem(X, y, loss=gflow.Squared())
    solved = gflow.solve_gated(problem, 0.1, gflow.gate_masks(X).masks)
    # the gate (0, 1) opens row 3 alone: 1/2 (1 - sqrt(2) r)^2 + beta r
    r = (1 - 0.1 / np.sqrt(2)) / np.sqrt(2)
    assert solved.primal == pytest.approx(0.5 * (1 - np.sqrt(2) * r) ** 2 + 0.1 * r, rel=1e-9)
    # two rows that differ by 1e-12 in one entry, alike in what a ReLU network can do, have gates of their own
    near = np.array([[1.0, 0.0], [1.0, 1e-12]])
    assert {tuple(mask) for mask in gflow.gate_masks(near).masks} >= {(True, False), (False, True), (True, True)}
    apart = gflow.solve_gated(gflow.Problem(near, [1.0, -1.0], loss=gflow.Squared()), 0.1, gflow.gate_masks(near).masks)
    assert apart.primal == pytest.approx(2 * (0.9 * 0.1 + 0.1**2 / 2), rel=1e-9)
    # exact rank 3, up to rounding 2: what a list in the plane would leave out
    space = np.array([[1.0, 0.0, 0.1], [0.0, 1.0, 0.2], [1.0, 1.0, 0.1 + 0.2], [1.0, 2.0, 0.5]])
    assert gflow.gate_masks(space).complete
    assert len(gflow.gate_masks(space)) > len(gflow.gate_masks(space[:, :2]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3]))
def test_primal_and_dual_are_those_of_what_is_returned(seed, slope):
    rng = np.random.default_rng(seed)
    X = nasty_rows(rng, 4, 2)
    y, beta = rng.standard_normal(4) * 10.0 ** rng.integers(-3, 4), 10.0 ** rng.uniform(-4, 0)
    problem = gflow.Problem(X, y, loss=gflow.Squared(), activation=gflow.LeakyReLU(slope) if slope else gflow.ReLU())
    solved = gflow.solve_penalized(problem, beta)
    alpha = [Fraction(a) for a in np.asarray(solved.alpha)]
    dual = sum(Fraction(b) * a - a * a / 2 for a, b in zip(alpha, y, strict=True))
    assert solved.dual <= dual * (1 + Fraction(1, 10**15)) + Fraction(1, 10**300)
    W, a = ([[Fraction(v) for v in row] for row in np.atleast_2d(w)] for w in (solved.network.W1, solved.network.w2))
    total = Fraction(beta) / 2 * sum(v * v for row in (*W, *a) for v in row)
    for x, label in zip(X, y, strict=True):
        z = [sum(Fraction(x[j]) * W[j][k] for j in range(2)) for k in range(len(a[0]))]
        f = sum((b * (v if v > 0 else Fraction(slope) * v) for v, b in zip(z, a[0], strict=True)), Fraction(0))
        total += (f - Fraction(label)) ** 2 / 2
    assert total <= solved.primal
    assert total >= solved.primal * (1 - Fraction(1, 10**13))
    # feasible: no direction pulls by more than beta
    tops = one_sided_in_the_plane(X, solved.alpha) if not slope else (0.0, 0.0)
    assert max(tops) <= beta * (1 + 1e-14) and solved.dual <= solved.primal


def test_a_loss_beyond_all_numbers_has_a_bound_without_a_warning():
    X, y = np.array([[-1e-8, -2e-8], [2e7, 5e7], [-1.25, -0.6]]), np.array([1.0, -1.0, 1.0])
    problem = gflow.Problem(X, y, loss=gflow.Exponential(), weight_decay=0.125)
    said = gflow.certify(problem, gflow.TwoLayer(jnp.array([[0.4], [0.9]]), jnp.array([2.0])))  # a warning is an error
    assert said.objective == np.inf and 0 <= said.lower_bound <= 3  # 3 is what no network at all has
    assert said.verdict != gflow.VERDICT.GLOBAL and np.all(np.isfinite(said.p))
