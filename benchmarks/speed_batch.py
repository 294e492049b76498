"""A batch of 1,000 initialisations, flows per second on all cores: `python benchmarks/speed_batch.py [--inits N]
[--budget SECONDS] [--only NAME] [--residual LEVEL]`; with a budget of 0 the certified limits alone.

m = 50, first weights of scale 1e-3. gflow: `sweep`, to certified limits (KKT residual <= 1e-8 after the program), and
lanes alone to a residual. Peers run until 95 % of their lanes have the residual, or for the budget; those that go one
by one are timed on a sample. A flow counts when its network fits and has the residual.
"""

import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from harness import Report, within

jax.config.update("jax_enable_x64", True)

import diffrax
import equinox as eqx
import jax.numpy as jnp
import optax
import peers

import gflow
from gflow import datasets
from gflow.flow.lanes import advance
from gflow.records import Records

WIDTH, LAW = 50, gflow.Gaussian(1e-3)
LEVELS = (1e-2, 1e-4)
BUDGET = 60.0
LATE = "no further block within four budgets, looks at residuals included"


def certified(problem, inits: int, q_min: float | None = None) -> dict:
    """`gflow.sweep`, twice: the first run compiles."""
    out = {}
    for run in ("with_compilation", "seconds"):
        start = time.perf_counter()
        rows = Records.joined(gflow.sweep(problem, LAW, WIDTH, inits, q_min=q_min))
        out[run] = time.perf_counter() - start
    exact = rows.polished & np.isfinite(rows.objective) & (rows.kkt_residual <= 1e-8)
    settled = exact | (rows.verdict == gflow.VERDICT.UNFITTED)
    return out | {
        "flows_per_s": inits / out["seconds"], "exact_limits": int(exact.sum()), "settled": int(settled.sum()),
        "worst_residual": float(rows.kkt_residual[exact].max(initial=0.0)),
        "predictions": int(np.sum(rows.changes > 0)), "median_steps": float(np.median(rows.steps)),
        "verdicts": {v.name: int(np.sum(rows.verdict == v)) for v in gflow.VERDICT},
    }  # fmt: skip


def first_networks(problem, inits: int):
    return jax.vmap(lambda i: LAW(gflow.key_of(0, i), problem, WIDTH))(jnp.arange(inits))


@eqx.filter_jit
def residuals(problem, networks):
    """KKT residual of every lane, the kindest of four bands, and whether it fits."""

    def one(network):
        q = problem.margins(network)
        unit, lam = network.normalised(), problem.multipliers(q)
        return jnp.min(jnp.stack([problem.kkt_residual(unit, lam, b) for b in (1e-12, 1e-6, 1e-4, 1e-3)])), jnp.min(q)

    return jax.vmap(one)(networks)


def lanes(problem, inits: int, level: float, budget: float) -> dict:
    """Lanes alone, stopped at the residual or, as its peers, after four budgets; a vmapped batch."""
    stop = (gflow.KKTTarget(level, jnp.inf), gflow.Unfitted())
    stepper = gflow.Stepper(problem, stop=stop, controller=gflow.PIController(1e-3))
    start = eqx.filter_jit(lambda networks: jax.vmap(stepper.start)(networks))
    networks = first_networks(problem, inits)
    jax.block_until_ready(advance(stepper, start(networks), jnp.asarray(0)))  # compiles
    begin = time.perf_counter()
    state, seconds = start(networks), 0.0
    while bool(jnp.any(state.running)) and seconds <= 4 * budget:
        state = advance(stepper, state, jnp.asarray(48))
        jax.block_until_ready(state)
        seconds = time.perf_counter() - begin
    count, running = (int(jnp.sum(a)) for a in (state.result == gflow.RESULTS.kkt_reached, state.running))
    return {
        "flows_per_s": count / seconds, "reached": count, "of": inits, "seconds": seconds, "still_running": running,
        "median_steps": float(jnp.median(state.steps)),
    }  # fmt: skip


def in_blocks(X, y, inits: int, kind: str, level: float, budget: float) -> Iterator[dict]:
    """Advance a whole batch by blocks of a peer until 95 % of it has the residual; the count, after each block."""
    problem = gflow.Problem(X, y)
    block, carry, spent, reached = PEERS[kind](problem), None, 0.0, np.zeros(inits, bool)
    current = jax.block_until_ready(first_networks(problem, inits))
    jax.block_until_ready(block(None, current))  # compiles
    ended = LATE  # true if nothing comes after it
    while ended == LATE:
        start = time.perf_counter()
        carry, current = jax.block_until_ready(block(carry, current))
        spent += time.perf_counter() - start
        residual, q_min = map(np.asarray, residuals(problem, current))
        reached |= (q_min > 0) & (residual <= level)
        if reached.mean() >= 0.95:
            ended = "reached"
        elif spent > budget:
            ended = "budget"
        elif not np.all(np.isfinite(residual)):
            ended = "gave up or at the end of time"
        count = int(reached.sum())
        yield {"flows_per_s": count / spent, "reached": count, "of": inits, "seconds": spent, "ended": ended}


def raced(problem, inits: int, kind: str, level: float, budget: float) -> dict:
    """`in_blocks` in a process of its own, which may last four budgets: a block may have no end in sight, and looks at
    residuals, which do not count, take their time."""
    never = {"flows_per_s": 0.0, "reached": 0, "of": inits, "seconds": None, "ended": "stuck within its first block"}
    arguments = np.asarray(problem.X), np.asarray(problem.y), inits, kind, level, budget
    return within(4 * budget, in_blocks, *arguments)[0] or never


