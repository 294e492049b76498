"""Records: one row per initialisation, made of a flow's end, its exact limit and what is proved about it."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from gflow import deadline
from gflow._types import ENDING, RESULTS, VERDICT, kept_on_host, on_host, result_code
from gflow.at_infinity import limits_of
from gflow.certificate import certify
from gflow.convex.faces import Faces, faces
from gflow.fates import FATE
from gflow.flow.modes import rounding
from gflow.flow.pool import End
from gflow.limit import limit_of_network
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.optimum import Optimum, solve_optimum
from gflow.patterns import on_hyperplanes
from gflow.problem import Problem
from gflow.programs.base import TOLERANCE, Certificate, Limit
from gflow.programs.max_margin import Programs, remembered


@dataclasses.dataclass(frozen=True)
class Records:
    """One row per initialisation; the columns of a store.

    `index` (b,): number of the initialisation. `verdict`, `result` (b,): codes of VERDICT and RESULTS. `objective`:
    P(theta) of the limit, `loss`: L of one that is a point. `lower_bound`: proved, <= P*. `certificate`: c. `margin`:
    normalised. `kkt_residual`, `slackness`, `polished`, `changes`: of the limit. `settled`: whether the flow was
    followed to it, `ending` a code of ENDING; `rate`, `gap`, `entry`, `multiplier`, `slack`, `log_q`, `followed`
    (steps): see AtInfinity, NaN and 0 where the flow was not continued. `s`, `log_t`, `steps`, `rejected`,
    `balance_drift`: of the
    flow. `repelled`: see Flow. `live`, `sliding`, `dead`: how many neurons of the flow's last
    network have this FATE.
    `neurons`: number K of merged live neurons. `W1` (b, width, d), `w2` (b, width), with vector output (b, width, K):
    the limit, row k is neuron k; NaN beyond K. A lane that failed has `result` saying so and NaN or inf where nothing
    is known.
    """

    index: np.ndarray
    verdict: np.ndarray
    result: np.ndarray
    objective: np.ndarray
    loss: np.ndarray
    lower_bound: np.ndarray
    certificate: np.ndarray
    margin: np.ndarray
    kkt_residual: np.ndarray
    slackness: np.ndarray
    polished: np.ndarray
    changes: np.ndarray
    settled: np.ndarray
    ending: np.ndarray
    rate: np.ndarray
    gap: np.ndarray
    entry: np.ndarray
    multiplier: np.ndarray
    slack: np.ndarray
    log_q: np.ndarray
    followed: np.ndarray
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

    @classmethod
    def of(cls, rows: list[dict]) -> Records:
        """From rows as `Witness` makes them."""
        return cls(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})

    @classmethod
    def joined(cls, several: Iterable[Records]) -> Records:
        """All rows of several, in the order of their indices."""
        columns = [records.columns() for records in several]
        whole = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
        order = np.argsort(whole["index"], kind="stable")
        return cls(**{name: column[order] for name, column in whole.items()})


USED_UP = frozenset(int(result_code(r)) for r in (RESULTS.max_steps_reached, RESULTS.max_seconds_reached))
"""Codes of the results of flows that were stopped on their way."""

COLUMNS = tuple(field.name for field in dataclasses.fields(Records))


def host():
    """The CPU, where limits and certificates are found: small programs, of which a GPU would launch every operation for
    longer than it takes; the device of the flows where JAX was told to make no other."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


