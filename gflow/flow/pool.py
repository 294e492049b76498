"""Lanes that are refilled: when a flow ends, the next initialisation takes its place in the same compiled call.

Under a plain vmap every lane waits for the slowest one. A pool holds lanes in chunks of one fixed shape, and a chunk is
the unit that is compiled: a lane's result depends neither on its neighbours nor on how many chunks there are, in how
many pools or on how many devices they lie, or when a lane was filled. So every device has a program of its own: one
that is partitioned over several rounds now and then in another way. Lanes of a chunk wait for each other too, for the
one whose step needs most stages: so lanes of a pool change places, and those that need alike many share a chunk.
"""

# diffrax gives its results types that only it can see through
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gflow._types import RESULTS, on_host, result_code
from gflow.fates import BAND, fates
from gflow.flow.lanes import Lane, Stepper
from gflow.flow.modes import rounding
from gflow.network import TwoLayer, VectorTwoLayer

IDLE = -1
"""The initialisation of a lane without work."""

TOGETHER = 4
"""Steps between two looks at which lanes need alike many stages. On a CPU 2 take as long as 4."""

UNUSED = -2
"""Of a lane that never had any: a lane that has ended is put there, since one of zeros need not be steppable."""


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

    @property
    def balance_drift(self):
        """Since s = 0. By NumPy: what compiled code makes of the difference of two products depends on what it is fused
        with, and so, in the last digits, on the number of chunks."""
        with np.errstate(all="ignore"):  # a lane may have ended at weights that are not finite
            return on_host(self.network).balance_drift(on_host(self.first))


class Pool(NamedTuple):
    """Leaves are (chunks, lanes of a chunk, ...). `first`: the networks at s = 0."""

    first: TwoLayer | VectorTwoLayer
    lanes: Lane


