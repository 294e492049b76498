"""Lanes that are refilled: when a flow ends, the next initialisation takes its place in the same compiled call.

Under a plain vmap every lane waits for the slowest one. A pool holds lanes in chunks of one fixed shape, and a chunk is
the unit that is compiled: a lane's result depends neither on its neighbours nor on how many chunks there are, on how
many devices they lie, or when a lane was filled. All devices run one program, each on chunks of its own.
"""

# diffrax gives its results types that only it can see through
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from gflow._types import RESULTS, result_code
from gflow.fates import fates
from gflow.flow.lanes import Lane, Stepper
from gflow.network import TwoLayer, VectorTwoLayer

IDLE = -1
"""The initialisation of a lane without work."""

UNUSED = -2
"""Of a lane that never had any: a lane that has ended is put there, since one of zeros need not be steppable."""

DEVICES = "devices"
ALL, EVERY = PartitionSpec(), PartitionSpec(DEVICES)
"""The same on every device, and the leading axis shared out among them."""


class End(NamedTuple):
    """Where a lane stands: `network`, and `s` to `repelled` as in Flow, `result` as a code of RESULTS; `balance_drift`
    since s = 0; `fates` (m,): codes of FATE."""

    network: TwoLayer | VectorTwoLayer
    s: Float[Array, ""]
    log_t: Float[Array, ""]
    result: Int[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    repelled: Int[Array, ""]
    balance_drift: Float[Array, ""]
    fates: Int[Array, " m"]


class Pool(NamedTuple):
    """Leaves are (chunks of all devices, lanes of a chunk, ...). `first`: the networks at s = 0."""

    first: TwoLayer | VectorTwoLayer
    lanes: Lane


class Refill(eqx.Module):
    """How a pool is filled and advanced: `draw(index)` is the network of initialisation `index`."""

    stepper: Stepper
    draw: Callable[[Int[Array, ""]], TwoLayer | VectorTwoLayer]

    def blank(self, chunks: int, chunk: int, mesh: Mesh) -> Pool:
        """A pool of zeros, `chunks` on every device: a lane's first turn starts it or is told that it is UNUSED."""

        def blank(leaf):
            zeros = np.zeros((mesh.size * chunks, *leaf.shape), leaf.dtype)
            # as compiled calls return them, empty ones on every device: otherwise the second turn would compile again
            return jax.device_put(zeros, NamedSharding(mesh, EVERY if zeros.size else ALL))

        return jax.tree.map(blank, eqx.filter_eval_shape(jax.vmap(self._started), jnp.zeros(chunk, int)))

    def turn(self, mesh: Mesh, pool: Pool, fresh: np.ndarray, count: int) -> tuple[Pool, End]:
        """One compiled call: lanes with `fresh` (chunks of all devices, lanes) >= 0 start that initialisation, then
        every lane under way makes at most `count` attempted steps. The new pool, and where every lane stands.
        """
        return _turn(self, mesh, pool, np.asarray(fresh, int), np.asarray(count))

    def _chunk(self, count, pool: Pool, fresh) -> tuple[Pool, End]:
        start = lambda pool: _chosen(fresh != IDLE, jax.vmap(self._started)(fresh), pool)  # noqa: E731
        pool = jax.lax.cond(jnp.any(fresh != IDLE), start, lambda pool: pool, pool)
        going = lambda carry: (carry[0] < count) & jnp.any(carry[1].running)  # noqa: E731
        onward = lambda carry: (carry[0] + 1, jax.vmap(self.stepper.step)(carry[1]))  # noqa: E731
        _, lanes = jax.lax.while_loop(going, onward, (jnp.zeros_like(count), pool.lanes))
        return Pool(pool.first, lanes), jax.vmap(self._end)(pool.first, lanes)

    def _started(self, index) -> Pool:
        first = self.draw(jnp.maximum(index, 0))
        lane = self.stepper.start(first)
        return Pool(first, lane._replace(result=RESULTS.where(index >= 0, lane.result, RESULTS.horizon_reached)))

    def _end(self, first: TwoLayer | VectorTwoLayer, lane: Lane) -> End:
        flow = self.stepper.flow(lane)
        return End(
            network=flow.final,
            s=flow.s[-1],
            log_t=flow.log_t[-1],
            result=result_code(flow.result),
            steps=flow.steps,
            rejected=flow.rejected,
            repelled=flow.repelled,
            balance_drift=flow.final.balance_drift(first),
            fates=fates(self.stepper.problem, flow.final),
        )


def harvests(
    refill: Refill,
    indices: np.ndarray,
    *,
    devices: Sequence,
    chunk: int,
    chunks: int,
    steps: int,
    watch: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[np.ndarray, End]]:
    """Run the flows of `indices`; yield those that have ended, a turn at a time, as (positions in `indices` (h,), End
    with leaves (h, ...) on the host).

    The next turn is under way, in a thread of its own, while the caller works on a harvest: on CPUs a compiled call
    returns when it has ended. `watch(busy, lanes)` is called once a turn: how many of the lanes were under way when it
    began.
    """
    thread = ThreadPoolExecutor(1, "gflow devices")
    try:
        yield from _harvests(thread, refill, indices, Mesh(np.array(devices), (DEVICES,)), chunk, chunks, steps, watch)
    finally:  # an interrupt must not wait for what is being compiled
        thread.shutdown(wait=False, cancel_futures=True)


def _harvests(thread, refill: Refill, indices: np.ndarray, mesh: Mesh, chunk: int, chunks: int, steps: int, watch):
    pool = refill.blank(chunks, chunk, mesh)
    held, next_, harvest = np.full((mesh.size * chunks, chunk), IDLE), 0, None
    fresh = np.full_like(held, UNUSED)
    while next_ < len(indices) or np.any(held >= 0):
        free = tuple(np.argwhere(held == IDLE)[: len(indices) - next_].T)
        held[free] = np.arange(next_, next_ + len(free[0]))
        fresh[free] = indices[held[free]]
        next_ += len(free[0])
        if watch is not None:
            watch(int(np.sum(held >= 0)), held.size)
        under_way = thread.submit(_ended, refill, mesh, pool, fresh, steps)
        if harvest is not None:
            yield harvest
        pool, ends = under_way.result()
        over = ~np.asarray(pool.lanes.running) & (held >= 0)
        harvest = held[over], jax.tree.map(lambda a, over=over: np.asarray(a)[over], ends)
        held[over] = IDLE
        if next_ == len(indices):
            pool = _closed_up(mesh, pool, held)
        fresh = np.full_like(held, IDLE)
    if harvest is not None:
        yield harvest


def _closed_up(mesh: Mesh, pool: Pool, held: np.ndarray) -> Pool:
    """The pool with the lanes under way of every device moved into as few of its chunks as hold them, and `held` with
    it.

    When nothing is left to fill lanes with, a chunk takes a turn for its last flow as long as it does for all.
    """
    chunk = held.shape[1]
    busy = (held != IDLE).reshape(mesh.size, -1)
    taken = busy.reshape(mesh.size, -1, chunk).any(axis=2).sum(axis=1)
    if np.all(taken <= -(-busy.sum(axis=1) // chunk)):
        return pool
    order = np.argsort(~busy, axis=1, kind="stable")
    held[:] = np.take_along_axis(held.reshape(order.shape), order, axis=1).reshape(held.shape)
    return _reordered(mesh, pool, order.reshape(held.shape))


def _ended(refill: Refill, mesh: Mesh, pool: Pool, fresh: np.ndarray, steps: int) -> tuple[Pool, End]:
    return jax.block_until_ready(refill.turn(mesh, pool, fresh, steps))


def _chosen(taken, new, old):
    def choose(a, b):
        return jnp.where(taken.reshape(taken.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _everywhere(mesh: Mesh, function: Callable, *specs: PartitionSpec) -> Callable:
    """`function` on every device at once, of the part of every argument that `specs` say; results are put together."""
    # loops end on every device when its own lanes say so: nothing is replicated that could be checked
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=EVERY, check_vma=False)


@eqx.filter_jit
def _reordered(mesh: Mesh, pool: Pool, order) -> Pool:
    def here(pool: Pool, order) -> Pool:
        return jax.tree.map(lambda a: a.reshape(order.size, *a.shape[2:])[order.ravel()].reshape(a.shape), pool)

    return _everywhere(mesh, here, EVERY, EVERY)(pool, order)


@eqx.filter_jit(donate="all-except-first")
def _turn(refill: Refill, mesh: Mesh, pool: Pool, fresh, count) -> tuple[Pool, End]:
    arrays, static = eqx.partition(refill, eqx.is_array)

    def here(arrays, count, pool: Pool, fresh) -> tuple[Pool, End]:
        refill = eqx.combine(arrays, static)
        return jax.lax.map(lambda both: refill._chunk(count, *both), (pool, fresh))

    return _everywhere(mesh, here, ALL, ALL, EVERY, EVERY)(arrays, count, pool, fresh)


__all__ = ["IDLE", "End", "Pool", "Refill", "harvests"]
