"""on_flagged: work that few neurons need, done for those neurons alone, of all lanes of a batch together.

In one step about one neuron of a network meets a hyperplane. Under vmap a branch cannot be skipped for one lane, but
the flagged neurons of all lanes can be collected into a short table of columns.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

PER_LANE = 0.5
"""Columns of the table per lane; more flagged neurons take further rounds. Measured: larger tables leave the cache."""

SMALLEST = 16
"""Columns of the table at least."""

MOST = 64
"""Work above this counts as this; it only orders neurons."""


def on_flagged(
    work: Callable[[PyTree[Array], PyTree[Array], PyTree[Array]], PyTree[Array]],
    flagged: Bool[Array, " m"] | Int[Array, " m"],
    neurons: PyTree[Array],
    lane: PyTree[Array],
    shared: PyTree[Array],
    otherwise: PyTree[Array],
) -> PyTree[Array]:
    """`otherwise` with the columns of flagged neurons replaced by those of work(neurons, lane, shared).

    `flagged`: 0 where nothing is to be done, else about how much. A table takes as long as its slowest column, so those
    with most to do are taken together.

    Leaves of `neurons` and `otherwise` have the neurons as their last axis. `work` sees C columns of `neurons`,
    every leaf of `lane` with a last axis of C (each column's own lane), and `shared` as it is. It must not close over
    arrays. Under vmap one table serves all lanes, unless `shared` differs between lanes.
    """

    @jax.custom_batching.custom_vmap
    def single(shared, *arguments):
        out = _rounds(work, shared, *jax.tree.map(lambda a: a[None], arguments))
        return jax.tree.map(lambda a: a[0], out)

    @single.def_vmap
    def batched(size, in_batched, shared, *arguments):
        if any(jax.tree.leaves(in_batched[0])):
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(in_batched))
            out = jax.vmap(single.fun, axes)(shared, *arguments)
        else:
            spread = lambda a, b: a if b else jnp.broadcast_to(a, (size, *a.shape))  # noqa: E731
            out = _rounds(work, shared, *jax.tree.map(spread, arguments, tuple(in_batched[1:])))
        return out, jax.tree.map(lambda _: True, out)

    return single(shared, flagged, neurons, lane, otherwise)


def _rounds(work, shared, flagged, neurons, lane, otherwise):
    b, m = flagged.shape
    size = min(b * m, max(SMALLEST, int(PER_LANE * b)))
    much, place = jnp.minimum(flagged.ravel().astype(int), MOST), jnp.arange(b * m)
    count = jnp.sum(much > 0)
    # one key of both: sorting pairs takes four times as long
    order = jnp.sort((MOST - much) * (b * m) + place) % (b * m)

    def one(carry):
        done, out = carry
        these = done + place[:size]
        index = jnp.where(these < count, order[jnp.minimum(these, b * m - 1)], b * m)  # b * m where there are fewer
        row, column = index // m, index % m
        inside = jnp.minimum(row, b - 1)
        pick = lambda a: jnp.moveaxis(a[inside, ..., column], 0, -1)  # noqa: E731
        own = jax.tree.map(lambda a: jnp.moveaxis(a[inside], 0, -1), lane)
        result = work(jax.tree.map(pick, neurons), own, shared)
        put = lambda a, new: a.at[row, ..., column].set(jnp.moveaxis(new, -1, 0), mode="drop")  # noqa: E731
        return done + size, jax.tree.map(put, out, result)

    return jax.lax.while_loop(lambda carry: carry[0] < count, one, (jnp.zeros_like(count), otherwise))[1]