class Witness:
    """Finds and judges the limits of flows of one problem, on `host()`; what patterns determine is computed once.

    `optimum`: the solved convex program or a function that solves it, called once and only if a limit needs it;
    `budget`: seconds that this may take where it is solved here, by default as long as it takes. `follow`: whether
    flows are continued to q_min = infinity.

    A row is a function of its own flow: what is remembered would be computed to the same bits again.
    """

    def __init__(
        self,
        problem: Problem,
        known_faces: Faces | None = None,
        optimum: Optimum | Callable[[], Optimum] | None = None,
        budget: float | None = None,
        follow: bool = True,
    ):
        self.host, self.follow = host(), follow
        self.problem = problem = jax.device_put(problem, self.host)
        if known_faces is None:
            with deadline.within(budget):
                known_faces = faces(problem.X)
        known = known_faces
        # where they are used: to move them there for every limit took a seventh of the time
        self.known = jax.device_put(known, self.host)
        self.budget = budget
        self._solved = (lambda: solve_optimum(problem, known, budget)) if optimum is None else optimum
        self.programs = Programs(problem)
        self._proved: OrderedDict[bytes, tuple[Certificate, float]] = OrderedDict()

    def __reduce__(self):
        """As NumPy arrays, which do not choose a device where they are read; what is remembered stays here."""
        solved = None if callable(self._solved) else self._solved
        return Witness, (*on_host((self.problem, self.known, solved)), self.budget, self.follow)

    def rows(self, indices: np.ndarray, ends: End) -> Iterator[dict]:
        """One row per flow, in order; leaves of `ends` have a leading axis, as long as `indices`."""
        for i, index in enumerate(indices):
            end = jax.tree.map(lambda a, i=i: a[i], ends)
            with jax.default_device(self.host):  # not around `yield`: the caller has another device
                row = self._row(int(index), end, self._limit(end))
            yield row

    def _limit(self, end: End) -> Limit | None:
        """Of a flow that has ended so; None where its weights are not finite."""
        network = self._network(end)
        if not all(np.all(np.isfinite(a)) for a in jax.tree.leaves(network)):
            return None
        if int(end.result) in USED_UP:
            return limit_of_network(self.problem, network, polish=False, programs=self.programs)
        (limit,) = limits_of(self.problem, [network], programs=self.programs, follow=self.follow)
        return limit

    def _network(self, end: End) -> TwoLayer | VectorTwoLayer:
        """Where the flow ended, in the precision of limits."""
        network = jax.tree.map(lambda a: np.asarray(a, self.problem.X.dtype), end.network)
        if end.network.W1.dtype == network.W1.dtype or not np.all(np.isfinite(network.W1)):
            return network
        return on_hyperplanes(self.problem, network, rounding(end.network.W1.dtype))

    def _row(self, index: int, end: End, limit: Limit | None) -> dict:
        """The columns of Records for one flow, that ended at `end`."""
        width, d = end.network.width, self.problem.shape[1]
        row = dict.fromkeys(COLUMNS, np.float64(np.nan))
        row |= {"index": np.int64(index), "result": np.int16(end.result), "verdict": np.int8(VERDICT.INCONCLUSIVE)}
        row |= {"polished": np.bool_(False), "changes": np.int32(0), "neurons": np.int32(0)}
        row |= {"settled": np.bool_(False), "ending": np.int8(ENDING.NOT_FOLLOWED), "followed": np.int64(0)}
        row |= {"W1": np.full((width, d), np.nan), "w2": np.full(np.shape(end.network.second), np.nan)}
        row |= {name: np.float64(getattr(end, name)) for name in ("s", "log_t", "balance_drift")}
        row |= {name: np.int64(getattr(end, name)) for name in ("steps", "rejected", "repelled")}
        counts = np.bincount(np.asarray(end.fates), minlength=len(FATE)).astype(np.int32)
        row |= {kind.name.lower(): counts[kind] for kind in FATE}
        if limit is None:
            return row
        row |= self._judged(limit, width) | _followed(limit)
        # of a flow that was stopped on its way nothing is said, whatever would be true of the network where it stands
        return row | {"verdict": np.int8(VERDICT.INCONCLUSIVE)} if int(end.result) in USED_UP else row

    def _judged(self, limit: Limit, width: int) -> dict:
        if limit.polished:
            key = np.asarray(limit.network.W1).tobytes() + np.asarray(limit.lam).tobytes()
            proof, margin = remembered(self._proved, key, lambda: self._proof(limit))
        else:
            proof, margin = self._proof(limit)
        K, end = limit.network.width, np.asarray(limit.network.second)
        W1, w2 = np.full((width, self.problem.shape[1]), np.nan), np.full((width, *end.shape[1:]), np.nan)
        W1[:K], w2[:K] = np.asarray(limit.network.W1).T, end
        return {
            "verdict": np.int8(proof.verdict),
            "objective": np.float64(limit.objective),
            "loss": np.float64(np.nan if limit.loss is None else limit.loss),
            "lower_bound": np.float64(proof.lower_bound),
            "certificate": np.float64(proof.c),
            "margin": np.float64(margin),
            "kkt_residual": np.float64(limit.kkt_residual),
            "slackness": np.float64(limit.slackness),
            "polished": np.bool_(limit.polished),
            "changes": np.int32(limit.changes),
            "neurons": np.int32(K),
            "W1": W1,
            "w2": w2,
        }

    @property
    def optimum(self) -> Optimum:
        """The convex program that belongs to the problem, solved when it is first asked for."""
        if callable(self._solved):
            self._solved = self._solved()
        return self._solved

    def _proof(self, limit: Limit) -> tuple[Certificate, float]:
        proof = None
        if self.problem.directional:
            # the multipliers of a limit often prove it alone, and in many dimensions the program takes minutes; asked
            # first even where the program is solved, so that a row does not depend on those before it
            proof = certify(self.problem, limit, known_faces=self.known, search=False)
        if proof is None or proof.verdict in (VERDICT.NOT_GLOBAL, VERDICT.INCONCLUSIVE):
            proof = certify(self.problem, limit, known_faces=self.known, optimum=self.optimum)
        if not self.problem.directional:
            return proof, np.nan
        return proof, float(kept_on_host(self.problem).normalised_margin(on_host(limit.network)))


