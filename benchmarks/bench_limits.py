"""Limits at q_min = infinity: `python benchmarks/bench_limits.py [PART ...]`, parts named like their functions.

Every line holds claim, target, measured, met. `benchmarks/brute_force.py` compares limits with an integration.
"""

from __future__ import annotations

import sys
import time

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from harness import Report

import gflow
from gflow._types import VERDICT, kept_on_host, on_host
from gflow.at_infinity import limits_of
from gflow.cli.data import built_in
from gflow.flow.continuation.lanes import Job, continuations
from gflow.flow.continuation.solve import FINER, MAX_STEPS, TOLERANCE, balanced, continued, followed
from gflow.flow.continuation.state import Data
from gflow.legs import RTOL
from gflow.network import host_network

GAUSSIAN = "gaussian:n=10,d=5,seed=0"


def problem_of(name: str) -> gflow.Problem:
    dataset = built_in(name)
    return gflow.Problem(dataset.X, dataset.y)


def ends_of(problem, inits: int, width: int = 50, rtol: float = RTOL, scale: float = 1e-3) -> list:
    """Networks of flows that fit, where they end by q_min = 1e3."""
    law, controller = gflow.Gaussian(scale), gflow.PIController(rtol)
    starts = (law(gflow.key_of(0, index), problem, width) for index in range(inits))
    options = {"saves": 1, "controller": controller}
    networks = [on_host(gflow.solve_flow(problem, start, **options).final) for start in starts]
    host = kept_on_host(problem)
    return [host_network(n.W1, n.w2) for n in networks if host.margins(n).min() > 0]


def fine(report: Report) -> None:
    """The default against an integration at a thousandth of its tolerance."""
    problem = problem_of(GAUSSIAN)
    found = {}
    for rtol in (RTOL, 1e-6):
        options = {"controller": gflow.PIController(rtol)}
        (rows,) = gflow.sweep(problem, gflow.Gaussian(1e-3), 50, 128, rows=128, **options)
        found[rtol] = rows
        fit = np.isfinite(rows.objective)
        count = int(np.sum(rows.verdict == VERDICT.GLOBAL))
        name = f"{GAUSSIAN}, m = 50, 128 starts, flows at rtol {rtol:g}"
        settled = int(rows.settled.sum())
        every = int(fit.sum())
        report.line(f"{name}: settled of those that fit", target=every, measured=settled, met=settled == every,
                    GLOBAL=count)  # fmt: skip
    here, there = found[RTOL], found[1e-6]
    same = np.isclose(here.objective, there.objective, rtol=1e-6) | ~np.isfinite(here.objective)
    wrong = int(np.sum(~same | (here.verdict != there.verdict)))
    counts = [int(np.sum(r.verdict == VERDICT.GLOBAL)) for r in (here, there)]
    report.line(f"{GAUSSIAN}: GLOBAL by default and at rtol 1e-6", target="within 1", measured=counts,
                met=abs(counts[0] - counts[1]) <= 1)  # fmt: skip
    report.line(
        f"{GAUSSIAN}: rows whose limit differs from that at rtol 1e-6", target=1, measured=wrong, met=wrong <= 1
    )


def lowered(problem, network, by: float):
    """The network with all but a fitting set of its neurons lowered by e^-by in mass."""
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    mass = np.linalg.norm(network.W1, axis=0) * np.abs(network.w2)
    kept = mass > 0
    for i in np.argsort(mass):
        less = kept & (np.arange(len(kept)) != i)
        if (y * (np.maximum(X @ network.W1[:, less], 0) @ network.w2[less])).min() > 0:
            kept = less
    factor = np.where(kept, 1.0, np.exp(-by / 2))
    return host_network(network.W1 * factor, network.w2 * factor)


