"""Limits of flows that are still far from them: which are accepted, and which a flow has passed."""

import numpy as np
import pytest

import gflow
from gflow import datasets
from gflow.limit import limit_of_network
from gflow.network import host_network
from gflow.patterns import distinct, merge
from gflow.programs.base import agrees
from gflow.programs.max_margin import Programs


@pytest.mark.parametrize("q_min", [1e3, 1e4, 1e6])
def test_a_neuron_that_grows_slowly_is_part_of_the_limit_however_late_the_flow_stopped(q_min):
    # the optimum without one of its neurons, and that one small: the flow approaches like a small power of 1/q_min
    data = datasets.gaussian(10, 5, seed=2)
    problem = gflow.Problem(data.X, data.y)
    best = gflow.solve_max_margin(problem)
    W1, w2 = np.asarray(best.network.W1), np.asarray(best.network.w2)
    without = host_network(W1[:, 1:], w2[1:])
    rest = Programs(problem).point(distinct(merge(problem, without, 1e-9, 0.0)[0])).limit.network
    late = host_network(
        np.hstack([np.asarray(rest.W1), 0.03 * W1[:, :1]]), np.append(np.asarray(rest.w2), 0.03 * w2[0])
    )
    network = late.scaled(np.sqrt(q_min / problem.margins(late).min()))
    assert 1.03 < problem.objective(network) / best.primal < 1.08
    limit = limit_of_network(problem, network, settled=2.0)
    assert limit.polished and limit.objective == pytest.approx(best.primal, rel=1e-9)


def test_a_flow_that_has_passed_a_limit_does_not_go_there():
    assert agrees(1.0, 1.05, 1e6) and agrees(1.0, 0.95, 1e3)
    assert not agrees(1.0, 1.1, 1e6) and not agrees(1.0, 0.95, 1e4)
