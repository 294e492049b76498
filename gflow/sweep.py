"""sweep(problem, law, width, inits): many initialisations, each run to its certified limit, as batches of records.

Initialisation i depends on (seed, i) alone. Lanes run in blocks of one fixed shape, so that a lane's result depends
neither on the number of initialisations nor on where the sweep was interrupted. This stage knows no disk.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gflow._types import VERDICT, result_code
from gflow.certificate import GLOBAL_RTOL, certify
from gflow.convex.column_generation import MaxMargin, solve_max_margin
from gflow.convex.faces import Faces, faces
from gflow.convex.oracle import require_float64
from gflow.fates import FATE, fates
from gflow.flow.lanes import Lane, Stepper, advance, start
from gflow.flow.solve import Flow
from gflow.initializers import AbstractInitializer, key_of
from gflow.limit import find_limit
from gflow.network import TwoLayer
from gflow.problem import Problem

BLOCK = 128
"""Lanes of one compiled call."""

STEPS = 32
"""Steps of one compiled call."""


@dataclasses.dataclass(frozen=True)
class Records:
    """One row per initialisation; the columns of a store.

    `index` (b,): number of the initialisation. `verdict`, `result` (b,): codes of VERDICT and RESULTS. `objective`:
    P(theta) of the limit. `lower_bound`: proved, <= P*. `certificate`: c. `margin`: normalised. `kkt_residual`,
    `slackness`, `polished`, `changes`: of the limit. `s`, `log_t`, `steps`, `rejected`, `balance_drift`: of the
    flow. `repelled`: see Flow. `live`, `sliding`, `dead`: how many neurons of the flow's last network have this FATE.
    `neurons`: number K of merged live neurons. `W1` (b, width, d), `w2` (b, width): the limit, row k is neuron k; NaN
    beyond K. A lane that failed has `result` saying so and NaN or inf where nothing is known.
    """

    index: np.ndarray
    verdict: np.ndarray
    result: np.ndarray
    objective: np.ndarray
    lower_bound: np.ndarray
    certificate: np.ndarray
    margin: np.ndarray
    kkt_residual: np.ndarray
    slackness: np.ndarray
    polished: np.ndarray
    changes: np.ndarray
    s: np.ndarray
    log_t: np.ndarray
    steps: np.ndarray
    rejected: np.ndarray
    balance_drift: np.ndarray
    repelled: np.ndarray
    live: np.ndarray
    sliding: np.ndarray
    dead: np.ndarray
    neurons: np.ndarray
    W1: np.ndarray
    w2: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __len__(self) -> int:
        return len(self.index)


def sweep(
    problem: Problem,
    law: AbstractInitializer,
    width: int,
    inits: int | Iterable[int],
    *,
    seed: int = 0,
    known_faces: Faces | None = None,
    optimum: MaxMargin | None = None,
    block: int = BLOCK,
    watch: Callable[[int, int, int], None] | None = None,
    **flow_options,
) -> Iterator[Records]:
    """Run initialisations 0..inits-1 (or the given ones) and yield their records block by block, in order.

    `watch(running, lanes, steps)` is called as a block goes on: flows that have not ended, flows, most steps of one.
    `flow_options` (controller, stop, max_steps, ...) go to `Stepper`. The faces of X and the max-margin program are
    computed once and shared; pass them in if you have them. Raises ValueError in float32, before anything runs.
    """
    require_float64(problem.X)
    indices = np.arange(inits) if isinstance(inits, int) else np.fromiter(inits, int)
    if len(indices) == 0:
        return
    known = faces(problem.X) if known_faces is None else known_faces
    if optimum is None:
        optimum = solve_max_margin(problem, known)
    judge = functools.partial(certify, problem, known_faces=known, optimum=optimum)
    stepper = Stepper(problem, **flow_options)
    # compiled once: block shapes never change, the last block repeats its last index
    first = eqx.filter_jit(jax.vmap(lambda i: law(key_of(seed, i), problem, width)))
    for at in range(0, len(indices), block):
        chosen = indices[at : at + block]
        networks = first(jnp.asarray(np.concatenate([chosen, np.full(block - len(chosen), chosen[-1])])))
        lanes = start(stepper, networks)
        while bool(jnp.any(lanes.running)):
            lanes = advance(stepper, lanes, jnp.asarray(STEPS))
            if watch is not None:
                own = jnp.arange(block) < len(chosen)
                watch(int(jnp.sum(lanes.running & own)), len(chosen), int(jnp.max(lanes.steps)))
        flows, drift, fate = _ends(stepper, networks, lanes)
        yield _records(problem, width, chosen, flows, np.asarray(drift), np.asarray(fate), judge)


@eqx.filter_jit
def _ends(stepper: Stepper, networks: TwoLayer, lanes: Lane) -> tuple[Flow, jax.Array, jax.Array]:
    def one(first: TwoLayer, lane: Lane):
        flow = stepper.flow(lane)
        return flow, flow.final.balance_drift(first), fates(stepper.problem, flow.final)

    return jax.vmap(one)(networks, lanes)


def _records(problem: Problem, width: int, chosen, flows: Flow, drift, fate, judge) -> Records:
    b, d = len(chosen), problem.shape[1]
    rows: dict[str, np.ndarray] = {f.name: np.full(b, np.nan) for f in dataclasses.fields(Records)}
    rows["index"] = np.asarray(chosen, np.int64)
    rows["result"] = np.asarray(result_code(flows.result))[:b].astype(np.int16)
    rows["verdict"] = np.full(b, VERDICT.INCONCLUSIVE, np.int8)
    rows["polished"], rows["changes"] = np.zeros(b, bool), np.zeros(b, np.int32)
    rows["neurons"] = np.zeros(b, np.int32)
    rows["W1"], rows["w2"] = np.full((b, width, d), np.nan), np.full((b, width), np.nan)
    for name, column in (("s", flows.s[:, -1]), ("log_t", flows.log_t[:, -1]), ("balance_drift", drift)):
        rows[name] = np.asarray(column)[:b]
    for name in ("steps", "rejected", "repelled"):
        rows[name] = np.asarray(getattr(flows, name))[:b].astype(np.int64)
    for kind in FATE:
        rows[kind.name.lower()] = np.sum(fate[:b] == kind, axis=1).astype(np.int32)
    arrays, static = eqx.partition(jax.tree.map(np.asarray, flows), eqx.is_array)
    for i in range(b):
        flow = eqx.combine(jax.tree.map(lambda a, i=i: a[i], arrays), static)
        if not np.all(np.isfinite(flow.margins[-1])):
            continue
        limit = find_limit(problem, flow)
        certificate = judge(limit)
        K = limit.network.width
        rows["verdict"][i], rows["polished"][i], rows["neurons"][i] = certificate.verdict, limit.polished, K
        rows["objective"][i], rows["lower_bound"][i] = limit.objective, certificate.lower_bound
        rows["certificate"][i], rows["changes"][i] = certificate.c, limit.changes
        rows["margin"][i] = float(problem.normalised_margin(limit.network))
        rows["kkt_residual"][i], rows["slackness"][i] = limit.kkt_residual, limit.slackness
        rows["W1"][i, :K], rows["w2"][i, :K] = np.asarray(limit.network.W1).T, np.asarray(limit.network.w2)
    return Records(**rows)


def distinct_limits(objective, certificate, verdict, rtol: float = GLOBAL_RTOL) -> list[dict]:
    """Limits whose objectives agree to `rtol`, most frequent first: {objective, certificate, verdict, count}.

    Lanes without a separating limit are one entry per verdict, objective inf.
    """
    objective, certificate, verdict = map(np.asarray, (objective, certificate, verdict))
    order = np.lexsort((verdict, np.nan_to_num(objective, nan=np.inf)))
    groups: list[list[int]] = []
    for i in order:
        first = groups[-1][0] if groups else None
        # equal infinities are equal: no subtraction
        if first is not None and verdict[first] == verdict[i] and objective[i] <= (1 + rtol) * objective[first]:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    groups.sort(key=lambda g: (-len(g), g[0]))
    return [
        {
            "objective": float(objective[g[0]]),
            "certificate": float(certificate[g[0]]),
            "verdict": VERDICT(int(verdict[g[0]])).name,
            "count": len(g),
            "example": min(g),
        }
        for g in groups
    ]
