"""Flows with fixed gates: against small steps, CVXPY and the penalised program over the same gates."""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import datasets

DATA = datasets.gaussian(n=10, d=5)
ROUGH = gflow.PIController(1e-3)


def start_of(decay=0.0, seed=0):
    plain = gflow.Problem(DATA.X, DATA.y, weight_decay=decay)
    network = gflow.Gaussian(1e-3)(gflow.key_of(0, seed), plain, 20)
    return gflow.gated(plain, network), network


def test_a_flow_with_fixed_gates_against_small_steps():
    problem, _ = start_of()
    network = gflow.Gaussian(0.3)(gflow.key_of(0, 0), problem, 20)
    tight = gflow.PIController(1e-6)
    flow = gflow.solve_flow(problem, network, until_s=2.0, saves=1, controller=tight)
    gates, h = np.asarray(problem.activation.masks) * 1.0, 2e-5
    W, a = np.asarray(network.W1), np.asarray(network.w2)
    for _ in range(round(2.0 / h)):
        Z = DATA.X @ W
        weight = 1 / (1 + np.exp(DATA.y * ((gates * Z) @ a)))
        G = DATA.X.T @ (gates * (weight / weight.sum() * DATA.y)[:, None])
        W, a = W + h * a * G, a + h * np.sum(W * G, axis=0)
    # neurons do go where their gates are not those of a ReLU
    assert np.any((DATA.X @ W > 0) != (gates > 0))
    np.testing.assert_allclose(flow.final.W1, W, atol=1e-3)
    np.testing.assert_allclose(flow.final.w2, a, atol=1e-3)


def least_over_gates(masks):
    """min sum_k |v_k| s.t. y o sum_k D_k X v_k >= 1 by CVXPY."""
    import cvxpy as cp

    V = cp.Variable((len(masks), DATA.X.shape[1]))
    outputs = cp.sum(cp.multiply(masks.T * 1.0, DATA.X @ V.T), axis=1)
    program = cp.Problem(cp.Minimize(cp.sum(cp.norm(V, axis=1))), [cp.multiply(DATA.y, outputs) >= 1])
    return program.solve(solver="CLARABEL")


def test_directions_end_at_the_optimum_over_their_gates():
    verdicts = set()
    for seed in range(3):
        problem, network = start_of(seed=seed)
        limit = gflow.gated_limit(problem, gflow.solve_flow(problem, network, saves=1, controller=ROUGH).final)
        expected = least_over_gates(limit.masks)
        assert limit.lower_bound <= expected * (1 + 1e-6) and limit.objective >= expected * (1 - 1e-6)
        margins = DATA.y * np.einsum("kn,nd,kd->n", limit.masks, DATA.X, limit.V)
        assert margins.min() == pytest.approx(1, abs=1e-9)
        if limit.verdict == gflow.VERDICT.GLOBAL:
            assert limit.polished and limit.objective == pytest.approx(expected, rel=1e-6)
        else:  # a flow that is still far away
            assert limit.verdict == gflow.VERDICT.INCONCLUSIVE and not limit.polished
        verdicts.add(limit.verdict)
    assert gflow.VERDICT.GLOBAL in verdicts


def test_points_end_at_the_optimum_over_their_gates():
    # neurons of other gates die out, and steps then grow until they overflow: found in November, flows stood still
    problem, network = start_of(decay=0.1)
    flow = gflow.solve_flow(problem, network, saves=1, controller=ROUGH)
    assert gflow.result_name(flow.result) == "stationary"
    limit = gflow.gated_limit(problem, flow.final)
    assert limit.verdict == gflow.VERDICT.GLOBAL
    assert limit.objective == pytest.approx(gflow.solve_gated(problem, 0.1, limit.masks).primal, rel=1e-6)
    assert limit.objective == pytest.approx(float(problem.total_loss(flow.final)), rel=1e-6)
    early = gflow.gated_limit(problem, network)
    # under way: it goes on to the optimum
    assert early.verdict == gflow.VERDICT.INCONCLUSIVE and early.lower_bound == limit.lower_bound
    assert limit.polished and not early.polished and limit.scope == gflow.Scope.GATES
    # one neuron at rest, at the optimum for its own gate: the others are 0, and stay so
    alone = gflow.TwoLayer(network.W1[:, :1], network.w2[:1])
    only = gflow.gated(gflow.Problem(DATA.X, DATA.y, weight_decay=0.1), alone)
    best = gflow.solve_flow(only, alone, saves=1, controller=ROUGH).final
    stuck = gflow.TwoLayer(
        jnp.zeros_like(network.W1).at[:, :1].set(best.W1), jnp.zeros_like(network.w2).at[:1].set(best.w2)
    )
    at_rest = gflow.gated_limit(problem, stuck)
    assert at_rest.verdict == gflow.VERDICT.NOT_GLOBAL and at_rest.c > 1 + 1e-6


def test_what_is_about_activations_of_z_refuses_gates():
    problem, network = start_of()
    for refused in (
        lambda: gflow.certify(problem, network), lambda: gflow.limit_of_network(problem, network),
        lambda: gflow.solve_max_margin(problem), lambda: gflow.solve_penalized(problem, 0.1),
        lambda: gflow.fates(problem, network),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="gated_limit"):
            refused()
    with pytest.raises(ValueError, match="without Filippov"):
        gflow.solve_flow(problem, network, solver=gflow.Filippov(diffrax.Tsit5()), until_s=1.0)
    with pytest.raises(ValueError, match="make the problem with"):
        gflow.gated_limit(gflow.Problem(DATA.X, DATA.y), network)
    squared = gflow.gated(gflow.Problem(DATA.X, DATA.y, loss=gflow.Squared()), network)
    with pytest.raises(ValueError, match="weight decay"):
        gflow.gated_limit(squared, network)
    # not fitted: a bound, and nothing else
    limit = gflow.gated_limit(problem, gflow.TwoLayer(network.W1, jnp.zeros_like(network.w2)))
    assert limit.objective == np.inf and limit.verdict == gflow.VERDICT.INCONCLUSIVE and limit.lower_bound > 0
