"""Problem, losses, network, initial laws: against plain loops and closed forms."""

import copy
import gc
import inspect
import pickle
import weakref

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow import activations, datasets, initializers, losses
from gflow.network import host_network
from gflow.rays import barely_separable, never_separable

ALL_LOSSES = [getattr(losses, name)() for name in losses.__all__]
MARGIN_LOSSES = [loss for loss in ALL_LOSSES if isinstance(loss, losses.AbstractMarginLoss)]


@pytest.mark.parametrize("n", range(1, 21))
def test_loss_and_margins_equal_plain_sums(n):
    rng = np.random.default_rng(n)
    X, W1, w2 = rng.standard_normal((n, 3)), rng.standard_normal((3, 5)), rng.standard_normal(5)
    y = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    network = gflow.TwoLayer(jnp.asarray(W1), jnp.asarray(w2))
    expected = helpers.margins(X, y, W1, w2)
    for loss, reference in ((gflow.Logistic(), helpers.logistic_loss), (gflow.Exponential(), helpers.exponential_loss)):
        problem = gflow.Problem(X, y, loss=loss)
        q = problem.margins(network)
        np.testing.assert_allclose(q, expected, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(problem.loss_value(q), reference(expected), rtol=1e-13)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=lambda x: type(x).__name__)
def test_slopes_are_differences(loss):
    q = jnp.linspace(-5, 5, 41)
    h = 1e-6
    difference = (loss.value(q + h) - loss.value(q - h)) / (2 * h)
    np.testing.assert_allclose(loss.slope(q), difference, rtol=1e-6, atol=1e-8)
    difference = (loss.slope(q + h) - loss.slope(q - h)) / (2 * h)
    np.testing.assert_allclose(loss.curvature(q), difference, rtol=1e-6, atol=1e-8)
    if loss in MARGIN_LOSSES:
        np.testing.assert_allclose(jnp.exp(loss.log_weight(q)), -loss.slope(q), rtol=1e-14)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=lambda x: type(x).__name__)
def test_conjugates_are_equal_to_fenchel_young_and_never_below(loss):
    q, other = jnp.linspace(-5, 5, 41)[:, None], jnp.linspace(-7, 7, 30)
    alpha = -loss.slope(q)
    np.testing.assert_allclose(loss.conjugate(alpha), -alpha * q - loss.value(q), rtol=1e-12, atol=1e-12)
    assert bool(jnp.all(loss.conjugate(alpha) >= -alpha * other - loss.value(other) - 1e-12))


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=lambda x: type(x).__name__)
def test_a_newton_step_of_a_margin_never_moves_its_multiplier_further_than_the_model(loss):
    q, dq = jnp.linspace(-30, 30, 61)[:, None], jnp.linspace(-50, 50, 41)
    new = loss.moved(q, dq)
    change = jnp.abs(loss.slope(new) - loss.slope(q))
    assert bool(jnp.all(change <= jnp.abs(loss.curvature(q) * dq) * (1 + 1e-9) + 1e-15))
    assert bool(jnp.all(jnp.abs(new - q) <= jnp.abs(dq) + 1e-12))
    assert bool(jnp.all((new - q) * dq >= 0))
    np.testing.assert_allclose(loss.moved(q, 1e-4 * dq) - q, 1e-4 * dq + 0 * q, rtol=0.01)


@pytest.mark.parametrize("loss", MARGIN_LOSSES, ids=lambda x: type(x).__name__)
def test_margins_of_1e10_are_finite(loss):
    q = jnp.array([1e10, 2e10, 1e-200])
    assert bool(jnp.all(jnp.isfinite(loss.log_weight(q))))
    problem = gflow.Problem(np.eye(3), [1, 1, -1], loss=loss)
    p = problem.weights(q + 1e10)
    np.testing.assert_allclose(jnp.sum(p), 1.0, rtol=1e-12)
    assert bool(jnp.isfinite(problem.log_S(q)))


@pytest.mark.parametrize("name", activations.__all__)
def test_activation_slopes_are_one_sided_differences(name):
    activation = getattr(activations, name)()
    z, h = jnp.array([-2.0, -1e-3, 1e-3, 2.0]), 1e-6
    np.testing.assert_allclose(activation.slope(z), (activation(z + h) - activation(z - h)) / (2 * h), rtol=1e-8)
    lower, upper = activation.slope_interval()
    zero = jnp.zeros(())
    np.testing.assert_allclose(-activation(zero - h) / h, lower, atol=1e-9)
    np.testing.assert_allclose(activation(zero + h) / h, upper, rtol=1e-9)
    np.testing.assert_allclose(activation(3.5 * z), 3.5 * activation(z), rtol=1e-14)


