"""Flows that end at points: the squared loss and weight decay, their limits and certificates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow

TIGHT = gflow.PIController(1e-11)
NORM = 1 / np.sqrt(5) + 1 / np.sqrt(1.25)
CASE_D = {"X": [[-0.5, 1.0], [2.0, 1.0]], "y": [-1.0, 1.0], "loss": gflow.Squared()}


def grouped(network, sign):
    chosen = np.sign(np.asarray(network.w2)) == sign
    return np.asarray(network.W1 * jnp.abs(network.w2))[:, chosen].sum(axis=1)


@pytest.fixture(scope="module")
def case_d():
    problem = gflow.Problem(**CASE_D)
    network = gflow.Gaussian(1e-30)(jax.random.key(0), problem, 20)
    controller = gflow.PIController(1e-8)
    return problem, network, gflow.solve_flow(problem, network, saves=200, controller=controller)


def test_case_d_to_its_point_and_certificate(case_d):
    problem, _, flow = case_d
    assert gflow.result_name(flow.result) == "stationary"
    np.testing.assert_allclose(grouped(flow.final, 1), [0.4, 0.2], atol=1e-8)
    np.testing.assert_allclose(grouped(flow.final, -1), [-0.4, 0.8], atol=1e-8)
    limit = gflow.find_limit(problem, flow)
    assert limit.polished and limit.loss < 1e-16
    assert limit.objective == pytest.approx(NORM, abs=1e-8)
    proof = gflow.certify(problem, limit)
    assert proof.verdict == gflow.VERDICT.GLOBAL and proof.c == pytest.approx(1, abs=1e-7)


def test_case_d_growth_rates_and_plateau(case_d):
    # with l = q^2/2 summed the groups grow at sqrt(5) and sqrt(5)/2; t = s for the squared loss
    _, network, flow = case_d
    t = np.asarray(flow.s)
    np.testing.assert_allclose(np.exp(np.asarray(flow.log_t)[1:]), t[1:], rtol=1e-9)
    ends = {}
    for sign, rate, size in ((1, np.sqrt(5), np.linalg.norm([0.4, 0.2])), (-1, np.sqrt(5) / 2, np.sqrt(0.8))):
        group = np.sign(np.asarray(network.w2)) == sign
        mass = np.asarray(flow.network.w2[:, group] ** 2).sum(axis=1)
        early = (mass > 1e-52) & (mass < 1e-10)
        slope = np.polyfit(t[early], np.log(mass[early]), 1)[0]
        assert slope == pytest.approx(2 * rate, rel=1e-3)
        ends[sign] = t[np.argmax(mass > 0.5 * size)]
    # the plateau between the two is log(1/scale) (1/rate_- - 1/rate_+), up to a time of order 1
    assert ends[-1] - ends[1] == pytest.approx(30 * np.log(10) / np.sqrt(5), abs=2.0)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_one_neuron_closed_form(decay):
    # p = a w, |a| = |w|: p' = 2 p (1 - p - beta), a logistic curve
    problem = gflow.Problem([[1.0]], [1.0], loss=gflow.Squared(), weight_decay=decay)
    network = gflow.TwoLayer(jnp.asarray([[0.1]]), jnp.asarray([0.1]))
    flow = gflow.solve_flow(problem, network, until_t=3.0, saves=5, controller=TIGHT)
    top, t = 1 - decay, np.asarray(flow.s)
    expected = top / (1 + (top / 0.01 - 1) * np.exp(-2 * top * t))
    np.testing.assert_allclose(flow.network.W1[:, 0, 0] * flow.network.w2[:, 0], expected, atol=1e-9)


def test_weight_decay_shrinks_the_balance():
    # (a^2 - w^2)' = -2 beta (a^2 - w^2)
    problem = gflow.Problem([[1.0]], [1.0], loss=gflow.Squared(), weight_decay=0.3)
    network = gflow.TwoLayer(jnp.asarray([[0.1]]), jnp.asarray([0.5]))
    flow = gflow.solve_flow(problem, network, until_t=3.0, saves=5, controller=TIGHT)
    a, w, t = np.asarray(flow.network.w2[:, 0]), np.asarray(flow.network.W1[:, 0, 0]), np.asarray(flow.s)
    np.testing.assert_allclose(a**2 - w**2, 0.24 * np.exp(-0.6 * t), atol=1e-9)
    with pytest.raises(ValueError, match="Cartesian"):
        gflow.solve_flow(problem, network, until_t=3.0, chart=gflow.Hyperbolic)


def euler(problem, network, until, steps):
    beta = 0.0 if problem.weight_decay is None else problem.weight_decay

    def step(_, network):
        Z = problem.X @ network.W1
        H = jnp.maximum(Z, 0)
        q = problem.y * (H @ network.w2) if problem.of_margins else H @ network.w2 - problem.y
        pull = jax.nn.sigmoid(-q) * problem.y if problem.of_margins else -q
        G = problem.X.T @ ((Z > 0) * pull[:, None])
        h = until / steps
        return gflow.TwoLayer(
            network.W1 + h * (network.w2 * G - beta * network.W1), network.w2 + h * (H.T @ pull - beta * network.w2)
        )

    return jax.jit(lambda n: jax.lax.fori_loop(0, steps, step, n))(network)


@pytest.mark.parametrize("loss, decay", [(gflow.Squared(), 0.0), (gflow.Logistic(), 0.2)])
def test_sliding_flows_against_a_descent_of_small_steps(loss, decay):
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((10, 3)), rng.choice([-1.0, 1.0], 10)
    problem = gflow.Problem(X, y, loss=loss, weight_decay=decay)
    network = gflow.Gaussian(0.1)(jax.random.key(1), problem, 12)
    controller = gflow.PIController(1e-7)
    flow = gflow.solve_flow(problem, network, until_t=2.0, saves=1, controller=controller, kinks=200)
    assert int(jnp.sum(flow.kinks.kind == gflow.KINK.STARTED_SLIDING)) > 0
    expected = euler(problem, network, 2.0, 200_000)
    np.testing.assert_allclose(flow.final.W1, expected.W1, atol=5e-4)
    np.testing.assert_allclose(flow.final.w2, expected.w2, atol=5e-4)


@pytest.mark.parametrize("loss", [gflow.Squared(), gflow.Logistic()], ids=["squared", "logistic"])
def test_limits_with_weight_decay_never_beat_the_program(loss):
    verdicts, options = set(), {"saves": 1, "controller": gflow.PIController(1e-3)}
    for seed in range(2):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((12, 2)), rng.choice([-1.0, 1.0], 12)
        problem = gflow.Problem(X, y, loss=loss, weight_decay=(3.0, 0.01)[seed])
        flow = gflow.solve_flow(problem, gflow.Gaussian()(jax.random.key(seed), problem, 30), **options)
        limit = gflow.find_limit(problem, flow)
        assert limit.polished and limit.kkt_residual <= 1e-9
        assert float(problem.total_loss(flow.final)) >= limit.objective * (1 - 1e-12)
        program = gflow.solve_penalized(problem, float(problem.weight_decay))
        proof = gflow.certify(problem, limit, optimum=program)
        verdicts.add(proof.verdict)
        assert proof.lower_bound <= program.primal * (1 + 1e-12) and limit.objective >= proof.lower_bound * (1 - 1e-12)
        if proof.verdict == gflow.VERDICT.GLOBAL:
            assert limit.objective == pytest.approx(program.primal, rel=1e-6) and proof.c <= 1 + 1e-3
        else:
            assert proof.verdict == gflow.VERDICT.NOT_GLOBAL
            assert float(problem.total_loss(proof.better)) < limit.objective * (1 - 1e-7)
        # the program's own network is the optimum, and one under way is nothing
        if program.network.width:
            assert gflow.certify(problem, program.network).verdict == gflow.VERDICT.GLOBAL
        early = gflow.limit_of_network(problem, gflow.Gaussian(0.1)(jax.random.key(9), problem, 30))
        assert not early.polished
        assert gflow.certify(problem, early, optimum=program).verdict == gflow.VERDICT.INCONCLUSIVE
    assert verdicts == {gflow.VERDICT.GLOBAL, gflow.VERDICT.NOT_GLOBAL}


def test_a_spurious_point_of_the_squared_loss_is_not_global():
    problem = gflow.Problem(**CASE_D)
    dead = gflow.TwoLayer(jnp.asarray([[0.4], [0.2]]) / 0.2**0.25, jnp.asarray([0.2**0.25]))  # fits one sample only
    limit = gflow.limit_of_network(problem, dead)
    assert limit.polished and limit.loss == pytest.approx(0.5)
    proof = gflow.certify(problem, limit)
    assert proof.verdict == gflow.VERDICT.NOT_GLOBAL and proof.optimum == pytest.approx(NORM)
    np.testing.assert_allclose(proof.better(problem.X), problem.y, atol=1e-8)


def test_a_tiny_neuron_that_turns_before_it_grows_is_not_at_rest():
    # found by attack: flows stopped at s = 0
    problem = gflow.Problem(**CASE_D)
    W1 = 1e-6 * jnp.asarray([[0.3, -0.5, 1.0, -0.2], [1.0, 0.4, -0.3, 0.8]])
    flow = gflow.solve_flow(problem, gflow.TwoLayer(W1, jnp.zeros(4)), saves=1)
    assert gflow.result_name(flow.result) == "stationary" and float(flow.loss[-1]) < 1e-15
    # nor is one of 1e-30 whose a^2 and |w|^2 differ, with weight decay
    decays = gflow.Problem(**CASE_D, weight_decay=0.05)
    a = 1e-30 * jnp.asarray([0.9, -1.0, 0.5, -0.7])
    flow = gflow.solve_flow(decays, gflow.TwoLayer(1e-24 * W1, a), saves=1)
    assert float(decays.total_loss(flow.final)) == pytest.approx(0.0658320393, rel=1e-6)


@pytest.mark.parametrize(
    "X, y",
    [
        ([[1.0, 0], [0, 1e-5]], [1.0, -9e-7]), ([[1e6, 0], [0, 1]], [1e6, -1.0]), ([[1.0, 0], [0, 1e-3]], [1.0, -1e-6]),
        (np.eye(2), [1e160, -1e160]), (np.eye(2), [1e-170, -1e-170]), ([[1.0, 0], [0, 1e-10]], [1.0, -1e-9]),
    ],
)  # fmt: skip
def test_a_missed_sample_of_another_scale_is_missed(X, y):
    # found by attack: a small loss was taken for none
    problem = gflow.Problem(X, y, loss=gflow.Squared())
    root = np.sqrt(abs(y[0] / X[0][0]))
    network = gflow.TwoLayer(jnp.asarray([[root], [0.0]]), jnp.asarray([root]))
    proof = gflow.certify(problem, network)
    assert proof.verdict == gflow.VERDICT.NOT_GLOBAL
    expected = abs(y[0] / X[0][0]) + abs(y[1] / X[1][1])
    assert proof.optimum == pytest.approx(expected, rel=1e-9)
    assert gflow.certify(problem, gflow.solve_min_norm(problem).network).verdict == gflow.VERDICT.GLOBAL


def test_a_flow_stopped_at_a_saddle_is_not_its_limit():
    # the group of the second sample is still 1e-12 of the first one: its pattern must not be left out
    problem = gflow.Problem(**CASE_D, weight_decay=0.05)
    v = jnp.asarray([[0.4, -0.4], [0.2, 0.8]]) * jnp.asarray([1.0, 1e-12])
    root = jnp.sqrt(jnp.linalg.norm(v, axis=0))
    controller = gflow.PIController(1e-6)
    network = gflow.TwoLayer(v / root, root * jnp.asarray([1.0, -1.0]))
    flow = gflow.solve_flow(problem, network, until_t=8.0, saves=1, controller=controller)
    limit = gflow.find_limit(problem, flow)
    assert not limit.polished
    assert gflow.certify(problem, limit).verdict == gflow.VERDICT.INCONCLUSIVE


def min_norm_by_cvxpy(X, y):
    import cvxpy as cp

    masks = gflow.arrangement(X).masks
    outputs, length, inside = 0, 0, []
    for s in (1, -1):
        for D in masks:
            v = cp.Variable(X.shape[1])
            outputs, length = outputs + s * cp.multiply(D, X @ v), length + cp.norm(v)
            inside.append(cp.multiply(np.where(D, 1.0, -1.0), X @ v) >= 0)
    return cp.Problem(cp.Minimize(length), [outputs == y, *inside]).solve(solver="CLARABEL")


@pytest.mark.parametrize("seed", range(6))
def test_least_norm_agrees_with_cvxpy(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((7, 2 + seed % 2)), rng.standard_normal(7) * (rng.random(7) < 0.8)
    solved = gflow.solve_min_norm(gflow.Problem(3 * X, 0.1 * y, loss=gflow.Squared()))
    assert gflow.result_name(solved.result) == "successful" and abs(solved.gap) <= 1e-9
    assert solved.primal == pytest.approx(0.1 / 3 * min_norm_by_cvxpy(X, y), rel=1e-6)
    np.testing.assert_allclose(solved.network(3 * X), 0.1 * y, atol=1e-9)
    angles = np.random.default_rng(0).standard_normal((X.shape[1], 5000))
    values = solved.lam @ np.maximum(3 * X @ (angles / np.linalg.norm(angles, axis=0)), 0)
    assert np.max(np.abs(values)) <= 1 + 1e-9


def test_least_norm_of_data_that_no_network_interpolates():
    for X, y in (([[1.0, 0], [2, 0]], [1.0, 1.0]), ([[0.0, 0], [2, 0]], [1.0, 1.0])):
        solved = gflow.solve_min_norm(gflow.Problem(X, y, loss=gflow.Squared()))
        assert gflow.result_name(solved.result) == "infeasible" and solved.network is None
    nothing = gflow.solve_min_norm(gflow.Problem([[1.0, 0], [0, 1]], [0.0, 0.0], loss=gflow.Squared()))
    assert nothing.primal == nothing.gap == 0
    with pytest.raises(ValueError, match="solve_max_margin"):
        gflow.solve_min_norm(gflow.Problem([[1.0]], [1.0]))