def _followed(limit: Limit) -> dict:
    """The columns of Records that tell of the continuation to q_min = infinity."""
    found = {"settled": np.bool_(limit.settled), "ending": np.int8(limit.ending)}
    if limit.at_infinity is None:
        return found
    numbers = limit.at_infinity._asdict()
    steps = numbers.pop("steps")
    return found | {name: np.float64(value) for name, value in numbers.items()} | {"followed": np.int64(steps)}


def distinct_limits(objective, certificate, verdict, polished=None, rtol: float = TOLERANCE) -> list[dict]:
    """Limits whose objectives agree to `rtol`, most frequent first: {objective, certificate, verdict, polished, count}.

    Lanes without a separating limit are one entry per verdict, objective inf; and so are those that are not `polished`,
    whose objective is that of a flow under way: the least of them stands for all.
    """
    objective, certificate, verdict = map(np.asarray, (objective, certificate, verdict))
    polished = np.ones(len(verdict), bool) if polished is None else np.asarray(polished) > 0
    exact = polished | ~np.isfinite(objective)
    order = np.lexsort((np.nan_to_num(objective, nan=np.inf), verdict, exact))
    groups: list[list[int]] = []
    for i in order:
        first = groups[-1][0] if groups else None
        # equal infinities are equal: no subtraction
        same = first is not None and verdict[first] == verdict[i] and exact[first] == exact[i]
        if same and (not exact[i] or objective[i] <= (1 + rtol) * objective[first]):
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    groups.sort(key=lambda g: (-len(g), g[0]))
    return [
        {
            "objective": float(objective[g[0]]),
            "certificate": float(certificate[g[0]]),
            "verdict": VERDICT(int(verdict[g[0]])).name,
            "polished": bool(polished[g[0]]),
            "count": len(g),
            "example": min(g) if exact[g[0]] else g[0],
        }
        for g in groups
    ]


Z95 = 1.959963984540054
"""The 97.5 % point of the normal law."""


def wilson(count: int, total: int) -> dict:
    """{fraction, low, high}: count / total with its 95 % Wilson score interval; None where total is 0.

    (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). Source: Wilson, J. Am. Stat. Assoc. 22 (1927).
    """
    if total == 0:
        return {"fraction": None, "low": None, "high": None}
    p, n = count / total, total
    centre, spread = p + Z95**2 / (2 * n), Z95 * (p * (1 - p) / n + Z95**2 / (4 * n**2)) ** 0.5
    scale = 1 + Z95**2 / n
    # 0 and 1 themselves, which rounding would miss
    low, high = 0.0 if count == 0 else (centre - spread) / scale, 1.0 if count == total else (centre + spread) / scale
    return {"fraction": p, "low": low, "high": high}
