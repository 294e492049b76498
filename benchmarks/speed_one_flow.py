"""One flow to a given KKT residual, gflow against what a user would write today: `python benchmarks/speed_one_flow.py`.

From the same first weights (m = 50, scale 1e-2), one thread each. A peer is stopped at 30 s of its own work or when it
gives up; its KKT residual is looked at beside the clock, with the kindest of four bands around the kinks. gflow's time
is that of the flow and the program for its limit, compiled before; compile time stands beside it. Names of data sets
or `--budget SECONDS` may be given.
"""

import os
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"

import statistics
import time
from collections.abc import Iterator

import jax
import numpy as np
from harness import Report, within

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import peers

import gflow
from gflow import datasets

LEVELS = (1e-2, 1e-4, 1e-6, 1e-8)
BANDS = (1e-12, 1e-6, 1e-4, 1e-3)
WIDTH, SCALE, REPEATS = 50, 1e-2, 5


def standardised_iris():
    """(100, 5): two classes, columns of variance 1, and a constant one."""
    data = datasets.iris()
    X = (data.X - data.X.mean(0)) / data.X.std(0)
    return np.hstack([X, np.ones((len(X), 1))]), np.asarray(data.y)


def data_sets() -> dict:
    easy, hard, small = datasets.orthogonal_separable(20, 2), datasets.gaussian(20, 2), datasets.gaussian(10, 5)
    return {
        "orthogonally separable (20,2)": (easy.X, easy.y),
        "gaussian (20,2)": (hard.X, hard.y),
        "gaussian (10,5)": (small.X, small.y),
        "iris (100,5)": standardised_iris(),
    }


PEERS = {
    "SciPy BDF on log L": lambda *a: peers.scipy_steps(*a, "BDF", True, 1e4),
    "SciPy RK45, time t": lambda *a: peers.scipy_steps(*a, "RK45", False, 1e300),
    "SciPy LSODA, time t": lambda *a: peers.scipy_steps(*a, "LSODA", False, 1e300),
    "SciPy Radau, time t": lambda *a: peers.scipy_steps(*a, "Radau", False, 1e300),
    "diffrax Tsit5, time t": lambda *a: peers.diffrax_by_hand(*a, "Tsit5"),
    "diffrax Kvaerno5, time t": lambda *a: peers.diffrax_by_hand(*a, "Kvaerno5"),
    "optax GD, rate 0.1": lambda *a: peers.optax_descent(*a, 0.1, False),
    "optax GD on log L, rate 0.01": lambda *a: peers.optax_descent(*a, 0.01, True),
    "PyTorch GD, rate 0.1": lambda *a: peers.torch_descent(*a, 0.1),
    "torchdiffeq dopri5, time t": lambda *a: peers.torchdiffeq_by_hand(*a),
}


@jax.jit
def _residuals(problem, network):
    q = problem.margins(network)
    lam = problem.multipliers(q)
    unit = network.normalised()
    return jnp.min(jnp.stack([problem.kkt_residual(unit, lam, band) for band in BANDS])), jnp.min(q)


def race(X, y, W1, w2, label: str, budget: float) -> Iterator[dict]:
    """First times at which a fitted network has each residual, and the smallest residual, again and again."""
    problem, reached, best, q_min = gflow.Problem(X, y), {}, np.inf, -np.inf

    def figures(ended: str) -> dict:
        return {
            "seconds_to": {f"{level:.0e}": reached.get(level) for level in LEVELS},
            "best": best if best < np.inf else None, "seconds": spent,
            "q_min": q_min if np.isfinite(q_min) else None, "ended": ended,
        }  # fmt: skip

    spent = 0.0
    try:
        for spent, W1, w2 in PEERS[label](X, y, W1, w2):  # noqa: B020
            residual, q_min = map(float, _residuals(problem, gflow.TwoLayer(jnp.asarray(W1), jnp.asarray(w2))))
            if q_min > 0 and residual < best:
                best = residual
                reached |= {level: spent for level in LEVELS if residual <= level and level not in reached}
            if LEVELS[-1] in reached:
                yield figures("reached")
                return
            if spent > budget:
                yield figures("budget")
                return
            yield figures("stuck within one stretch")  # true if nothing comes after it
        yield figures("gave up or at the end of time")
    except (FloatingPointError, ValueError, RuntimeError, OverflowError) as error:
        yield figures(f"failed: {str(error)[:80]}")


def raced(problem, network, label: str, budget: float) -> dict:
    """`race` in a process of its own, which may last four budgets: some know no limit on a stretch of the way."""
    arrays = map(np.asarray, (problem.X, problem.y, network.W1, network.w2))
    try:
        found, _ = within(4 * budget, race, *arrays, label, budget)
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed"}
    never = {"seconds_to": {f"{level:.0e}": None for level in LEVELS}, "best": None, "seconds": None, "q_min": None}
    return never | {"ended": "stuck within its first stretch"} if found is None else found


def own(problem, network) -> dict:
    """The flow (to KKT residual 1e-2, and to its default end) and its exact limit."""
    first, times, coarse = time.perf_counter(), [], []

    def limit():
        flow = gflow.solve_flow(problem, network, saves=1)
        return gflow.find_limit(problem, flow)

    found = limit()
    first = time.perf_counter() - first
    stop = (gflow.KKTTarget(1e-2, jnp.inf),)
    jax.block_until_ready(gflow.solve_flow(problem, network, saves=1, stop=stop))
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(gflow.solve_flow(problem, network, saves=1, stop=stop))
        coarse.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = limit()
        times.append(time.perf_counter() - start)
    exact = found.polished and np.isfinite(found.objective)
    median = statistics.median(times)
    levels = {f"{level:.0e}": median if exact and found.kkt_residual <= level else None for level in LEVELS[1:]}
    return {
        "seconds_to": {"1e-02": min(statistics.median(coarse), median), **levels}, "best": float(found.kkt_residual),
        "spread": [min(times), max(times)], "with_compilation": first, "polished": bool(found.polished),
        "verdict": gflow.certify(problem, found).verdict.name,
    }  # fmt: skip


def main(names: list[str], budget: float = 30.0) -> None:
    report = Report("speed_one_flow", keep=bool(names))
    for name, (X, y) in data_sets().items():
        if names and name not in names:
            continue
        problem = gflow.Problem(X, y)
        network = gflow.Gaussian(SCALE)(gflow.key_of(0, 0), problem, WIDTH)
        report.line(f"{name}: gflow, flow and limit", **own(problem, network))
        for label in PEERS:
            report.line(f"{name}: {label}", **raced(problem, network, label, budget))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    budget = float(arguments.pop(arguments.index("--budget") + 1)) if "--budget" in arguments else 30.0
    main([a for a in arguments if a != "--budget"], budget)