class Refill(eqx.Module):
    """How a pool is filled and advanced: `draw(index)` is the network of initialisation `index`."""

    stepper: Stepper
    draw: Callable[[Int[Array, ""]], TwoLayer | VectorTwoLayer]

    def blank(self, chunks: int, chunk: int, device=None) -> Pool:
        """A pool of zeros on one device: a lane's first turn starts it or is told that it is UNUSED."""
        shapes = eqx.filter_eval_shape(jax.vmap(self._started), jnp.zeros(chunk, int))
        zeros = jax.tree.map(lambda leaf: np.zeros((chunks, *leaf.shape), leaf.dtype), shapes)
        return jax.device_put(zeros, device)

    def turn(self, pool: Pool, fresh: np.ndarray, count: int) -> tuple[Pool, End]:
        """One compiled call on the pool's device: lanes with `fresh` (chunks, lanes) >= 0 start that initialisation,
        then every lane under way makes at most `count` attempted steps. The new pool, and where every lane stands.
        """
        return _turn(self, pool, np.asarray(fresh, int), np.asarray(count))

    def _filled(self, pool: Pool, fresh) -> Pool:
        start = lambda pool: _chosen(fresh != IDLE, jax.vmap(self._started)(fresh), pool)  # noqa: E731
        return jax.lax.cond(jnp.any(fresh != IDLE), start, lambda pool: pool, pool)

    def _advanced(self, lanes: Lane, count) -> Lane:
        """Lanes (chunks, lanes of a chunk, ...) after at most `count` attempted steps each."""
        shape = lanes.steps.shape

        def some(carry):
            made, lanes, place = carry
            effort = jax.vmap(jax.vmap(self.stepper.effort))(lanes)
            lanes, place = _reordered((lanes, place), jnp.lexsort((lanes.time.ravel(), effort.ravel())))
            few = jnp.minimum(count - made, TOGETHER)
            return made + few, jax.lax.map(lambda chunk: self._stepped(few, chunk), lanes), place

        going = lambda carry: (carry[0] < count) & jnp.any(carry[1].running)  # noqa: E731
        place = jnp.arange(math.prod(shape)).reshape(shape)
        _, lanes, place = jax.lax.while_loop(going, some, (jnp.zeros_like(count), lanes, place))
        return _reordered(lanes, jnp.argsort(place.ravel()))

    def _stepped(self, count, lanes: Lane) -> Lane:
        """One chunk; nothing is done for one whose lanes have all ended."""
        going = lambda carry: (carry[0] < count) & jnp.any(carry[1].running)  # noqa: E731
        onward = lambda carry: (carry[0] + 1, jax.vmap(self.stepper.step)(carry[1]))  # noqa: E731
        return jax.lax.while_loop(going, onward, (jnp.zeros_like(count), lanes))[1]

    def _started(self, index) -> Pool:
        first = self.draw(jnp.maximum(index, 0))
        lane = self.stepper.start(first)
        return Pool(first, lane._replace(result=RESULTS.where(index >= 0, lane.result, RESULTS.horizon_reached)))

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

    For every entry of `devices` there is a pool with a thread of its own. On a CPU a compiled call returns when it has
    ended and takes one core, and calls of several threads run at once: so name it once for every core to use. Every
    device compiles once. The next turn is under way while the caller works on a harvest.
    `watch(busy, lanes)` is called once a turn: how many of the lanes were under way when it began.
    """
    threads = ThreadPoolExecutor(len(devices), "gflow device")
    try:
        yield from _harvests(threads, refill, indices, devices, chunk, chunks, steps, watch)
    finally:  # an interrupt must not wait for what is being compiled
        threads.shutdown(wait=False, cancel_futures=True)


def _harvests(threads, refill: Refill, indices: np.ndarray, devices, chunk: int, chunks: int, steps: int, watch):
    pools = _compiled(threads, refill, [refill.blank(chunks, chunk, device) for device in devices], devices)
    held, next_, harvest = np.full((len(pools), chunks, chunk), IDLE), 0, None
    fresh = np.full_like(held, UNUSED)
    while next_ < len(indices) or np.any(held >= 0):
        free = tuple(np.argwhere(held == IDLE)[: len(indices) - next_].T)
        held[free] = np.arange(next_, next_ + len(free[0]))
        fresh[free] = indices[held[free]]
        next_ += len(free[0])
        if watch is not None:
            watch(int(np.sum(held >= 0)), held.size)
        under_way = [threads.submit(_ended, refill, pool, new, steps) for pool, new in zip(pools, fresh, strict=True)]
        if harvest is not None:
            yield harvest
        turns = [turn.result() for turn in under_way]
        pools = [pool for pool, _ in turns]
        over = np.stack([~np.asarray(pool.lanes.running) for pool in pools]) & (held >= 0)
        ends = jax.tree.map(lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *(end for _, end in turns))
        harvest = held[over], jax.tree.map(lambda a, over=over: a[over], ends)
        held[over] = IDLE
        fresh = np.full_like(held, IDLE)
    if harvest is not None:
        yield harvest


def _compiled(threads, refill: Refill, pools: list[Pool], devices) -> list[Pool]:
    """The same after a turn of no steps on every device: of pools that share one, each would compile for itself."""
    one_of = {device: k for k, device in enumerate(devices)}
    idle = np.full(pools[0].lanes.steps.shape, IDLE)
    turned = threads.map(lambda k: _ended(refill, pools[k], idle, 0)[0], one_of.values())
    for k, pool in zip(one_of.values(), turned, strict=True):
        pools[k] = pool
    return pools


def _ended(refill: Refill, pool: Pool, fresh: np.ndarray, steps: int) -> tuple[Pool, End]:
    return jax.block_until_ready(refill.turn(pool, fresh, steps))


def _chosen(taken, new, old):
    def choose(a, b):
        return jnp.where(taken.reshape(taken.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _reordered(tree, order):
    """Leaves (chunks, lanes of a chunk, ...) with their lanes in this order."""
    return jax.tree.map(lambda a: a.reshape(order.size, *a.shape[2:])[order].reshape(a.shape), tree)


@eqx.filter_jit(donate="all-except-first")
def _turn(refill: Refill, pool: Pool, fresh, count) -> tuple[Pool, End]:
    first, lanes = jax.lax.map(lambda both: refill._filled(*both), (pool, fresh))
    pool = Pool(first, refill._advanced(lanes, count))
    return pool, jax.lax.map(lambda chunk: jax.vmap(refill._end)(*chunk), pool)


__all__ = ["IDLE", "End", "Pool", "Refill", "harvests"]