@pytest.mark.parametrize("name", initializers.__all__)
@pytest.mark.parametrize("scale", [1e-100, 1e-3, 10.0])
def test_initial_laws_at_any_scale(name, scale):
    problem = gflow.Problem(np.eye(3), [1, 1, -1])
    law = getattr(initializers, name)(scale=scale)
    network = law(gflow.key_of(1, 2), problem, 2000)
    norms, a = np.linalg.norm(np.asarray(network.W1) / scale, axis=0), np.asarray(network.w2) / scale
    balance = {"Dominated": 3 * norms**2, "Unbalanced": np.ones(2000)}.get(name, np.zeros(2000))
    if name == "Independent":
        assert np.mean(a**2) == pytest.approx(1.0, rel=0.1) and abs(np.corrcoef(np.abs(a), norms)[0, 1]) < 0.1
    else:
        np.testing.assert_allclose((np.abs(a) - norms) * (np.abs(a) + norms), balance, rtol=1e-11, atol=1e-12)
    assert law.balanced == (not balance.any() and name != "Independent")
    assert abs(np.mean(np.sign(a))) < 0.1
    assert bool(jnp.all(jnp.isfinite(jnp.log(jnp.abs(network.w2)))))
    # E |w|^2 = 3 (gaussian) or 1 (sphere)
    assert np.mean(norms**2) == pytest.approx(1.0 if name == "Sphere" else 3.0, rel=0.1)
    if name == "Symmetric":
        np.testing.assert_allclose(network(problem.X), 0.0, atol=1e-12 * scale**2)


def test_unbalanced_laws_with_small_output_weights_and_refusals():
    problem = gflow.Problem(np.eye(3), [1, 1, -1])
    network = gflow.Unbalanced(scale=1e-3, c=-2.0)(gflow.key_of(1, 2), problem, 2000)
    a, w = np.asarray(network.w2), np.linalg.norm(np.asarray(network.W1), axis=0)
    np.testing.assert_allclose(a**2 - w**2, -2e-6, rtol=1e-9)
    assert np.mean(a**2) == pytest.approx(1e-6, rel=0.1)
    for make in (
        lambda: gflow.Symmetric()(gflow.key_of(0, 0), problem, 3), lambda: gflow.Dominated(ratio=0.5),
        lambda: gflow.Independent(output=-1.0), lambda: gflow.Unbalanced(c=np.inf), lambda: gflow.Gaussian(-1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            make()


def test_initialisation_depends_on_seed_and_index_only():
    problem = gflow.Problem(np.eye(3), [1, 1, -1])
    law = gflow.Gaussian(1e-3)
    batch = jax.vmap(lambda i: law(gflow.key_of(7, i), problem, 4))(jnp.arange(5))
    for i in range(5):
        one = law(gflow.key_of(7, i), problem, 4)
        np.testing.assert_array_equal(batch.W1[i], one.W1)
        np.testing.assert_allclose(batch.w2[i], one.w2, rtol=1e-15)
    assert not np.array_equal(batch.W1[0], batch.W1[1])


@pytest.mark.parametrize("band", [0.0, 1e-6])
def test_kkt_residual_is_zero_at_a_kkt_point_and_scale_free(band):
    import cases

    W = np.stack([cases.A_PLUS, cases.A_MINUS], axis=1)
    root = np.sqrt(np.linalg.norm(W, axis=0))
    network = gflow.TwoLayer(jnp.asarray(W / root), jnp.asarray(root * [1, -1]))
    problem = gflow.Problem(cases.A_X, cases.A_y)
    lam = jnp.asarray(cases.A_ALPHA * cases.A_y)
    for theta, scale in ((1.0, 1.0), (1e-60, 1.0), (1e60, 1e-9)):
        assert float(problem.kkt_residual(network.scaled(jnp.asarray(theta)), scale * lam, band)) < 1e-10
    assert float(problem.kkt_residual(network, -lam, band)) == pytest.approx(2.0, abs=1e-9)


def test_never_separable_rows_are_named():
    X = np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]])
    reasons = never_separable(X, [1, 1, -1, 1, -1])
    assert reasons == [
        "row 2 is all zeros",
        "rows 1 and 3 are equal but have different labels",
    ]
    assert never_separable(X[[0, 4]], [1, -1]) == []
    assert "positive multiples" in never_separable(X[[0, 3]], [1, -1])[0]


def test_rows_that_are_nearly_multiples_are_not_called_multiples():
    # 1e-13 apart, and (0.1, 0.3), (0.3, 0.9), which float64 does not hold: separable, by weights that it does not hold
    for X in ([[1.0, 0], [1, 1e-13]], [[0.1, 0.3], [0.3, 0.9]]):
        assert never_separable(X, [1, -1]) == []
        assert "up to 1e-12" in barely_separable(X, [1, -1])[0]
        assert barely_separable(X, [1, 1]) == []
    assert barely_separable([[1.0, 0], [1, 1e-11]], [1, -1]) == []
    # far beyond the 53 bits of one number, and powers of two apart
    x = np.array([1e-90, 3e80])
    assert never_separable([x, x * 2.0**-40], [1, -1]) and not barely_separable([x, x * 2.0**-40], [1, -1])


