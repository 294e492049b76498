"""The convex side: gaps, agreement with Clarabel and speed against it, large programs, any dimension, limits of flows.

`python benchmarks/bench_convex.py [PART ...]`, PART one of agree, seeds, large, dimensions, limits, decay,
random_decay, sampled.
"""

import sys
import time

import jax
import numpy as np
from harness import Report

jax.config.update("jax_enable_x64", True)

import gflow
from gflow import datasets

FIVE = ((20, 2), (40, 3), (100, 2), (100, 3))


def random_labels(n: int, d: int, seed: int) -> gflow.Problem:
    rng = np.random.default_rng([n, d, seed])
    return gflow.Problem(rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n))


def clarabel_optimum(problem: gflow.Problem, masks: np.ndarray) -> tuple[float, np.ndarray, float]:
    """(optimum, alpha, seconds of the solver) of the program over `masks` (P, n), given to Clarabel directly."""
    import clarabel
    import scipy.sparse as sp

    X, y = np.asarray(problem.X), np.asarray(problem.y)
    (n, d), P = X.shape, len(masks)
    # variables: for every sign and mask t and v in R^d, |v| <= t, (2D - I) X v >= 0; then sum Y s D X v >= 1
    blocks = [np.hstack([np.zeros((n, 1)), s * y[:, None] * D[:, None] * X]) for s in (1, -1) for D in masks]
    fit = sp.csc_matrix(-np.hstack(blocks))
    inside = sp.block_diag(
        [-np.hstack([np.zeros((n, 1)), np.where(D, 1.0, -1.0)[:, None] * X]) for _ in (1, -1) for D in masks],
        format="csc",
    )
    total = 2 * P * (d + 1)
    A = sp.vstack([fit, inside, -sp.eye(total)], format="csc")
    b = np.concatenate([-np.ones(n), np.zeros(2 * P * n + total)])
    cost = np.tile(np.concatenate([[1.0], np.zeros(d)]), 2 * P)
    cones = [clarabel.NonnegativeConeT(n + 2 * P * n), *[clarabel.SecondOrderConeT(d + 1)] * (2 * P)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    start = time.perf_counter()
    solution = clarabel.DefaultSolver(sp.csc_matrix((total, total)), cost, A, b, cones, settings).solve()
    return solution.obj_val, np.asarray(solution.z)[:n], time.perf_counter() - start


def proved_gap(problem: gflow.Problem, known: gflow.Faces, primal: float, alpha: np.ndarray) -> float:
    """1 - (proved dual value of alpha)/primal."""
    from gflow.convex.oracle import dual_maximum

    p = np.maximum(alpha, 0) / np.maximum(alpha, 0).sum()
    return 1 - 1 / float(dual_maximum(problem.X, p * problem.y, known).upper) / primal


def timed(call, repeats: int = 3):
    """(result, least seconds after a first call, seconds of the first call)."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return result, min(times[1:]), times[0]


def agree(report: Report) -> None:
    targets = {(20, 2): 1, (40, 3): 5, (100, 3): 30}
    for n, d in FIVE:
        problem = random_labels(n, d, 0)
        (known, faces_s, _), masks = timed(lambda p=problem: gflow.faces(p.X)), gflow.arrangement(problem.X).masks
        solved, own, first = timed(lambda p=problem, k=known: gflow.solve_max_margin(p, k))
        optimum, alpha, peer = clarabel_optimum(problem, masks)
        report.line(
            f"max-margin, gaussian ({n},{d}), random labels, {len(masks)} masks",
            target={"gap": 1e-9, "times_faster": targets.get((n, d))},
            measured={
                "primal": solved.primal,
                "gap": solved.gap,
                "clarabel": optimum,
                "relative_difference": abs(optimum / solved.primal - 1),
                "clarabel_proved_gap": proved_gap(problem, known, solved.primal, alpha),
                "faces_s": faces_s,
                "own_s": own,
                "first_call_s": first,
                "clarabel_s": peer,
                "times_faster": peer / own,
            },
            result=gflow.result_name(solved.result),
        )


def batch(report: Report) -> None:
    """64 programs of one shape: one after the other, as Clarabel solves them."""
    for n, d in ((20, 2), (20, 3)):
        problems = [random_labels(n, d, seed) for seed in range(64)]
        known = [gflow.faces(p.X) for p in problems]
        masks = [gflow.arrangement(p.X).masks for p in problems]
        solve = lambda: [gflow.solve_max_margin(p, k) for p, k in zip(problems, known, strict=True)]  # noqa: B023, E731
        solved, own, _ = timed(solve, 2)
        peer = sum(clarabel_optimum(p, m)[2] for p, m in zip(problems, masks, strict=True))
        report.line(
            f"batch of 64, gaussian ({n},{d})",
            target={"times_faster": 5},
            measured={
                "own_s": own, "clarabel_s": peer, "times_faster": peer / own, "worst_gap": max(s.gap for s in solved),
            },
        )  # fmt: skip


def structured(seed: int):
    """Small data sets that are in anything but general position."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6, 3))
    yield "integer grid", rng.integers(-2, 3, (8, 3)).astype(float)
    yield "duplicates", np.vstack([X, X[:3]])
    yield "antipodal", np.vstack([X, -X[:3]])
    yield "collinear", np.vstack([X, [[2.0], [-0.5], [3.0]] * X[:3]])
    yield "flat", rng.standard_normal((8, 2)) @ rng.standard_normal((2, 4))


def seeds(report: Report) -> None:
    for n, d in ((20, 2), (20, 3)):
        gaps, results, slow = [], {}, []
        for seed in range(1000, 1256):
            problem = random_labels(n, d, seed)
            start = time.perf_counter()
            solved = gflow.solve_max_margin(problem)
            slow.append(time.perf_counter() - start)
            name = gflow.result_name(solved.result)
            results[name] = results.get(name, 0) + 1
            gaps.append(solved.gap)
        report.line(
            f"256 fresh seeds of gaussian ({n},{d}), random labels",
            target={"gap": 1e-9},
            measured={
                "worst_gap": max(gaps), "median_gap": float(np.median(gaps)),
                "above_target": sum(g > 1e-9 for g in gaps), "median_s": float(np.median(slow)), "slowest_s": max(slow),
            },
            results=results,
        )  # fmt: skip
    gaps, results = [], {}
    for seed in range(20):
        for kind, X in structured(seed):
            y = np.random.default_rng(seed).choice([-1.0, 1.0], len(X))
            solved = gflow.solve_max_margin(gflow.Problem(X, y))
            name = gflow.result_name(solved.result)
            results[f"{kind}: {name}"] = results.get(f"{kind}: {name}", 0) + 1
            if np.isfinite(solved.primal):
                gaps.append(solved.gap)
    report.line(
        "100 data sets that are not in general position",
        target={"gap": 1e-9},
        measured={"worst_gap": max(gaps), "above_target": sum(g > 1e-9 for g in gaps), "feasible": len(gaps)},
        results=results,
    )


def large(report: Report) -> None:
    for n, d, seconds, gap in ((60, 4, 10, 1e-8), (200, 2, 3, 1e-8), (500, 2, 60, 1e-8)):
        problem = random_labels(n, d, 0)
        start = time.perf_counter()
        known = gflow.faces(problem.X)
        middle = time.perf_counter()
        solved = gflow.solve_max_margin(problem, known)
        first = time.perf_counter()
        solved = gflow.solve_max_margin(problem, known)
        report.line(
            f"large program, gaussian ({n},{d}), random labels",
            target={"gap": gap, "seconds": seconds},
            measured={
                "primal": solved.primal, "gap": solved.gap, "faces": len(known), "faces_s": middle - start,
                "first_call_s": first - middle, "seconds": time.perf_counter() - first, "rounds": solved.rounds,
            },
            result=gflow.result_name(solved.result),
        )  # fmt: skip


def dimensions(report: Report, only: str = "") -> None:
    sets = (
        ("orthogonally separable (50,30)", datasets.orthogonal_separable(n=50, d=30, seed=0), 1 + 1e-6),
        ("orthogonally separable (200,50)", datasets.orthogonal_separable(n=200, d=50, seed=0), 1 + 1e-6),
        ("gaussian (30,60)", datasets.gaussian(n=30, d=60, seed=0), 1.05),
        ("gaussian (40,20)", datasets.gaussian(n=40, d=20, seed=0), 1.2),
    )
    for name, data, target in sets:
        if only not in name:
            continue
        problem = gflow.Problem(data.X, data.y)
        network = gflow.Gaussian(1e-3)(gflow.key_of(0, 0), problem, 50)
        start = time.perf_counter()
        flow = gflow.solve_flow(problem, network, saves=1)
        middle = time.perf_counter()
        limit = gflow.find_limit(problem, flow)
        found = time.perf_counter()
        certificate = gflow.certify(problem, limit)
        report.line(
            f"any dimension, {name}",
            target={"ratio": target, "seconds": 20},
            measured={
                "verdict": certificate.verdict.name, "objective": limit.objective, "lower": certificate.lower_bound,
                "ratio": limit.objective / certificate.lower_bound, "exact_limit": limit.polished,
                "flow_s": middle - start, "limit_s": found - middle, "certificate_s": time.perf_counter() - found,
            },
        )  # fmt: skip


def limits(report: Report, inits: int = 1000) -> None:
    data = datasets.gaussian(n=10, d=5, seed=0)
    problem = gflow.Problem(data.X, data.y)
    start = time.perf_counter()
    rows = gflow.Records.joined(gflow.sweep(problem, gflow.Gaussian(1e-3), 50, inits)).columns()
    column = rows.__getitem__
    from gflow.records import distinct_limits

    residual, fitted = column("kkt_residual"), np.isfinite(column("objective"))
    report.line(
        f"{inits} flows on gaussian (10,5), m = 50: limits",
        target={"kkt_residual": 1e-8},
        measured={
            "above_target": int(np.sum(~(residual <= 1e-8))), "worst": float(np.nanmax(residual)),
            # a flow that ends without fitting has no max-margin limit
            "fitted": int(fitted.sum()), "fitted_above_target": int(np.sum(~(residual[fitted] <= 1e-8))),
            "fitted_worst": float(residual[fitted].max()),
            "limits": distinct_limits(column("objective"), column("certificate"), column("verdict"))[:8],
            "flows_per_second": inits / (time.perf_counter() - start),
        },
    )  # fmt: skip


def clarabel_squared(problem: gflow.Problem, masks: np.ndarray, beta: float):
    """(solution, seconds of the solver) of the penalised program with the squared loss over `masks` (P, n)."""
    import clarabel
    import scipy.sparse as sp

    X, y = np.asarray(problem.X), np.asarray(problem.y)
    (n, d), P = X.shape, len(masks)
    # variables: t and v in R^d for every sign and mask, then residuals r = f - y
    fit = sp.csc_matrix(np.hstack([np.hstack([np.zeros((n, 1)), s * D[:, None] * X]) for s in (1, -1) for D in masks]))
    inside = sp.block_diag(
        [-np.hstack([np.zeros((n, 1)), np.where(D, 1.0, -1.0)[:, None] * X]) for _ in (1, -1) for D in masks]
    )
    total = 2 * P * (d + 1)
    A = sp.bmat([[fit, -sp.eye(n)], [inside, None], [-sp.eye(total), None]], format="csc")
    b = np.concatenate([y, np.zeros(2 * P * n + total)])
    cost = np.concatenate([np.tile(np.concatenate([[beta], np.zeros(d)]), 2 * P), np.zeros(n)])
    square = sp.block_diag([sp.csc_matrix((total, total)), sp.eye(n)], format="csc")
    cones = [clarabel.ZeroConeT(n), clarabel.NonnegativeConeT(2 * P * n), *[clarabel.SecondOrderConeT(d + 1)] * (2 * P)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    start = time.perf_counter()
    solution = clarabel.DefaultSolver(sp.triu(square, format="csc"), cost, A, b, cones, settings).solve()
    return solution, time.perf_counter() - start


def decay(report: Report) -> None:
    """Weight decay: n = 500, d = 20, the masks of 100 directions and their complements."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((500, 20)), rng.choice([-1.0, 1.0], 500)
    problem = gflow.Problem(X, y, loss=gflow.Squared())
    known = gflow.faces(X, samples=100, sampled=True)
    for beta in (10.0, 1.0, 0.1):
        solved, own, first = timed(lambda b=beta: gflow.solve_penalized(problem, b, known, rtol=1e-6), 2)
        peer, peer_s = clarabel_squared(problem, known.masks, beta)
        report.line(
            f"weight decay {beta:g}, squared loss, n = 500, d = 20, {known.cells} sampled masks",
            target={"gap": 1e-6, "times_faster": 10},
            measured={
                "primal": solved.primal, "gap": solved.gap, "own_s": own, "first_call_s": first, "clarabel_s": peer_s,
                "clarabel_primal": peer.obj_val, "clarabel_gap": 1 - peer.obj_val_dual / peer.obj_val,
                "clarabel_status": str(peer.status), "times_faster": peer_s / own,
            },
        )  # fmt: skip


def random_decay(report: Report, count: int = 120) -> None:
    """Small programs with weight decay, three losses, integer grids among them: gaps over all faces."""
    rng, gaps, losses = np.random.default_rng(5), [], (gflow.Squared(), gflow.Logistic(), gflow.Exponential())
    for i in range(count):
        n, d = ((10, 2), (12, 3), (20, 2), (8, 5))[i % 4]
        X = rng.standard_normal((n, d)) if i % 3 else rng.integers(-2, 3, (n, d)).astype(float)
        y = rng.standard_normal(n) if i % 3 == 0 else rng.choice([-1.0, 1.0], n)
        solved = gflow.solve_penalized(gflow.Problem(X, y, loss=losses[i % 3]), 10 ** rng.uniform(-3, 0.5))
        gaps.append(solved.gap)
    report.line(
        f"weight decay, {count} random programs, beta from 1e-3 to 3",
        target={"gap": 1e-9},
        measured={
            "share_below_target": float(np.mean(np.array(gaps) <= 1e-9)), "median": float(np.median(gaps)),
            "largest": sorted(gaps)[-5:],
        },
    )  # fmt: skip


def sampled(report: Report) -> None:
    """gaussian (60,5) over 500 sampled masks: the program with a cone per mask, as Clarabel gets it."""
    from gflow.convex import subsampled
    from gflow.convex.arrangements import sampled_masks
    from gflow.convex.newton import Patterns

    problem = random_labels(60, 5, 0)
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    masks = sampled_masks(X, 250, 0)[:500]
    both, sign = np.concatenate([masks, masks]).T, np.repeat([1.0, -1.0], len(masks))
    patterns = Patterns(sign, both, np.zeros_like(both))
    solved, own, first = timed(lambda: subsampled.solve_subsampled(X, y, patterns), 1)
    assert solved is not None
    primal = float(np.linalg.norm(solved.V, axis=0).sum())
    outputs = sum(
        s * D * (X @ v) for s, D, v in zip(solved.patterns.sign, both[:, solved.cones].T, solved.V.T, strict=True)
    )
    optimum, alpha, peer = clarabel_optimum(problem, masks)

    def gap(alpha):  # |projection onto a cone| bounds its maximum, whatever non-negative multipliers are found
        return 1 - alpha.sum() / subsampled._price(X, y, patterns, alpha, []).max() / (primal / (y * outputs).min())

    report.line(
        f"max-margin, gaussian (60,5), random labels, {len(masks)} sampled masks", target={"gap": 1e-9},
        measured={
            "primal": primal, "gap": gap(solved.alpha), "clarabel": optimum,
            "relative_difference": abs(optimum / primal - 1), "clarabel_proved_gap": gap(np.maximum(alpha, 0)),
            "own_s": own, "first_call_s": first, "clarabel_s": peer, "times_faster": peer / own,
        },
    )  # fmt: skip


PARTS = {
    "agree": agree, "batch": batch, "seeds": seeds, "large": large, "dimensions": dimensions, "limits": limits,
    "decay": decay, "random_decay": random_decay, "sampled": sampled,
}  # fmt: skip

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(PARTS)
    report = Report("bench_convex", keep=True)
    for part in chosen:
        PARTS[part](report)
