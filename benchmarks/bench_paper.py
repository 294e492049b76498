"""Claims of the abstract of arXiv 2110.06488, tested on flows: `python benchmarks/bench_paper.py [PART[:N,..] ...]`.

Parts: duality (limits by primal-dual correspondence), sufficient (dual feasibility against the optimum), orthogonal
(random orthogonally separable draws), gaussian (how often the condition fails as n/d varies). docs/paper.md has the
figures. orthogonal:50 and gaussian:15,20 run these numbers of samples alone.
"""

import sys
import time

import jax
import numpy as np
from harness import Report

jax.config.update("jax_enable_x64", True)

import gflow
from gflow import datasets
from gflow.records import Records, wilson

LAW = gflow.Gaussian(1e-3)
GLOBAL, UNFITTED = gflow.VERDICT.GLOBAL, gflow.VERDICT.UNFITTED


def ends(problem, width: int, inits: int, **known) -> Records:
    """Certified limits of the first initialisations."""
    return Records.joined(gflow.sweep(problem, LAW, width, inits, **known))


def duality(report: Report, draws: int = 10, inits: int = 64) -> None:
    """At each limit lambda alone gives every live neuron: w_i = a_i X^T D_i lambda, and 1^T alpha = 1/2 |theta|^2.

    Recomputed in NumPy from the stored weights and the multipliers that non-negative least squares finds for them.
    """
    from scipy.optimize import nnls

    worst = {"w_i - a_i X^T D_i lambda": 0.0, "1^T alpha / P - 1": 0.0, "lambda^T (X u_i)_+ - s_i": 0.0}
    count = 0
    for seed in range(draws):
        data = datasets.gaussian(n=10, d=5, seed=seed)
        rows = ends(gflow.Problem(data.X, data.y), 50, inits)
        for row in np.flatnonzero(rows.polished & np.isfinite(rows.objective)):
            K = int(rows.neurons[row])
            W, a = rows.W1[row, :K].T, rows.w2[row, :K]
            Z = data.X @ W
            q = data.y * (np.maximum(Z, 0) @ a)
            tight = q <= q.min() * (1 + 1e-9)
            band = 1e-9 * np.linalg.norm(data.X, axis=1)[:, None] * np.linalg.norm(W, axis=0)
            # alpha_n delta_ni >= 0 of sliding pairs are unknowns of their own: delta in [0, 1] of a known alpha is
            # checked by the residual's being 0 with alpha - alpha delta >= 0 as a further unknown
            alpha, residual = _multipliers(nnls, data, W, a, Z, tight, np.abs(Z) <= band)
            worst["w_i - a_i X^T D_i lambda"] = max(worst["w_i - a_i X^T D_i lambda"], residual)
            off = abs(alpha.sum() / rows.objective[row] - 1)
            worst["1^T alpha / P - 1"] = max(worst["1^T alpha / P - 1"], off)
            U = W / np.linalg.norm(W, axis=0)
            touch = np.abs((alpha * data.y) @ np.maximum(data.X @ U, 0) - np.sign(a)).max()
            worst["lambda^T (X u_i)_+ - s_i"] = max(worst["lambda^T (X u_i)_+ - s_i"], touch)
            count += 1
    report.line(
        f"limits of flows on {draws} draws of gaussian (10,5), m = 50, identified by their multipliers",
        target=1e-8, measured=max(worst.values()), met=bool(max(worst.values()) <= 1e-8), limits=count, worst=worst,
    )  # fmt: skip


def _multipliers(nnls, data, W, a, Z, tight, sliding):
    """alpha >= 0 on tight samples and the relative residual of w_i = a_i X^T D_i lambda, |a_i| = |w_i|.

    Unknowns: alpha_n, and for a sliding pair e_ni = alpha_n delta_ni and its slack alpha_n - e_ni >= 0.
    """
    n, m = Z.shape
    d, size = data.X.shape[1], np.linalg.norm(W, axis=0)
    pairs = [(k, i) for k in np.flatnonzero(tight) for i in np.flatnonzero(sliding[k])]
    A = np.zeros((d * m + len(pairs), n + 2 * len(pairs)))
    target = np.concatenate([*(np.sign(a) * W / size).T, np.zeros(len(pairs))])
    for i in range(m):
        on = tight & (Z[:, i] > 0) & ~sliding[:, i]
        A[d * i : d * (i + 1), :n][:, on] = (data.y * data.X.T)[:, on]
    for j, (k, i) in enumerate(pairs):
        A[d * i : d * (i + 1), n + 2 * j] = data.y[k] * data.X[k]
        A[d * m + j, [k, n + 2 * j, n + 2 * j + 1]] = 1.0, -1.0, -1.0
    found, residual = nnls(A, target, maxiter=10_000)
    return found[:n], residual


