"""Other models than max-margin: `python benchmarks/bench_models.py [PART ...]`.

Parts: case_d (squared loss, closed form), cvxpy (penalised optima against CVXPY on 100 random problems), least_norm
(gaps of the least-norm program), optimizers (flow, SGD, momentum, normalised SGD and Adam on one data set), speed
(`descend` against a hand-written optax loop), vector (K outputs: one output against the scalar code, orthogonally
separable classes), decay_path (optima as it goes to 0), real (flow and Adam on real data, two and three classes).
"""

import sys
import time

import jax
import numpy as np
from harness import Report

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import optax

import gflow
from gflow import datasets


def case_d(report: Report) -> None:
    """Two orthogonal samples: the flow ends at the interpolating network of least norm."""
    problem = gflow.Problem([[-0.5, 1.0], [2.0, 1.0]], [-1.0, 1.0], loss=gflow.Squared())
    network = gflow.Gaussian(1e-30)(jax.random.key(0), problem, 20)
    tight = gflow.PIController(1e-8)
    limit = gflow.find_limit(problem, gflow.solve_flow(problem, network, saves=1, controller=tight))
    v, sign = np.asarray(limit.network.W1 * jnp.abs(limit.network.w2)), np.sign(limit.network.w2)
    off = max(np.abs(v[:, sign > 0].sum(1) - [0.4, 0.2]).max(), np.abs(v[:, sign < 0].sum(1) - [-0.4, 0.8]).max())
    norm = 1 / np.sqrt(5) + 1 / np.sqrt(1.25)
    report.line(
        "case D: both groups and 1/2 |theta|^2 against the closed form", target={"off": 1e-8},
        measured={"off": float(off), "norm_off": abs(limit.objective - norm)},
        verdict=gflow.certify(problem, limit).verdict.name,
    )  # fmt: skip


def cvxpy(report: Report, count: int = 100) -> None:
    """Squared and logistic loss, beta from 0.01 to 3."""
    import cvxpy as cp

    rng, worst, late = np.random.default_rng(11), 0.0, []
    for i in range(count):
        n, d = ((6, 2), (8, 2), (7, 3))[i % 3]
        X, beta = rng.standard_normal((n, d)), 10 ** rng.uniform(-2, 0.5)
        squared = i % 2 == 0
        y = rng.standard_normal(n) if squared else rng.choice([-1.0, 1.0], n)
        problem = gflow.Problem(X, y, loss=gflow.Squared() if squared else gflow.Logistic())
        solved = gflow.solve_penalized(problem, beta)
        f, length, inside = 0, 0, []
        for s in (1, -1):
            for D in gflow.arrangement(X).masks:
                v = cp.Variable(d)
                f, length = f + s * cp.multiply(D, X @ v), length + cp.norm(v)
                inside.append(cp.multiply(np.where(D, 1.0, -1.0), X @ v) >= 0)
        loss = 0.5 * cp.sum_squares(f - y) if squared else cp.sum(cp.logistic(-cp.multiply(y, f)))
        tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
        expected = cp.Problem(cp.Minimize(loss + beta * length), inside).solve(solver="CLARABEL", **tight)
        off = abs(solved.primal / expected - 1)
        worst = max(worst, off)
        if off > 1e-7:
            late.append({"i": i, "off": off, "gap": solved.gap})
    report.line(
        f"penalised optimum against CVXPY on {count} random problems, relative", target="<= 1e-7", measured=worst,
        met=bool(worst <= 1e-7), beyond=late,
    )  # fmt: skip


def least_norm(report: Report) -> None:
    gaps, infeasible = [], 0
    for n, d in ((10, 2), (20, 2), (20, 3), (40, 3), (15, 4)):
        for seed in range(20):
            rng = np.random.default_rng([n, d, seed])
            X, y = rng.standard_normal((n, d)), rng.standard_normal(n)
            if seed % 4 == 3:
                X, y = np.round(X), np.round(y)
            solved = gflow.solve_min_norm(gflow.Problem(X, y, loss=gflow.Squared()))
            infeasible += gflow.result_name(solved.result) == "infeasible"
            if solved.network is not None:
                gaps.append(solved.gap)
    report.line(
        "least norm: gaps over all faces of 100 sets, a quarter of them on integer grids", target="<= 1e-9",
        measured=max(gaps), met=bool(max(gaps) <= 1e-9), solved=len(gaps), infeasible=int(infeasible),
        median=float(np.median(gaps)),
    )  # fmt: skip


RULES = {
    "SGD": (optax.sgd(0.1), {}, 1_000_000), "SGD, batches of 4": (optax.sgd(0.1), {"batch": 4}, 1_000_000),
    "momentum": (optax.sgd(0.1, momentum=0.9), {}, 200_000),
    "normalised SGD": (optax.sgd(0.01), {"normalised": True}, 20_000), "Adam": (optax.adam(1e-3), {}, 200_000),
}  # fmt: skip


