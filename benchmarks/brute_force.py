"""Flows far beyond float64 by brute force, an oracle for the limits that `gflow.find_limit` names.

The flow itself is integrated by steps that are implicit in the multipliers, to q_min = 1e8; there its network is scaled
down to 1e5, which at such margins changes its direction's course by 1e-5, and so on until log q_min has grown by LOG_Q.
Nothing of the continuation is used.

    python benchmarks/brute_force.py DATA --inits N --width M [--record]

says for how many flows the limit that was settled is the one to which brute force comes.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

from harness import Report

import gflow
from gflow._types import ENDING
from gflow.at_infinity import limits_of
from gflow.cli.data import built_in
from gflow.flow.controller import PIController
from gflow.flow.filippov import Filippov
from gflow.flow.implicit import Implicit
from gflow.flow.stop import MarginTarget
from gflow.limit import limit_of_network

LOW, HIGH = 1e5, 1e8

LOG_Q = 1000.0

SAME = 2e-6
"""Objectives of brute force are still on their way: a limit is named with the patterns that it has come to."""


def farther(problem, network, log_q: float = LOG_Q, rtol: float = 1e-3):
    """The network after log q_min has grown by so much."""
    grown = 0.0
    while grown < log_q:
        q = float(jnp.min(problem.margins(network)))
        network = network.scaled(float(np.sqrt(LOW / q)))
        flow = gflow.solve_flow(
            problem, network, stop=(MarginTarget(HIGH),), solver=Filippov(Implicit()), controller=PIController(rtol),
            saves=1, max_steps=3000,
        )  # fmt: skip
        network = flow.final
        grown += float(np.log(float(jnp.min(flow.margins[-1])) / LOW))
        if flow.result != gflow.RESULTS.margin_reached:
            raise RuntimeError(f"brute force came to an end at log q_min + {grown:.3g}: {flow.result}")
    return network


def named(problem, network) -> float:
    """The objective of the limit with the patterns of this network, or its own where there is none."""
    limit = limit_of_network(problem, network.scaled(30.0))
    return limit.objective if limit.polished and limit.changes == 0 else float(problem.objective(network))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--inits", type=int, default=16)
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--log-q", type=float, default=LOG_Q)
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    dataset = built_in(asked.data)
    problem = gflow.Problem(dataset.X, dataset.y)
    law, ends = gflow.Gaussian(1e-3), []
    for index in range(asked.inits):
        start = law(gflow.key_of(0, index), problem, asked.width)
        network = gflow.solve_flow(problem, start, saves=1, controller=PIController(1e-3)).final
        if float(jnp.min(problem.margins(network))) > 0:
            ends.append((index, network))
    limits = limits_of(problem, [network for _, network in ends])
    same, settled, apart, begun = 0, 0, [], time.perf_counter()
    for (index, network), limit in zip(ends, limits, strict=True):
        settled += limit.settled
        objective = named(problem, farther(problem, network, asked.log_q))
        agree = abs(objective - limit.objective) <= SAME * limit.objective
        same += limit.settled and agree
        if not agree:
            apart.append([index, limit.objective, objective])
        print(index, ENDING(limit.ending).name, limit.objective, objective, "" if agree else "APART", flush=True)
    claim = (
        f"settled limits of {asked.data}, m = {asked.width}, that brute force to log q_min = {asked.log_q:g} has too"
    )
    print(f"{same} of {settled} settled limits of {len(ends)} flows agree, {time.perf_counter() - begun:.0f} s")
    if asked.record:
        Report("brute_force", keep=True).line(
            claim, target=f"all of {settled}", measured=same, met=same == settled, fit=len(ends), apart=apart
        )


if __name__ == "__main__":
    main()
