"""Pools of lanes that are refilled: when a flow ends, another one takes its place in the same compiled call.

Under a plain vmap every lane waits for the slowest one. A pool holds lanes in chunks of one fixed shape, and a chunk is
the unit that is compiled: a lane's result depends neither on its neighbours nor on how many chunks there are, in how
many pools or on how many devices they lie, or when a lane was filled. So every device has a program of its own: one
that is partitioned over several rounds now and then in another way. Lanes of a chunk wait for each other too, for the
one whose step needs most stages: so every few steps those that need alike many are put into one chunk.
"""

# diffrax gives its results types that only it can see through
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gflow._types import RESULTS, on_host, result_code
from gflow.fates import BAND, fates
from gflow.flow.lanes import Lane, Stepper
from gflow.flow.modes import rounding
from gflow.network import TwoLayer, VectorTwoLayer

IDLE = -1
"""The initialisation of a lane without work."""

TOGETHER = 4
"""Steps between two looks at which lanes need alike many stages. On a CPU 2 take as long as 4."""


class End(NamedTuple):
    """Where a lane stands: its `first` network, the present one, `s` to `repelled` as in Flow, `result` as a code of
    RESULTS; `fates` (m,): codes of FATE."""

    first: TwoLayer | VectorTwoLayer
    network: TwoLayer | VectorTwoLayer
    s: Float[Array, ""]
    log_t: Float[Array, ""]
    result: Int[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    repelled: Int[Array, ""]
    fates: Int[Array, " m"]

    def narrowed(self, width: int) -> End:
        """The same of the first `width` neurons: the others are zero."""
        networks = {"first": self.first.resized(width), "network": self.network.resized(width)}
        return self._replace(**networks, fates=self.fates[..., :width])

    @property
    def balance_drift(self):
        """Since s = 0. By NumPy: what compiled code makes of the difference of two products depends on what it is fused
        with, and so, in the last digits, on the number of chunks."""
        with np.errstate(all="ignore"):  # a lane may have ended at weights that are not finite
            return on_host(self.network).balance_drift(on_host(self.first))


class Pool(NamedTuple):
    """Leaves are (chunks, lanes of a chunk, ...), of one flow (...). `first`: the networks at s = 0."""

    first: TwoLayer | VectorTwoLayer
    lanes: Lane


class Fresh(NamedTuple):
    """Flows with which lanes start, in the first `chunks` chunks of (chunks, lanes). `lane`: in which of all lanes each
    of them starts, a number beyond them for none; `flow`: whether it is one, or only something to put into a lane that
    has none, since a lane of zeros need not be steppable; `brought` (chunks, lanes, ...): see `Leg`."""

    lane: Int[np.ndarray, "chunks lanes"]
    flow: Bool[np.ndarray, "chunks lanes"]
    brought: Any
    chunks: Int[np.ndarray, ""]


class Started(eqx.Module):
    """A network -> its flow at s = 0."""

    stepper: Stepper

    def __call__(self, network: TwoLayer | VectorTwoLayer) -> Pool:
        return Pool(network, self.stepper.start(network))


class Continued(eqx.Module):
    """A flow that has ended its first leg -> the same at the start of its second."""

    stepper: Stepper

    def __call__(self, flow: Pool) -> Pool:
        return flow._replace(lanes=self.stepper.onward(flow.lanes))


class Leg(eqx.Module):
    """How a pool is filled and advanced: `enter(brought)` is the flow that a lane starts with, made of what is brought
    for it: a network, or a flow that has ended its first leg."""

    stepper: Stepper
    enter: Callable[[Any], Pool]

    def shapes(self, brought) -> Pool:
        """Of one chunk, whose lanes start with such as `brought` (lanes of a chunk, ...)."""
        return eqx.filter_eval_shape(jax.vmap(self.enter), brought)

    def turn(self, pool: Pool, fresh: Fresh, stopped: np.ndarray, count: int) -> tuple[Pool, End]:
        """One compiled call on the pool's device: `fresh` flows take their lanes, those that are `stopped` (chunks,
        lanes) end as max_seconds_reached, and every lane under way makes at most `count` attempted steps. The new pool,
        and where every lane stands."""
        return _turn(self, pool, fresh, np.asarray(stopped), np.asarray(count))

    def _filled(self, pool: Pool, fresh: Fresh) -> Pool:
        """Leaves of `pool` are (all lanes, ...)."""

        def one(k, pool):
            started = jax.vmap(self._started)(fresh.flow[k], _at(fresh.brought, k))
            put = lambda a, b: a.at[fresh.lane[k]].set(b, mode="drop", unique_indices=True)  # noqa: E731
            return jax.tree.map(put, pool, started)

        return jax.lax.fori_loop(0, fresh.chunks, one, pool)

    def _advanced(self, lanes: Lane, count) -> Lane:
        """Lanes (chunks, lanes of a chunk, ...) after at most `count` attempted steps each."""
        shape = lanes.steps.shape

        def some(carry):
            made, lanes = carry
            effort = jax.vmap(self.stepper.effort)(lanes)
            alike = jnp.lexsort((lanes.time, effort)).reshape(shape)
            few = jnp.minimum(count - made, TOGETHER)
            # taken and put back a chunk at a time: to move all lanes needs a second pool
            one = lambda k, lanes: _put(lanes, alike[k], self._stepped(few, _at(lanes, alike[k])))  # noqa: E731
            return made + few, jax.lax.fori_loop(0, shape[0], one, lanes)

        going = lambda carry: (carry[0] < count) & jnp.any(carry[1].running)  # noqa: E731
        flat = jax.tree.map(lambda a: a.reshape(math.prod(shape), *a.shape[2:]), lanes)
        _, flat = jax.lax.while_loop(going, some, (jnp.zeros_like(count), flat))
        return jax.tree.map(lambda a: a.reshape(shape + a.shape[1:]), flat)

    def _stepped(self, count, lanes: Lane) -> Lane:
        """One chunk; nothing is done for one whose lanes have all ended."""
        going = lambda carry: (carry[0] < count) & jnp.any(carry[1].running)  # noqa: E731
        onward = lambda carry: (carry[0] + 1, jax.vmap(self.stepper.step)(carry[1]))  # noqa: E731
        return jax.lax.while_loop(going, onward, (jnp.zeros_like(count), lanes))[1]

    def _started(self, is_flow, brought) -> Pool:
        flow = self.enter(brought)
        result = RESULTS.where(is_flow, flow.lanes.result, RESULTS.horizon_reached)
        return flow._replace(lanes=flow.lanes._replace(result=result))

    def _end(self, first: TwoLayer | VectorTwoLayer, lane: Lane) -> End:
        flow = self.stepper.flow(lane)
        return End(
            first=first,
            network=flow.final,
            s=flow.s[-1],
            log_t=flow.log_t[-1],
            result=result_code(flow.result),
            steps=flow.steps,
            rejected=flow.rejected,
            repelled=flow.repelled,
            fates=fates(self.stepper.problem, flow.final, max(BAND, rounding(flow.s.dtype))),
        )


def _at(tree, at):
    """The rows `at` of its leaves."""
    return jax.tree.map(lambda a: a[at], tree)


def _put(tree, at, new):
    """The same with `new` rows there."""
    return jax.tree.map(lambda a, b: a.at[at].set(b, unique_indices=True), tree, new)


@eqx.filter_jit(donate="all-except-first")
def _turn(leg: Leg, pool: Pool, fresh: Fresh, stopped, count) -> tuple[Pool, End]:
    chunks, size = stopped.shape
    flat = jax.tree.map(lambda a: a.reshape(chunks * size, *a.shape[2:]), pool)
    pool = jax.tree.map(lambda a: a.reshape(chunks, size, *a.shape[1:]), leg._filled(flat, fresh))
    ended = jax.vmap(jax.vmap(_ended_by_time))(stopped & pool.lanes.running, pool.lanes.result)
    pool = Pool(pool.first, leg._advanced(pool.lanes._replace(result=ended), count))
    return pool, jax.lax.map(lambda chunk: jax.vmap(leg._end)(*chunk), pool)


def _ended_by_time(which, result: RESULTS) -> RESULTS:
    return RESULTS.where(which, RESULTS.max_seconds_reached, result)


__all__ = ["IDLE", "TOGETHER", "Continued", "End", "Fresh", "Leg", "Pool", "Started"]