def optimizers(report: Report, inits: int = 8) -> None:
    """The same first weights: margin, c and verdict of where each ends."""
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    known = gflow.faces(problem.X)
    optimum = gflow.solve_max_margin(problem, known)
    networks = [gflow.Gaussian(1e-2)(gflow.key_of(0, i), problem, 50) for i in range(inits)]
    coarse = gflow.PIController(1e-3)
    flow = jax.jit(
        lambda net: gflow.solve_flow(problem, net, saves=1, chart=gflow.BalancedPolar, controller=coarse).final
    )
    table = {"flow": [_ended(problem, flow(net), known, optimum) for net in networks]}
    for name, (rule, options, steps) in RULES.items():
        run = jax.jit(
            lambda net, r=rule, o=options, s=steps: gflow.descend(problem, net, r, s, key=jax.random.key(1), **o)
        )
        table[name] = [_ended(problem, run(net).final, known, optimum) for net in networks]
    rows = {}
    for name, ends in table.items():
        fitted = [e for e in ends if np.isfinite(e["P"])]
        pick = lambda key, fitted=fitted: float(np.median([e[key] for e in fitted])) if fitted else None  # noqa: E731
        rows[name] = {
            "fitted": len(fitted), "P_over_optimum": pick("P") and pick("P") / optimum.primal, "c": pick("c"),
            "kkt_residual": pick("residual"), "q_min": pick("q_min"), "exact_limits": sum(e["polished"] for e in ends),
            "P_of_exact_over_optimum": sorted({round(e["exact"] / optimum.primal, 6) for e in ends if e["polished"]}),
        }  # fmt: skip
    report.line(
        f"where flow and optimisers end, gaussian (10,5), m = 50, {inits} first weights of scale 1e-2, medians",
        target="none", measured=rows,
    )  # fmt: skip


def _ended(problem, network, known, optimum) -> dict:
    own = gflow.limit_of_network(problem, network, polish=False)
    limit = gflow.limit_of_network(problem, network)
    proof = gflow.certify(problem, network, known_faces=known, optimum=optimum)
    return {
        "P": proof.objective, "c": proof.c, "residual": own.kkt_residual, "polished": limit.polished,
        "exact": limit.objective, "q_min": float(jnp.min(problem.margins(network))),
    }  # fmt: skip


def vector(report: Report, seeds: int = 20) -> None:
    """Orthogonally separable classes: every flow GLOBAL; exactness of P* on gaussian data with K = 3."""
    verdicts, worst = [], 0.0
    for seed in range(seeds):
        data = datasets.orthogonal_classes(n=12, d=4, k=3, seed=seed)
        problem, known = gflow.Problem(data.X, data.y), gflow.faces(data.X)
        network = gflow.Gaussian(1e-3)(gflow.key_of(0, seed), problem, 20)
        limit = gflow.find_limit(problem, gflow.solve_flow(problem, network, saves=1))
        proof = gflow.certify(problem, limit, known_faces=known)
        # where every neuron of a class has died nothing fits
        verdicts.append(proof.verdict.name if limit.fitted else "unfitted")
        worst = max(worst, proof.c - 1 if limit.fitted else 0.0)
    report.line(
        "orthogonally separable classes, K = 3, fresh draws with a live neuron per class: GLOBAL", target="all",
        measured=f"{verdicts.count('GLOBAL')} of {seeds - verdicts.count('unfitted')}",
        unfitted=verdicts.count("unfitted"), worst_c_minus_1=worst,
    )  # fmt: skip
    gaps, polished, times = [], 0, []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        X, Y = rng.standard_normal((10, 3)), datasets.one_vs_rest(np.append(np.arange(3), rng.integers(0, 3, 7)))
        problem, known = gflow.Problem(X, Y), gflow.faces(X)
        start = time.perf_counter()
        gaps.append(gflow.solve_vector_max_margin(problem, known).gap)
        times.append(time.perf_counter() - start)
        network = gflow.Gaussian(1e-3)(gflow.key_of(0, seed), problem, 40)
        polished += gflow.find_limit(problem, gflow.solve_flow(problem, network, saves=1)).polished
    report.line(
        "P* of gaussian (10,3), K = 3: gap over all faces", target=1e-9, measured=float(np.max(gaps)),
        solved=int(np.sum(np.array(gaps) <= 1e-9)), of=seeds, median_s=float(np.median(times)),
        flows_with_exact_limits=int(polished),
    )  # fmt: skip