def sufficient(report: Report, draws: int = 40, inits: int = 32) -> None:
    """Dual feasible at the limit iff its objective is P*, which another solver finds without the flow."""
    agree, feasible, infeasible, closest = 0, 0, 0, np.inf
    for seed in range(draws):
        data = datasets.gaussian(n=10, d=5, seed=100 + seed)
        problem = gflow.Problem(data.X, data.y)
        known = gflow.faces(problem.X)
        solved = gflow.solve_max_margin(problem, known)
        rows = ends(problem, 50, inits, known_faces=known)
        fit = rows.polished & np.isfinite(rows.objective)
        holds, optimal = rows.certificate[fit] - 1 <= 1e-6, rows.objective[fit] / solved.dual - 1 <= 1e-6
        agree += int(np.sum(holds == optimal))
        feasible, infeasible = feasible + int(holds.sum()), infeasible + int(np.sum(~holds))
        closest = min(closest, float(np.min(rows.objective[fit] / solved.primal, initial=np.inf)))
    report.line(
        f"dual feasible iff optimal, {draws} draws of gaussian (10,5), m = 50, {inits} starts each",
        target=1.0, measured=agree / (feasible + infeasible), met=agree == feasible + infeasible, feasible=feasible,
        infeasible=infeasible, smallest_objective_over_optimum=closest,
    )  # fmt: skip


def alive(problem, index: int, width: int) -> bool:
    """Whether each class has a first neuron of its sign that is active on one of its samples: it stays live."""
    first = LAW(gflow.key_of(0, index), problem, width)
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    on, sign = X @ np.asarray(first.W1) > 0, np.sign(np.asarray(first.w2))
    return all(np.any(on[y == c][:, sign == c]) for c in (1, -1) if np.any(y == c))


SHAPES = ((20, 2), (200, 2), (50, 10), (200, 50))


def orthogonal(report: Report, only: tuple[int, ...] = (), seeds: int = 2, inits: int = 16) -> None:
    """Fraction GLOBAL among runs with a live neuron for each class; what becomes of the others."""
    for n, d in (shape for shape in SHAPES if not only or shape[0] in only):
        for width in (2, 20):
            start, counts = time.perf_counter(), {"alive": 0, "alive_global": 0, "fitted": 0, "fitted_global": 0}
            for seed in range(seeds):
                data = datasets.orthogonal_separable(n=n, d=d, seed=seed)
                problem = gflow.Problem(data.X, data.y)
                rows = ends(problem, width, inits)
                live = np.array([alive(problem, int(i), width) for i in rows.index])
                fitted, proved = np.isfinite(rows.objective), rows.verdict == GLOBAL
                for name, chosen in (("alive", live), ("fitted", fitted)):
                    counts[name] += int(chosen.sum())
                    counts[f"{name}_global"] += int(np.sum(chosen & proved))
            fraction = counts["alive_global"] / counts["alive"] if counts["alive"] else None
            report.line(
                f"orthogonally separable ({n},{d}), m = {width}: GLOBAL among runs with a live neuron for each class",
                target=1.0, measured=fraction, met=fraction == 1.0, runs=seeds * inits, **counts,
                seconds=round(time.perf_counter() - start, 1),
            )  # fmt: skip


def gaussian(
    report: Report, only: tuple[int, ...] = (3, 5, 8, 10, 15, 20), d: int = 5, seeds: int = 10, inits: int = 16
) -> None:
    """Fraction of fitted flows that end at a limit that is not global, against n/d; 95 % Wilson intervals."""
    for n in only:
        start, worse, fitted, open_, ratio = time.perf_counter(), 0, 0, 0, []
        for seed in range(seeds):
            data = datasets.gaussian(n=n, d=d, seed=seed)
            rows = ends(gflow.Problem(data.X, data.y), 50, inits)
            fit = np.isfinite(rows.objective)
            fitted, worse = fitted + int(fit.sum()), worse + int(np.sum(rows.verdict == gflow.VERDICT.NOT_GLOBAL))
            open_ += int(np.sum(fit & (rows.verdict == gflow.VERDICT.INCONCLUSIVE)))
            ratio.extend(rows.certificate[fit])
        report.line(
            f"gaussian ({n},{d}), m = 50: fitted flows whose limit is not global", target=None,
            measured=worse / fitted, interval=wilson(worse, fitted), fitted=fitted, runs=seeds * inits,
            inconclusive=open_, median_c=float(np.median(ratio)), largest_c=float(np.max(ratio)),
            seconds=round(time.perf_counter() - start, 1),
        )  # fmt: skip


PARTS = {part.__name__: part for part in (duality, sufficient, orthogonal, gaussian)}

if __name__ == "__main__":
    chosen = [argument.partition(":") for argument in sys.argv[1:] or PARTS]
    unknown = [name for name, *_ in chosen if name not in PARTS]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    report = Report("bench_paper", keep=bool(sys.argv[1:]))
    for name, _, only in chosen:
        if only:
            PARTS[name](report, only=tuple(int(n) for n in only.split(",")))
        else:
            PARTS[name](report)
