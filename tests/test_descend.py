"""Subgradient descent with optax beside the flow: against loops by hand and the flow itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from gflow.descend import gradient

RNG = np.random.default_rng(0)
X, LABELS, REAL = RNG.standard_normal((6, 3)), RNG.choice([-1.0, 1.0], 6), RNG.standard_normal(6)
PROBLEMS = {
    "logistic": gflow.Problem(X, LABELS),
    "exponential, decay": gflow.Problem(X, LABELS, loss=gflow.Exponential(), weight_decay=0.3),
    "squared": gflow.Problem(X, REAL, loss=gflow.Squared()),
    "squared, leaky": gflow.Problem(X, REAL, loss=gflow.Squared(), activation=gflow.LeakyReLU(0.2)),
}


def network_of(problem, index=0, scale=0.5):
    return gflow.Gaussian(scale)(gflow.key_of(3, index), problem, 5)


def pairs(a, b):
    return (a.W1, b.W1), (a.w2, b.w2)


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient_is_that_of_autodiff_away_from_kinks(name):
    problem = PROBLEMS[name]
    network = network_of(problem)
    expected = jax.grad(problem.total_loss)(network)
    for a, b in pairs(gradient(problem, network), expected):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    if problem.weight_decay is None:
        expected = jax.grad(lambda n: jnp.log(problem.total_loss(n)))(network)
        for a, b in pairs(gradient(problem, network, normalised=True), expected):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_batched_descent_equals_a_loop_by_hand():
    problem, rule = PROBLEMS["logistic"], optax.sgd(optax.linear_schedule(0.1, 0.01, 50), momentum=0.9)
    networks = jax.vmap(lambda i: network_of(problem, i))(jnp.arange(3))
    batch = jax.vmap(lambda n: gflow.descend(problem, n, rule, 50, saves=3))(networks)
    np.testing.assert_array_equal(batch.step[0], [16, 33, 50])
    for i in range(3):
        network = network_of(problem, i)
        state = rule.init(network)
        for k in range(50):
            updates, state = rule.update(jax.grad(problem.total_loss)(network), state)
            network = optax.apply_updates(network, updates)
            if k + 1 in (16, 33, 50):
                saved = [16, 33, 50].index(k + 1)
                np.testing.assert_allclose(batch.network.W1[i, saved], network.W1, atol=1e-6)  # float32 schedules
                np.testing.assert_allclose(batch.margins[i, saved], problem.margins(network), atol=1e-6)
                assert float(batch.loss[i, saved]) == pytest.approx(float(problem.total_loss(network)))


def test_small_steps_follow_the_flow():
    problem = PROBLEMS["squared"]
    network = network_of(problem)
    controller = gflow.PIController(1e-8)
    flow = gflow.solve_flow(problem, network, until_t=1.0, saves=1, controller=controller)
    descent = gflow.descend(problem, network, optax.sgd(1e-5), 100_000)
    np.testing.assert_allclose(descent.final.W1, flow.final.W1, atol=1e-4)


def test_minibatches_come_from_the_key_and_are_unbiased():
    problem = PROBLEMS["squared"]
    network, key = network_of(problem), jax.random.key(0)
    one = lambda key: gflow.descend(problem, network, optax.sgd(1.0), 1, batch=2, key=key).final  # noqa: E731
    np.testing.assert_array_equal(one(key).W1, one(key).W1)
    many = jax.vmap(one)(jax.random.split(key, 4000))
    mean, spread = np.mean(many.W1, axis=0), np.std(many.W1, axis=0) / np.sqrt(4000)
    full = network.W1 - gradient(problem, network).W1
    assert spread.max() > 0 and np.all(np.abs(mean - full) <= 5 * spread + 1e-12)


def test_overflow_is_said_and_bad_arguments_are_refused():
    problem = PROBLEMS["squared"]
    network = network_of(problem)
    descent = gflow.descend(problem, network, optax.sgd(1e3), 200)
    assert gflow.result_name(descent.result) == "nonfinite"
    assert gflow.result_name(gflow.descend(problem, network, optax.sgd(1e-3), 2).result) == "steps_made"
    decays = PROBLEMS["exponential, decay"]
    for bad in (
        lambda: gflow.descend(problem, network, optax.sgd(0.1), 0),
        lambda: gflow.descend(problem, network, optax.sgd(0.1), 5, saves=6),
        lambda: gflow.descend(problem, network, optax.sgd(0.1), 5, batch=3),
        lambda: gflow.descend(problem, network, optax.sgd(0.1), 5, batch=7, key=jax.random.key(0)),
        lambda: gflow.descend(decays, network, optax.sgd(0.1), 5, normalised=True),
    ):
        with pytest.raises(ValueError):
            bad()


def test_margins_of_1e6_leave_log_L_its_gradient():
    problem = PROBLEMS["logistic"]
    network = gflow.TwoLayer(1e3 * jnp.asarray(X.T @ np.diag(LABELS)), 1e3 * jnp.asarray(LABELS))
    slope = gradient(problem, network, normalised=True)
    assert bool(jnp.all(jnp.isfinite(slope.W1))) and float(jnp.max(jnp.abs(slope.W1))) > 1
