"""Time to a proved gap, gflow against CVXPY's solvers: `python benchmarks/speed_convex.py`.

Max-margin on the five sets of the convexity tests and two penalised problems, one thread. A solver's answer is judged
by the same certificate as gflow's: its network scaled to q_min = 1, its multipliers priced over all faces. A peer is
run at tolerances from 1e-4 to 1e-12 and gets the least time of those that prove the gap; `solver` is what the solver
itself reports, `all` with CVXPY's compilation. gflow's time is without its faces, which stand apart, and compiled.
scnn (pip install pyscnn) knows the squared loss with weight decay alone, and is given a gate for every mask.
"""

import os
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import time
import warnings

import jax
import numpy as np
from bench_convex import proved_gap, random_labels, timed
from harness import Report

jax.config.update("jax_enable_x64", True)

import gflow
from gflow import datasets

LEVELS = (1e-4, 1e-6, 1e-8)
TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
LONGEST = 120.0
SOLVERS = ("CLARABEL", "SCS", "ECOS", "MOREAU")


def settings(solver: str, eps: float) -> dict:
    """The tolerance in each solver's own words."""
    if solver == "CLARABEL":
        return {"tol_gap_abs": eps, "tol_gap_rel": eps, "tol_feas": eps, "time_limit": LONGEST}
    if solver == "SCS":
        return {"eps_abs": eps, "eps_rel": eps, "max_iters": 200_000, "time_limit_secs": LONGEST}
    if solver == "MOREAU":
        close = {"tol_gap_abs": eps, "tol_gap_rel": eps, "tol_feas": eps}
        return {"ipm_settings": close, "time_limit": LONGEST, "device": "cpu"}
    return {"abstol": eps, "reltol": eps, "feastol": eps}


def program(problem, masks, beta=None):
    """CVXPY's problem, its groups and the constraint whose dual is alpha (None with weight decay)."""
    import cvxpy as cp

    X, y = np.asarray(problem.X), np.asarray(problem.y)
    f, length, inside, groups = 0, 0, [], []
    for s in (1, -1):
        for D in masks:
            v = cp.Variable(X.shape[1])
            f, length = f + s * cp.multiply(D, X @ v), length + cp.norm(v)
            inside.append(cp.multiply(np.where(D, 1.0, -1.0), X @ v) >= 0)
            groups.append((s, v))
    if beta is None:
        fit = cp.multiply(y, f) >= 1
        return cp.Problem(cp.Minimize(length), [fit, *inside]), groups, fit
    loss = (
        cp.sum_squares(f - y) / 2
        if isinstance(problem.loss, gflow.Squared)
        else cp.sum(cp.logistic(-cp.multiply(y, f)))
    )
    return cp.Problem(cp.Minimize(loss + beta * length), inside), groups, None


def judged(problem, known, groups, fit, beta) -> float:
    """The gap that this answer proves."""
    v = np.array([s * 0 + g.value for s, g in groups])
    norms, sign = np.linalg.norm(v, axis=1), np.array([s for s, _ in groups])
    live = norms > 1e-12 * norms.max()
    W1, a = (v[live] / np.sqrt(norms[live])[:, None]).T, sign[live] * np.sqrt(norms[live])
    network = gflow.TwoLayer(jax.numpy.asarray(W1), jax.numpy.asarray(a))
    if beta is None:
        return proved_gap(problem, known, float(problem.objective(network)), np.asarray(fit.dual_value))
    decayed = gflow.Problem(problem.X, problem.y, loss=problem.loss, weight_decay=beta)
    proof = gflow.certify(decayed, network, known_faces=known, search=False)
    return 1 - proof.lower_bound / proof.objective


def peer(problem, known, masks, solver: str, beta=None) -> dict:
    """Seconds to each gap, and the least gap proved."""
    import cvxpy as cp

    reached, best = {}, np.inf
    for eps in TOLERANCES:
        built, groups, fit = program(problem, masks, beta)
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                built.solve(solver=solver, **settings(solver, eps))
            everything = time.perf_counter() - start
            gap = judged(problem, known, groups, fit, beta)
        except (cp.SolverError, ValueError, TypeError) as error:
            return {"seconds_to": reached, "best": best if best < np.inf else None, "ended": str(error)[:80]}
        took = built.solver_stats.solve_time
        best = min(best, gap)
        for level in LEVELS:
            if gap <= level and f"{level:.0e}" not in reached:
                reached[f"{level:.0e}"] = {"solver": took, "all": everything}
        if everything > LONGEST or gap <= 1e-8:
            break
    return {"seconds_to": reached, "best": best if best < np.inf else None}


