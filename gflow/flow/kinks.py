"""The log of what neurons did at hyperplanes.

Source: arXiv 2110.06488, section 2; docs/mathematics.md, "Crossing and sliding".
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gflow.flow.crossings import Details
from gflow.flow.modes import Modes


class KINK(enum.IntEnum):
    """What a neuron did at the hyperplane x_n . w = 0."""

    CROSSED = 0
    STARTED_SLIDING = 1
    LEFT = 2
    REPELLED = 3


class Kinks(NamedTuple):
    """Fixed-size log, in the order of s: event k is at `s` (K,), of `neuron` (K,) and `sample` (K,), of `kind` (K,).

    `kind` is a KINK code; s is placed by a parabola through the step. Unused entries have s = inf and -1. `total`: how
    many events there were; those beyond K are not stored.
    """

    s: Float[Array, " K"]
    neuron: Int[Array, " K"]
    sample: Int[Array, " K"]
    kind: Int[Array, " K"]
    total: Int[Array, ""]

    @property
    def lost(self) -> Int[Array, ""]:
        """Events that did not fit."""
        return jnp.maximum(self.total - self.s.shape[-1], 0)


def empty(size: int, dtype) -> Kinks:
    """A log for `size` events."""
    none = jnp.full(size, -1)
    return Kinks(jnp.full(size, jnp.inf, dtype), none, none, none, jnp.asarray(0))


def appended(log: Kinks, modes: Modes, new: Modes, details: Details, s0, s1) -> Kinks:
    """`log` after a step from s0 to s1 that changed `modes` to `new`."""
    crossed = (modes.on != new.on) & ~modes.slide & ~new.slide
    kinds = jnp.stack([crossed, ~modes.slide & new.slide, modes.slide & ~new.slide & ~details.turned, details.repelled])
    n, m = crossed.shape
    happened = kinds.ravel()
    place = log.total + jnp.cumsum(happened) - 1
    place = jnp.where(happened, place, log.s.shape[0])  # beyond the end: dropped
    at = jnp.broadcast_to(s0 + jnp.where(details.repelled, 1.0, details.theta) * (s1 - s0), kinds.shape)
    kind, sample, neuron = (jnp.broadcast_to(a, kinds.shape) for a in jnp.ogrid[:4, :n, :m])
    put = lambda old, values: old.at[place].set(values.ravel().astype(old.dtype), mode="drop")  # noqa: E731
    return Kinks(
        put(log.s, at), put(log.neuron, neuron), put(log.sample, sample), put(log.kind, kind),
        log.total + jnp.sum(happened),
    )  # fmt: skip


def in_order(log: Kinks) -> Kinks:
    """Sorted by s: within a step events are found in the order of the samples."""
    order = jnp.argsort(log.s, stable=True)
    return Kinks(log.s[order], log.neuron[order], log.sample[order], log.kind[order], log.total)
