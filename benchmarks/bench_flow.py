"""The inclusion: accuracy, steps and cost, `python benchmarks/bench_flow.py [PART ...]` (ten minutes on 2 cores).

Parts: precision (against the event-driven reference of tests/), steps (against plain Tsit5), cost (of a step in a
batch), dense (many kinks), xor (the exact law of case B), tolerance (same limits at 1e-3 and 1e-8).
"""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
jax.config.update("jax_enable_x64", True)

import cases
from harness import Report, seconds
from reference import Reference

import gflow
from gflow import datasets


def tolerance(rtol: float) -> diffrax.PIDController:
    return diffrax.PIDController(rtol=rtol, atol=rtol)


def problem_of(data) -> gflow.Problem:
    return gflow.Problem(data.X, data.y)


def first(problem, width, index=0, scale=1e-2):
    return gflow.Gaussian(scale)(gflow.key_of(0, index), problem, width)


def precision(report: Report) -> None:
    """Relative error of the weights at fixed s against the tolerance."""
    for n, d, until in ((10, 5, 16.0), (20, 2, 10.0), (40, 3, 10.0)):
        problem = problem_of(datasets.gaussian(n=n, d=d))
        network = first(problem, 20)
        exact = Reference(problem.X, problem.y, network.W1, network.w2)
        W1, w2 = exact.run(until)
        size = np.sqrt(np.sum(W1**2) + np.sum(w2**2))
        errors, steps, rtols = [], [], [10.0**-k for k in range(3, 10)]
        for rtol in rtols:
            flow = gflow.solve_flow(problem, network, until_s=until, saves=1, controller=tolerance(rtol))
            off = np.sqrt(np.sum((flow.final.W1 - W1) ** 2) + np.sum((flow.final.w2 - w2) ** 2)) / size
            errors.append(float(off))
            steps.append(int(flow.steps))
        rates = np.polyfit(np.log(rtols), np.log(errors), 1)[0]
        order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
        report.line(
            f"error at s = {until:g}, gaussian ({n},{d}), m = 20, through {len(exact.events)} events",
            target="error ~ rtol, as order >= 4 would", measured={"error ~ rtol^": rates, "error ~ steps^-": order},
            met=bool(rates >= 0.8 and order >= 4), rtol=rtols, error=errors, steps=steps,
        )  # fmt: skip


def steps(report: Report) -> None:
    """Attempted steps to s = 20 (m = 50) against digits of the normalised margin, and against plain Tsit5."""
    for name, data in (
        ("gaussian (10,5)", datasets.gaussian(n=10, d=5)),
        ("orthogonally separable (20,2)", datasets.orthogonal_separable(n=20, d=2)),
        ("gaussian (20,2)", datasets.gaussian(n=20, d=2)),
    ):
        problem = problem_of(data)
        network = first(problem, 50)
        run = functools.partial(gflow.solve_flow, problem, network, until_s=20.0, saves=1)
        exact = float(problem.normalised_margin(run(controller=tolerance(1e-11)).final))
        table = {}
        for rtol in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-7):
            flow = run(controller=tolerance(rtol))
            error = abs(float(problem.normalised_margin(flow.final)) / exact - 1)
            table[rtol] = {"steps": int(flow.steps), "rejected": int(flow.rejected), "margin_error": error}
        for digits, target in ((4, 450), (5, 700)) if name == "gaussian (10,5)" else ():
            enough = min((v["steps"] for v in table.values() if v["margin_error"] <= 10.0**-digits), default=math.inf)
            claim = f"attempted steps at {digits}-digit margin agreement, {name}"
            report.line(claim, target=f"<= {target}", measured=enough, met=bool(enough <= target), table=table)
        plain = run(solver=diffrax.Tsit5(), controller=tolerance(1e-5), max_steps=200_000)
        own = table[1e-5]["steps"]
        plain_error = abs(float(problem.normalised_margin(plain.final)) / exact - 1)
        alike = min((v["steps"] for v in table.values() if v["margin_error"] <= plain_error), default=None)
        ratio = int(plain.steps) / own
        target, met = (">= 50", ratio >= 50) if name == "gaussian (10,5)" else (">= 1/1.5", ratio >= 1 / 1.5)
        report.line(
            f"attempted steps of plain Tsit5 over Filippov's at rtol 1e-5, {name}", target=target, measured=ratio,
            met=bool(met), plain=int(plain.steps), own=own, plain_ended=gflow.result_name(plain.result),
            plain_margin_error=plain_error, own_steps_at_that_error=alike,
        )  # fmt: skip