def scnn_peer(problem, known, beta: float) -> dict:
    """scnn's augmented Lagrangian method on two features, tolerances (of a squared norm) until one takes too long."""
    from scnn.metrics import Metrics
    from scnn.models import ConvexReLU
    from scnn.optimize import optimize_model
    from scnn.regularizers import NeuronGL1
    from scnn.solvers import AL

    X, y = np.asarray(problem.X), np.asarray(problem.y)
    borders = np.arctan2(X[:, 1], X[:, 0])[:, None] + np.array([np.pi / 2, -np.pi / 2])
    borders = np.sort(borders.ravel() % (2 * np.pi))
    inside = (borders + np.append(borders[1:], borders[0] + 2 * np.pi)) / 2
    gates = np.stack([np.cos(inside), np.sin(inside)])
    decayed = gflow.Problem(problem.X, problem.y, loss=problem.loss, weight_decay=beta)
    reached, runs = {}, []
    for tol in (1e-6, 1e-10, 1e-14):
        solver = AL(
            model := ConvexReLU(gates), tol=tol, constraint_tol=tol**0.5, max_primal_iters=10**5, max_dual_iters=10**5
        )
        start = time.perf_counter()
        # its loss is a mean over samples, and columns of other length would be another penalty
        trained, _ = optimize_model(
            model, solver, Metrics(), X, y, regularizer=NeuronGL1(beta / len(y)), unitize_data=False, dtype="float64"
        )
        took = time.perf_counter() - start
        W1, w2 = (np.asarray(a) for a in trained.parameters)
        network = gflow.TwoLayer(jax.numpy.asarray(W1.T), jax.numpy.asarray(w2[0]))
        proof = gflow.certify(decayed, network, known_faces=known, search=False)
        gap = 1 - proof.lower_bound / proof.objective
        runs.append({"tol": tol, "all": took, "gap": gap})
        reached |= {f"{level:.0e}": {"all": took} for level in LEVELS if gap <= level and f"{level:.0e}" not in reached}
        if took > LONGEST:
            break
    return {"seconds_to": reached, "best": min(run["gap"] for run in runs), "runs": runs}


def own(problem, known, beta=None) -> dict:
    """The same for gflow: every level solved for by itself."""
    reached, first = {}, None
    for level in LEVELS:
        if beta is None:
            solved, least, cold = timed(lambda at=level: gflow.solve_max_margin(problem, known, rtol=at))
        else:
            solved, least, cold = timed(lambda at=level: gflow.solve_penalized(problem, beta, known, rtol=at))
        first = cold if first is None else first
        if solved.gap <= level:
            reached[f"{level:.0e}"] = {"all": least}
    return {"seconds_to": reached, "best": float(solved.gap), "with_compilation": first}


def cases() -> dict:
    """Name -> (problem, weight decay or None)."""
    made = {f"max-margin, gaussian ({n},{d})": (random_labels(n, d, 0), None) for n, d in ((20, 2), (20, 3), (40, 3))}
    easy, taught = datasets.orthogonal_separable(20, 2), datasets.teacher(20, 2)
    made["max-margin, orthogonally separable (20,2)"] = gflow.Problem(easy.X, easy.y), None
    made["max-margin, teacher (20,2)"] = gflow.Problem(taught.X, taught.y), None
    rng = np.random.default_rng(5)
    X = rng.standard_normal((20, 2))
    made["weight decay 0.1, squared, gaussian (20,2)"] = (
        gflow.Problem(X, rng.standard_normal(20), loss=gflow.Squared()),
        0.1,
    )
    made["weight decay 0.1, logistic, gaussian (20,2)"] = gflow.Problem(X, rng.choice([-1.0, 1.0], 20)), 0.1
    return made


def main(names: list[str]) -> None:
    import cvxpy as cp

    report = Report("speed_convex", keep=bool(names))
    for name, (problem, beta) in cases().items():
        if names and name not in names:
            continue
        known, faces_s, _ = timed(lambda p=problem: gflow.faces(p.X), 1)
        masks = gflow.arrangement(problem.X).masks
        report.line(f"{name}, {len(masks)} masks: gflow", faces_s=faces_s, **own(problem, known, beta))
        for solver in SOLVERS:
            if solver not in cp.installed_solvers():
                report.line(f"{name}, {len(masks)} masks: CVXPY, {solver}", skipped="not installed")
                continue
            report.line(f"{name}, {len(masks)} masks: CVXPY, {solver}", **peer(problem, known, masks, solver, beta))
        if beta is not None and isinstance(problem.loss, gflow.Squared):
            try:
                figures = scnn_peer(problem, known, beta)
            except ImportError:
                figures = {"skipped": "not installed"}
            report.line(f"{name}, {len(masks)} masks: scnn", **figures)


if __name__ == "__main__":
    main(sys.argv[1:])
