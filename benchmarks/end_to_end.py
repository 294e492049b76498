"""Figures of the whole path, from data to certificate: `python benchmarks/end_to_end.py [PART ...]` (nine minutes on 2
cores); parts are named like their functions.

Every line holds claim, target, measured, met. The cases have exact answers (tests/cases.py).
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
jax.config.update("jax_enable_x64", True)

import cases
from harness import Report

import gflow
from gflow import datasets

A = gflow.Problem(cases.A_X, cases.A_y)


def first(problem, width=20):
    return gflow.Gaussian(1e-3)(gflow.key_of(0, 0), problem, width)


def at_most(report: Report, claim: str, target: float, measured: float, **more) -> None:
    report.line(claim, target=f"<= {target:g}", measured=measured, met=bool(measured <= target), **more)


def case_a(report: Report) -> None:
    for q in (1e6, 2e6):
        flow = gflow.solve_flow(
            A, first(A), stop=(gflow.MarginTarget(q),), solver=diffrax.Kvaerno5(),
            controller=diffrax.PIDController(rtol=1e-7, atol=1e-9), saves=1,
        )  # fmt: skip
        merged = gflow.limit_of_network(A, flow.final, polish=False).network
        heavy = np.asarray(merged.masses()) > 1e-6
        U, sign = np.asarray(merged.directions())[:, heavy], np.sign(merged.w2)[heavy]
        errors = [
            np.max(np.abs(U[:, sign == label][:, 0] - v / np.linalg.norm(v)))
            for label, v in ((1, cases.A_PLUS), (-1, cases.A_MINUS))
        ]
        certificate = gflow.certify(A, flow.final)
        name = f"case A by integration alone, q_min {q:g}: "
        at_most(report, name + "P* relative error", 1e-6, abs(certificate.objective / cases.A_OPTIMUM - 1))
        at_most(report, name + "directions", 1e-6, float(max(errors)))
        at_most(report, name + "c - 1", 1e-6, float(certificate.c - 1), verdict=certificate.verdict.name)
    limit = gflow.find_limit(A, gflow.solve_flow(A, first(A)))
    at_most(report, "case A, limit solved for: P* relative error", 1e-10, abs(limit.objective / cases.A_OPTIMUM - 1))


def case_c(report: Report) -> None:
    from scipy.optimize import brentq
    from scipy.special import expi

    p = brentq(lambda p: expi(p) - expi(cases.C_P0) - 2 * cases.C_T, 1.0, 50.0, xtol=1e-14, rtol=1e-14)
    problem = gflow.Problem(np.ones((1, 1)), [1], loss=gflow.Exponential())
    root = jnp.sqrt(jnp.asarray(cases.C_P0))
    for clock in (gflow.ScaledClock(), gflow.PhysicalClock()):
        flow = gflow.solve_flow(
            problem, gflow.TwoLayer(root[None, None], root[None]), until_t=cases.C_T, clock=clock,
            solver=diffrax.Dopri8(), controller=gflow.PIController(1e-11),
        )  # fmt: skip
        at_most(report, f"case C on {type(clock).__name__}", 1e-8, abs(float(flow.margins[-1, 0]) / p - 1))


def laws(report: Report) -> None:
    flow = gflow.solve_flow(A, first(A), stop=(gflow.MarginTarget(),))
    q = np.asarray(flow.margins).min(axis=1)
    slope = np.polyfit(np.asarray(flow.s)[q > 100], np.log(q[q > 100]), 1)[0]
    law = "clock law: slope of log q against s over 4 margin, - 1"
    at_most(report, law, 1e-2, abs(slope * 2 * cases.A_OPTIMUM / 4 - 1))
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    balanced = first(problem, 50)
    unbalanced = gflow.TwoLayer(balanced.W1, balanced.w2 * jnp.where(jnp.arange(50) % 2 == 0, 3.0, 0.3))
    for name, network in (("balanced", balanced), ("unbalanced", unbalanced)):
        flow = gflow.solve_flow(problem, network, until_s=20.0)
        at_most(report, f"balance drift, gaussian (10,5), {name} start", 1e-9, float(flow.balance_drift))
        rise = np.max(np.diff(flow.loss) / np.asarray(flow.loss)[:-1])
        at_most(report, f"largest relative rise of the loss, {name} start", 1e-12, float(rise))
    keys = [gflow.key_of(0, i) for i in range(8)]
    batch = jax.vmap(lambda key: gflow.Gaussian(1e-3)(key, problem, 50))(jnp.stack(keys))

    def end(network):
        return gflow.solve_flow(problem, network, until_s=10.0, saves=1, chart=gflow.BalancedPolar).margins[-1]

    alone = np.stack([end(gflow.Gaussian(1e-3)(key, problem, 50)) for key in keys])
    together = np.asarray(jax.vmap(end)(batch))
    at_most(report, "one flow against its row in a batch, margins", 1e-9, float(np.max(np.abs(together / alone - 1))))


def duality(report: Report) -> None:
    rng, least = np.random.default_rng(5), np.inf
    for _ in range(20):
        X = rng.standard_normal((4, 2))
        problem = gflow.Problem(X, np.array([1.0, -1.0, 1.0, -1.0]))
        known = gflow.faces(X)
        base = (optimum := gflow.solve_max_margin(problem, known)).network
        for _ in range(50):
            W1 = jnp.concatenate([base.W1, 0.3 * rng.standard_normal((2, 3))], axis=1)
            network = gflow.TwoLayer(W1, jnp.concatenate([base.w2, 0.3 * rng.standard_normal(3)]))
            least = min(least, gflow.certify(problem, network, known_faces=known, optimum=optimum).c)
    at_most(report, "weak duality: 1 - min c over 1,000 random networks", 1e-9, float(1 - least))


def numpy_sums(report: Report) -> None:
    rng, worst = np.random.default_rng(0), 0.0
    for n in range(1, 21):
        X, y = rng.standard_normal((n, 3)), np.where(np.arange(n) % 2, 1.0, -1.0)
        W1, w2 = rng.standard_normal((3, 4)), rng.standard_normal(4)
        problem, network = gflow.Problem(X, y), gflow.TwoLayer(jnp.asarray(W1), jnp.asarray(w2))
        q = y * sum(w2[i] * np.maximum(X @ W1[:, i], 0) for i in range(4))
        loss = np.sum(np.log1p(np.exp(-q)))
        worst = max(worst, np.max(np.abs(problem.margins(network) - q)), abs(float(problem.loss_value(q)) / loss - 1))
    at_most(report, "loss and margins against plain sums, n = 1..20", 1e-12, float(worst))


def real_data(report: Report) -> None:
    from gflow.cli import main

    with tempfile.TemporaryDirectory() as folder:
        for data, flags in (("iris", ["--standardize", "--bias"]), ("orthogonal-separable:n=20,d=2,seed=0", [])):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                status = main(["sweep", data, *flags, "--inits", "256", "--json", "--out", f"{folder}/{data[:4]}.zarr"])
            summary = json.loads(out.getvalue())
            report.line(
                f"gflow sweep {data} {' '.join(flags)}", target="256 results", measured=summary["done"],
                met=status == 0 and summary["done"] == 256, verdicts=summary["verdicts"], limits=summary["limits"][:3],
                seconds=summary["seconds"],
            )  # fmt: skip


def late_proof(report: Report, seconds: float = 10.0) -> None:
    """A problem whose proof takes long: `run` prints the limit first, then proves in its time."""
    rng = np.random.default_rng(5)
    y = rng.choice([-1, 1], 1000)
    X = rng.standard_normal((1000, 20)) + np.outer(y, 0.8 * (np.arange(20) < 4))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "classes.csv"
        header = ",".join([*(f"x{j}" for j in range(20)), "label"])
        np.savetxt(data, np.column_stack([X, y]), delimiter=",", header=header, comments="")
        command = [sys.executable, "-c", "from gflow.cli import program; program()", "run", str(data)]
        command += ["--proof-seconds", str(seconds)]
        begin, limit, verdict = time.perf_counter(), None, None
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                if line.startswith("limit (") and limit is None:
                    limit = time.perf_counter() - begin
                verdict = line.split()[0] if line.startswith(tuple(v.name for v in gflow.VERDICT)) else verdict
        end = time.perf_counter() - begin
    assert limit is not None and process.returncode == 0
    claim = f"gflow run on 1,000 samples in 20 columns, --proof-seconds {seconds:g}: seconds from the limit to the end"
    at_most(report, claim, seconds + 5, end - limit, limit_s=limit, verdict=verdict)


PARTS = (case_a, case_c, laws, duality, numpy_sums, real_data, late_proof)

if __name__ == "__main__":
    chosen = sys.argv[1:] or [part.__name__ for part in PARTS]
    report = Report("end_to_end", keep=len(sys.argv) > 1)
    for part in PARTS:
        if part.__name__ in chosen:
            part(report)