def optax_batch(problem, rate: float, steps: int, normalised: bool):
    """Blocks of vmapped full-batch descent, as a user writes it."""
    X, y, rule = problem.X, problem.y, optax.sgd(rate)

    def loss(theta):
        q = y * (jax.nn.relu(X @ theta[0]) @ theta[1])
        if normalised:
            return jax.nn.logsumexp(jnp.where(q > 30, -q, jnp.log(jax.nn.softplus(-q))))
        return jnp.sum(jax.nn.softplus(-q))

    @jax.jit
    def onward(theta):
        def step(_, theta):
            update, _ = rule.update(jax.vmap(jax.grad(loss))(theta), rule.init(theta))
            return optax.apply_updates(theta, update)

        return jax.lax.fori_loop(0, steps, step, theta)

    def block(carry, networks):
        theta = onward((networks.W1, networks.w2))
        return 0, gflow.TwoLayer(*theta)

    return block


def diffrax_batch(problem):
    """Blocks of vmapped diffrax Tsit5 in physical time, over intervals that grow by 10."""
    X, y = problem.X, problem.y

    def loss(theta):
        return jnp.sum(jax.nn.softplus(-y * (jax.nn.relu(X @ theta[0]) @ theta[1])))

    term = diffrax.ODETerm(lambda t, theta, _: jax.tree.map(jnp.negative, jax.grad(loss)(theta)))

    @jax.jit
    @jax.vmap
    def onward(theta, t0, t1):
        out = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), t0, t1, None, theta, max_steps=20_000, throw=False,
            stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-7),
        )  # fmt: skip
        return jax.tree.map(lambda a: a[-1], out.ys)

    def block(t, networks):
        t = 0.0 if t is None else t
        new, size = max(10 * t, 1.0), len(networks.w2)
        theta = onward((networks.W1, networks.w2), jnp.full(size, t), jnp.full(size, new))
        return new, gflow.TwoLayer(*theta)

    return block


PEERS = {
    "optax GD, rate 0.1": lambda problem: optax_batch(problem, 0.1, 20, False),
    "optax GD on log L, rate 0.01": lambda problem: optax_batch(problem, 0.01, 100, True),
    "vmapped diffrax Tsit5, time t": diffrax_batch,
}


def one_by_one(problem, networks, method: str, log: bool, level: float, sample: int, budget: float) -> dict:
    """SciPy on the first of them, one after the other, one core."""
    X, y, spent, reached, tried = np.asarray(problem.X), np.asarray(problem.y), 0.0, 0, 0
    judge = jax.jit(
        lambda network: jax.tree.map(lambda a: a[0], residuals(problem, jax.tree.map(lambda a: a[None], network)))
    )
    for i in range(min(sample, len(networks.w2))):
        start, tried = time.perf_counter(), tried + 1
        walk = peers.scipy_steps(X, y, np.asarray(networks.W1[i]), np.asarray(networks.w2[i]), method, log, 1e300)
        took = 0.0
        for took, W1, w2 in walk:
            residual, q_min = map(float, judge(gflow.TwoLayer(jnp.asarray(W1), jnp.asarray(w2))))
            if q_min > 0 and residual <= level:
                reached += 1
            if (q_min > 0 and residual <= level) or took > 4 * budget / sample:
                break
        spent += took
        if time.perf_counter() - start > budget:
            break
    return {"flows_per_s": reached / spent if spent else 0.0, "reached": reached, "of": tried, "seconds": spent}


def main(inits: int = 1000, budget: float = BUDGET, only: str = "", residual: float | None = None) -> None:
    report = Report("speed_batch", keep=budget == 0 or bool(only) or residual is not None)
    targets = {"orthogonally separable (20,2)": 200, "gaussian (10,5)": 100}
    for name, data in (
        ("orthogonally separable (20,2)", datasets.orthogonal_separable(20, 2)),
        ("gaussian (10,5)", datasets.gaussian(10, 5)),
    ):
        if only not in name:
            continue
        problem = gflow.Problem(data.X, data.y)
        for q_min, far in ((None, ""), (1e5, " to q_min = 1e5")):
            figures = certified(problem, inits, q_min)
            report.line(
                f"{name}: certified limits of {inits} initialisations, gflow.sweep{far}",
                target=f">= {targets[name]} flows/s", measured=figures["flows_per_s"],
                met=bool(figures["flows_per_s"] >= targets[name]), **figures,
            )  # fmt: skip
        if budget == 0:
            continue
        networks = first_networks(problem, inits)
        for level in LEVELS if residual is None else (residual,):
            where = f"{name}, KKT residual {level:.0e}"
            report.line(f"{where}: gflow lanes, no limit", **lanes(problem, inits, level, budget))
            for kind in PEERS:
                report.line(f"{where}: {kind}", **raced(problem, inits, kind, level, budget))
            for method, log in (("RK45", False), ("BDF", True)):
                label = f"SciPy {method} {'on log L' if log else 'in time t'}, one by one"
                report.line(f"{where}: {label}", **one_by_one(problem, networks, method, log, level, 20, budget))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    kinds = {"inits": int, "budget": float, "only": str, "residual": float}
    names = [name.removeprefix("--") for name in arguments[::2]]
    main(**{name: kinds[name](value) for name, value in zip(names, arguments[1::2], strict=True)})