def decay_path(report: Report) -> None:
    """Penalised optima as the weight decay goes to 0: their normalised margin against the largest one.

    `python docs/figures.py decay_path` draws it.
    """
    sets = {"orthogonally separable (20,2)": datasets.orthogonal_separable(), "gaussian (10,5)": datasets.gaussian()}
    for name, data in sets.items():
        problem, known = gflow.Problem(data.X, data.y), gflow.faces(data.X)
        best = gflow.solve_max_margin(problem, known)
        solved = [gflow.solve_penalized(problem, float(beta), known) for beta in 10.0 ** -np.arange(0, 13)]
        margins = [float(problem.normalised_margin(s.network)) for s in solved]
        distance = 1 - np.array(margins) * 2 * best.primal
        report.line(
            f"path beta -> 0, logistic loss, {name}: 1 - margin / largest margin at 1e-2, 1e-6, 1e-12", target=None,
            measured=distance[[2, 6, 12]].tolist(), gaps=[float(s.gap) for s in solved],
        )  # fmt: skip


def real(report: Report, steps: int = 20_000) -> None:
    """Flow and Adam (rate 1e-3) from the same first weights on real data, and what is proved about where they end."""
    sets = {
        "iris 0, 1": (datasets.iris(), True),
        "iris, 3 classes": (datasets.iris(0, 1, 2), True),
        "wine, 3 classes": (datasets.wine(0, 1, 2), True),
        "breast-cancer": (datasets.breast_cancer(), True),
        "digits 3, 5, 8": (datasets.digits(3, 5, 8), False),
    }
    for name, (data, standardize) in sets.items():
        X = data.X / 16
        if standardize:
            X = np.hstack([(data.X - data.X.mean(0)) / data.X.std(0), np.ones((len(data.X), 1))])
        problem, known = gflow.Problem(X, data.y), gflow.faces(X)
        network = gflow.Gaussian(1e-3)(gflow.key_of(0, 0), problem, 50)
        start = time.perf_counter()
        flow = gflow.solve_flow(problem, network, saves=1, controller=gflow.PIController(1e-3))
        limit = gflow.find_limit(problem, flow)
        _proved(
            report,
            f"{name}: flow",
            problem,
            limit,
            known,
            flow.margins[-1],
            start,
            result=gflow.result_name(flow.result),
        )
        start = time.perf_counter()
        trained = gflow.descend(problem, network, optax.adam(1e-3), steps)
        _proved(report, f"{name}: Adam, {steps} steps", problem, trained.final, known, trained.margins[-1], start)


def _proved(report: Report, name: str, problem, end, known, margins, start, **more) -> None:
    proof = gflow.certify(problem, end, known_faces=known)
    report.line(
        name, target=None, measured=proof.verdict.name, q_min=float(jnp.min(margins)), objective=proof.objective,
        lower_bound=proof.lower_bound, c=proof.c, complete=known.complete,
        better=None if proof.better is None else float(problem.objective(proof.better)),
        seconds=time.perf_counter() - start, **more,
    )  # fmt: skip


def speed(report: Report, lanes: int = 256, steps: int = 2000, repeats: int = 9) -> None:
    """A batch, as a user writes it: jax.grad of the loss, optax.sgd, fori_loop, vmap, jit."""
    data = datasets.gaussian(n=10, d=5)
    problem, rule = gflow.Problem(data.X, data.y), optax.sgd(0.1)

    def by_hand(network):
        def loss(net):
            return jnp.sum(jax.nn.softplus(-problem.y * (jnp.maximum(problem.X @ net.W1, 0) @ net.w2)))

        def step(_, carry):
            net, state = carry
            updates, state = rule.update(jax.grad(loss)(net), state)
            return optax.apply_updates(net, updates), state

        return jax.lax.fori_loop(0, steps, step, (network, rule.init(network)))[0]

    networks = jax.vmap(lambda i: gflow.Gaussian(0.1)(gflow.key_of(0, i), problem, 50))(jnp.arange(lanes))
    runs = {
        "hand": jax.jit(jax.vmap(by_hand)),
        "descend": jax.jit(jax.vmap(lambda net: gflow.descend(problem, net, rule, steps).final)),
    }
    ends = {name: jax.block_until_ready(run(networks)) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(networks))
            times[name].append(time.perf_counter() - begin)
    ratios = np.array(times["descend"]) / np.array(times["hand"])
    report.line(
        f"descend / hand-written optax loop, SGD, {lanes} lanes, {steps} steps", target="<= 1.1",
        measured=float(np.median(ratios)), met=bool(np.median(ratios) <= 1.1),
        spread=np.percentile(ratios, [0, 100]).tolist(),
        same_end=float(jnp.max(jnp.abs(ends["hand"].W1 - ends["descend"].W1))),
    )  # fmt: skip


PARTS = {
    "case_d": case_d, "cvxpy": cvxpy, "least_norm": least_norm, "optimizers": optimizers, "speed": speed,
    "vector": vector, "decay_path": decay_path, "real": real,
}  # fmt: skip

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(PARTS)
    report = Report("bench_models", keep=len(sys.argv) > 1)
    for part in chosen:
        PARTS[part](report)
        jax.clear_caches()  # compiled programs are mapped into memory, and Linux allows 65,530 maps