def batch(problem, size: int, until: float, scale=1e-2, width=50, **options):
    """A jitted batch of flows from `scale`; its result is (steps, margins)."""

    @eqx.filter_jit
    def run(problem, indices):
        def lane(i):
            network = first(problem, width, i, scale)
            flow = gflow.solve_flow(
                problem, network, until_s=until, saves=1, chart=gflow.BalancedPolar, **options
            )  # fmt: skip
            return flow.steps, flow.margins[-1]

        return jax.vmap(lane)(indices)

    return lambda: run(problem, jnp.arange(size))


def cost(report: Report, lanes: int = 1024) -> None:
    """One attempted step per lane in a batch, against a plain Tsit5 step; and a whole batch against plain Tsit5."""
    for name, data in (
        ("orthogonally separable (20,2)", datasets.orthogonal_separable(n=20, d=2)),
        ("gaussian (10,5)", datasets.gaussian(n=10, d=5)),
    ):
        problem = problem_of(data)
        per_step = {}
        for solver in (gflow.Filippov(diffrax.Tsit5()), diffrax.Tsit5()):
            # every lane makes exactly this many steps, so none waits for another
            call = batch(problem, lanes, 1e9, solver=solver, controller=tolerance(1e-5), max_steps=30)
            assert int(jnp.min(call()[0])) == 30
            times = seconds(call)
            per_step[type(solver).__name__] = times | {"us_per_lane_step": times["median_s"] / (30 * lanes) * 1e6}
        ratio = per_step["Filippov"]["median_s"] / per_step["Tsit5"]["median_s"]
        report.line(
            f"step of Filippov over a plain Tsit5 step, batch of {lanes}, {name}", target="<= 2", measured=ratio,
            met=bool(ratio <= 2), **per_step,
        )  # fmt: skip
    lanes = 16
    own = seconds(batch(problem, lanes, 20.0, controller=tolerance(1e-5)), 3)
    plain_call = batch(problem, lanes, 20.0, solver=diffrax.Tsit5(), controller=tolerance(1e-5), max_steps=200_000)
    plain = seconds(plain_call, 1)
    ratio = plain["median_s"] / own["median_s"]
    report.line(
        f"wall time of plain Tsit5 over Filippov's, batch of {lanes}, gaussian (10,5), s to 20, rtol 1e-5",
        target=">= 30", measured=ratio, met=bool(ratio >= 30), own=own, plain=plain,
    )  # fmt: skip


def dense(report: Report) -> None:
    """n = 200, d = 10, m = 200: 40,000 pairs. To q_min = 100 by a teacher's labels, which such a network can fit."""
    table = {}
    for n, m in ((50, 100), (100, 100), (200, 200)):
        problem = problem_of(datasets.teacher(n=n, d=10, k=3))
        flow = gflow.solve_flow(
            problem,
            first(problem, m),
            saves=1,
            stop=(gflow.MarginTarget(100.0), gflow.Unfitted()),
            controller=tolerance(1e-3),
        )
        table[f"n={n}, m={m}"] = {
            "steps": int(flow.steps), "q_min": float(flow.margins[-1].min()), "ended": gflow.result_name(flow.result)
        }  # fmt: skip
    small, large = (table[k]["steps"] for k in ("n=50, m=100", "n=200, m=200"))
    reached = all(v["ended"] == "margin_reached" for v in table.values())
    report.line(
        "dense kinks: steps at n m = 40,000 over steps at n m = 5,000", target="well below 8, all at q_min 100",
        measured=large / small, met=bool(reached and large / small <= 4), table=table,
    )  # fmt: skip