def stress(report: Report) -> None:
    """Flows that have to leave saddles first: a fitting set of neurons, and all others e^-60 or e^-400 below."""
    problem = problem_of(GAUSSIAN)
    ends = ends_of(problem, 25)[:24]
    for by in (60.0, 400.0):
        starts = [lowered(problem, network, by) for network in ends]
        found = followed(problem, starts)
        finer = followed(problem, starts, tol=1e-3)
        wrong = sum(a.settled and not a.same_limit(b) for a, b in zip(found, finer, strict=True))
        settled = sum(a.settled for a in found)
        name = f"all but a fitting set of neurons lowered by e^-{by:g}"
        report.line(f"{name}: settled at {TOLERANCE:g}, of {len(starts)}", target=len(starts), measured=settled,
                    met=settled == len(starts))  # fmt: skip
        report.line(
            f"{name}: settled limits that are not those at 1e-3 and 1e-4", target=0, measured=wrong, met=wrong == 0
        )
        for tol in (TOLERANCE, FINER * TOLERANCE):
            steps = max(continued(problem, start, tol=tol).steps for start in starts)
            report.line(f"{name}: most steps at tolerance {tol:g}", target="<= 120", measured=steps, met=steps <= 120)


def perturbed(report: Report) -> None:
    """Settled ends moved by 1e-4 in direction, every small neuron lifted to a share of 1e-3: do they come back?"""
    problem, rng = problem_of(GAUSSIAN), np.random.default_rng(0)
    moved, tried = 0, 0
    for network in ends_of(problem, 105):
        job = Job(balanced(problem, network), 1e-2)
        (lane,) = continuations(Data(problem), [job], MAX_STEPS)
        if not lane.stability.settled or tried == 100:
            continue
        tried += 1
        place = lane.place
        live = np.flatnonzero(np.isfinite(place.neurons.log_mass))
        log_mass = place.neurons.log_mass[live]
        log_mass = np.maximum(log_mass, log_mass.max() + np.log(1e-3))
        U = place.neurons.u[:, live] + 1e-4 * rng.standard_normal((len(place.neurons.u), len(live)))
        root = np.exp(log_mass / 2)
        before = continued(problem, network, tol=1e-2)
        after = continued(
            problem, host_network(U / np.linalg.norm(U, axis=0) * root, place.sign[live] * root), tol=1e-2
        )
        moved += not (after.settled and abs(after.objective - before.objective) <= 1e-6 * before.objective)
    report.line(f"{GAUSSIAN}: of {tried} settled ends, moved by 1e-4 and small neurons at 1e-3, go elsewhere", target=0,
                measured=moved, met=moved == 0 and tried == 100)  # fmt: skip


SIZES = {
    GAUSSIAN: (0.020, 32), "gaussian:n=30,d=60,seed=0": (0.1, 8), "gaussian:n=40,d=20,seed=0": (None, 8),
    "teacher:n=100,d=5,k=3,seed=0": (None, 8), "digits:first=3,second=8": (None, 4),
    "teacher:n=300,d=10,k=3,seed=0": (5.0, 2),
}  # fmt: skip


def sizes(report: Report) -> None:
    """Are limits settled and exact, and how long does that take, on one core and after compilation?"""
    for name, (target, inits) in SIZES.items():
        problem, width = problem_of(name), 100 if "n=300" in name else 50
        ends = ends_of(problem, inits, width)
        limits_of(problem, ends[:1])
        begun = time.perf_counter()
        limits = limits_of(problem, ends)
        took = (time.perf_counter() - begun) / len(ends)
        settled = sum(limit.settled for limit in limits)
        residual = max(max(limit.kkt_residual, limit.slackness) for limit in limits)
        name = f"{name}, m = {width}"
        report.line(f"{name}: settled of {len(ends)} that fit", target=len(ends), measured=settled,
                    met=settled == len(ends), endings=sorted({limit.ending.name for limit in limits}))  # fmt: skip
        report.line(f"{name}: largest KKT residual or slackness", target="<= 1e-9", measured=float(residual),
                    met=bool(residual <= 1e-9))  # fmt: skip
        met = {} if target is None else {"target": f"<= {target:g}", "met": took <= target}
        report.line(f"{name}: s a flow from q_min = 1e3 to its limit, both looks", **({"target": None} | met),
                    measured=took)  # fmt: skip


PARTS = {part.__name__: part for part in (fine, stress, perturbed, sizes)}

if __name__ == "__main__":
    report = Report("bench_limits", keep=True)
    for part in sys.argv[1:] or PARTS:
        PARTS[part](report)