@settings(max_examples=200)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_never_separable_agrees_with_the_network_output(n, d, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(-1, 2, (n, d)).astype(float)
    y = rng.choice([-1.0, 1.0], n)
    # f is linear on rays: a separating network exists iff every ray carries one label and no row is zero
    rays = {}
    for x, label in zip(X, y, strict=True):
        key = tuple(x / max(np.abs(x).max(), 1e-300))
        rays.setdefault(key, set()).add(label)
    expected = any(len(v) > 1 for v in rays.values()) or (np.abs(X).max(axis=1) == 0).any()
    assert bool(never_separable(X, y)) == bool(expected)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0), "empty"),
        (np.ones((2, 2)), np.ones(3), "X must be"),
        (np.ones(3), np.ones(3), "X must be"),
        (np.array([[np.nan, 1.0]]), np.ones(1), "finite"),
        (np.array([[np.inf, 1.0]]), np.ones(1), "finite"),
        (np.ones((2, 1)), np.array([0.0, 0.0]), "labels"),
        (np.array([["a", "b"]]), np.ones(1), "finite numbers"),
    ],
)
def test_bad_data_is_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        gflow.Problem(X, y)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scale_is_refused(scale):
    with pytest.raises(ValueError, match="positive"):
        gflow.Gaussian(scale=scale)


def test_least_norm_velocity_against_a_general_minimiser(rng):
    from gflow.inclusion import least_norm_slopes

    slopes = jax.jit(lambda X, lam, U: least_norm_slopes(X, lam, U, gflow.ReLU(), 1e-9))
    worst = 0.0
    for trial in range(40):
        n, d, m = 6, 3, 4
        X = rng.standard_normal((n, d))
        if trial % 4 == 1:
            X[1] = X[0]  # duplicate rows
        if trial % 4 == 2:
            X[1], X[2] = -2 * X[0], 0.0  # collinear rows and a zero row
        U = rng.standard_normal((d, m))
        normal = X[0] / np.linalg.norm(X[0])
        U[:, :3] -= np.outer(normal, normal @ U[:, :3])  # on one hyperplane
        pair = np.linalg.svd(X[[0, 3]])[2][2]
        U[:, 1] = pair  # on two hyperplanes
        U[:, 2] = 0.0 if trial % 3 == 0 else U[:, 2]
        lam = rng.standard_normal(n)
        D = np.asarray(slopes(X, lam, U))
        assert D.min() >= 0 and D.max() <= 1
        for i in range(m):
            size = np.linalg.norm(U[:, i])
            kink = (
                (np.abs(X @ U[:, i]) <= 1e-9 * np.linalg.norm(X, axis=1) * size)
                & (np.linalg.norm(X, axis=1) > 0)
                & (size > 0)
            )
            on = (X @ U[:, i] > 0) & ~kink
            v0 = X[on].T @ lam[on]
            expected = helpers.box_least_squares(lam[kink, None] * X[kink], v0)
            got = np.linalg.norm(X.T @ (D[:, i] * lam))
            worst = max(worst, got - expected)
    assert worst < 1e-7  # the general minimiser's own accuracy


@pytest.mark.parametrize("name", datasets.__all__)
def test_data_sets_are_what_a_problem_takes(name):
    make = getattr(datasets, name)
    data, again = make(), make()
    np.testing.assert_array_equal(data.X, again.X)
    problem = gflow.Problem(data.X, data.y)
    n = len(data.X)
    assert data.X.shape == problem.shape and data.y.shape in ((n,), (n, len(data.labels)))
    if data.y.ndim == 2:
        np.testing.assert_array_equal(np.sum(data.y == 1, axis=1), 1)
    else:
        assert set(data.y.tolist()) == {-1.0, 1.0}
    if "seed" in inspect.signature(make).parameters:
        assert not np.array_equal(make(seed=1).X, data.X)


def test_what_was_sent_to_a_process_is_not_kept_there(rng):
    """equinox 0.13 keeps what is made past its metaclass, as pickle makes it: 2 KB for every flow of a sweep."""
    network = host_network(rng.standard_normal((3, 4)), np.ones(4))
    copies = [pickle.loads(pickle.dumps(network)), copy.copy(network)]
    for other in copies:
        np.testing.assert_array_equal(other.W1, network.W1)
        assert jax.tree.structure(other) == jax.tree.structure(network)
        with pytest.raises(AttributeError, match="assign"):
            other.W1 = network.W1
    problem = pickle.loads(pickle.dumps(gflow.Problem(np.eye(3), np.array([1.0, -1.0, 1.0]))))
    np.testing.assert_array_equal(problem.margins(network), np.asarray(network(np.eye(3))) * [1, -1, 1])
    gone = [weakref.ref(other) for other in (*copies, problem)]
    del other, copies, problem
    gc.collect()
    assert all(reference() is None for reference in gone)