def fitted_probability(m: int) -> float:
    return 1 - 4 * 0.75**m + 6 * 0.5**m - 4 * 0.25**m


def xor(report: Report, inits: int = 4096) -> None:
    """Case B: the fitted fraction, and the outcome predicted from the first weights."""
    problem = gflow.Problem(cases.B_X, cases.B_y)
    for m in (4, 8, 12):
        networks = jax.vmap(lambda i, m=m: first(problem, m, i, 1e-3))(jnp.arange(inits))
        own = jnp.where(networks.w2 > 0, networks.W1[:, 0], networks.W1[:, 1])
        types = 2 * (networks.w2 > 0) + (own > 0)
        predicted = np.all([np.any(np.asarray(types) == k, axis=1) for k in range(4)], axis=0)
        run = eqx.filter_jit(
            lambda net: jax.vmap(
                lambda n: gflow.solve_flow(problem, n, saves=1, chart=gflow.BalancedPolar, max_steps=20_000)
            )(net)
        )
        fitted, limits = [], []
        for start in range(0, inits, 512):
            flows = run(jax.tree.map(lambda a, s=start: a[s : s + 512], networks))
            fitted.append(np.asarray(flows.margins[:, -1].min(axis=-1) > 0))
            limits.append(np.asarray(flows.result._value))
        fitted = np.concatenate(fitted)
        p = fitted_probability(m)
        deviation = (fitted.mean() - p) / math.sqrt(p * (1 - p) / inits)
        right = int(np.sum(fitted == predicted))
        codes, counts = np.unique(np.concatenate(limits), return_counts=True)
        report.line(
            f"XOR, m = {m}: fitted fraction of {inits} initialisations",
            target="within 3 standard deviations, all predicted",
            measured={"fraction": float(fitted.mean()), "law": p, "deviations": float(deviation), "predicted": right},
            met=bool(abs(deviation) <= 3 and right == inits),
            results={gflow.result_name(c): int(k) for c, k in zip(codes, counts, strict=True)},
        )  # fmt: skip


def same_limits(report: Report, inits: int = 1000) -> None:
    """gaussian (10,5), m = 50, scale 1e-3: limits of flows at rtol 1e-3 and at 1e-8."""
    problem = problem_of(datasets.gaussian(n=10, d=5))
    objective = {}
    for rtol in (1e-3, 1e-8):
        blocks = gflow.sweep(
            problem,
            gflow.Gaussian(1e-3),
            50,
            inits,
            controller=tolerance(rtol),
            stop=(gflow.MarginTarget(), gflow.Unfitted()),
        )
        objective[rtol] = np.concatenate([np.where(b.polished, b.objective, np.inf) for b in blocks])
    a, b = objective.values()
    equal = (a == b) | (np.abs(a - b) <= 1e-6 * np.minimum(a, b))
    report.line(
        f"same limit at rtol 1e-3 and 1e-8, {inits} initialisations of gaussian (10,5)", target=">= 99 %",
        measured=float(equal.mean()), met=bool(equal.mean() >= 0.99), others=np.flatnonzero(~equal).tolist(),
        both_known=int(np.sum(np.isfinite(a) & np.isfinite(b))),
    )  # fmt: skip


PARTS = {"precision": precision, "steps": steps, "cost": cost, "dense": dense, "xor": xor, "tolerance": same_limits}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(PARTS)
    report = Report("bench_flow", keep=bool(sys.argv[1:]))
    for part in chosen:
        PARTS[part](report)
