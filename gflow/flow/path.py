"""The way of a neuron through a step in which it meets hyperplanes, event by event, under the step's multipliers.

What couples neurons is the multipliers. Where these are given, and as long as its modes hold, a neuron obeys a linear
equation,

    d(w, a)/ds = (a g, w . g),   g(s) = sum_n D_n lambda_n(s) x_n, projected onto the hyperplanes in which it slides,

a boost of rapidity |g| ds, which conserves a^2 - |w|^2 (charts have it in closed form). So the few neurons that meet a
hyperplane in a step go through it once more, alone: to the next event, where their modes are chosen anew, and on.
Source: docs/mathematics.md, "A step across hyperplanes"; arXiv 2110.06488, section 2; the boosts of a step: Blanes and
Moan, Appl. Numer. Math. 56 (2006), fourth order, commutator-free.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from gflow.activations import AbstractActivation
from gflow.flow.charts import AbstractChart
from gflow.flow.events import Found, Levels, next_events
from gflow.flow.modes import Modes, at_rows, choose, first_rows, lengths, put, rounding, rows_at, slopes
from gflow.flow.pull import Given, Pull
from gflow.network import inner

EVENTS = 16
"""Events of one neuron in one step at most; what comes after them is charged."""

REFINED = 4
"""Secant steps onto an event at most, from where the parabola has it."""

NEAR, NEAR_ENTRY = 0.1, 1e-4
"""A crossing is met where the pre-activation is this part of the step's error, a slide ends where its entry is as near
to its bound as this."""


class Way(NamedTuple):
    """How far neurons have come: `tau` (C,) in 0..1, linear coordinates `y`, `modes` and the `pull` with these. `over`
    (C,): at the end.

    `first` (C,): tau of the first event; `theta` (n, C): of a pair's last one, 1 for none. `turned` (n, C): it slid
    until the neuron changed its orientation. `open` (n, C): pairs whose events are not accounted for; `kept` (n, C):
    those that reached their hyperplane and are pushed back to the side where they were. `offset` (n, C): what the step
    knew better when a pair was last on its hyperplane, and has been corrected. `late` (n, C): by how much the crossings
    of a pair may be misplaced."""

    tau: Float[Array, " C"]
    y: PyTree[Array]
    modes: Modes
    pull: Pull
    over: Bool[Array, " C"]
    first: Float[Array, " C"]
    theta: Float[Array, "n C"]
    turned: Bool[Array, "n C"]
    open: Bool[Array, "n C"]
    kept: Bool[Array, "n C"]
    offset: Float[Array, "n C"]
    late: Float[Array, "n C"]


class Better(NamedTuple):
    """What the step found of pre-activations (n, C) beyond the path with its modes, `middle` and `end`: it did not hold
    multipliers at their means."""

    middle: Float[Array, "n C"]
    end: Float[Array, "n C"]

    def at(self, tau: Float[Array, " C"]) -> Float[Array, "n C"]:
        """At `tau`: a cubic, since at its start the step's velocity is that of the path."""
        a, b = self.middle, self.end
        return tau**2 * (8 * a - b + tau * (2 * b - 8 * a))

    def doubt(self, tau: Float[Array, " C"]) -> Float[Array, "n C"]:
        """How far `at` may be off: by how much the parabola differs from it at most, but for 0.4."""
        return jnp.abs(4 * self.middle - self.end) * tau * (1 - tau)


class Traveller(NamedTuple):
    """Neurons of one step: their `chart`, state `z` and `modes` at its start, pre-activations `middle` and `end` (n, C)
    that the step found with these modes held, and its `error` (C,)."""

    X: Float[Array, "n d"]
    activation: AbstractActivation
    chart: AbstractChart
    z: PyTree[Array]
    modes: Modes
    given: Given
    middle: Float[Array, "n C"]
    end: Float[Array, "n C"]
    error: Float[Array, " C"]

    @property
    def jump(self) -> float:
        """Of the slope at a kink."""
        lower, upper = self.activation.slope_interval()
        return upper - lower

    def slopes(self, modes: Modes) -> Float[Array, "n C"]:
        """Of the hyperplanes."""
        return slopes(self.activation, modes.on, self.X.dtype)

    def nudged(self, way: Way, y: PyTree[Array], a: Float[Array, " C"], b: Float[Array, " C"]) -> PyTree[Array]:
        """y, at a, as it is at b if the modes of `way` hold: by one boost, of order 2."""
        return self._boosted(way, y, way.pull.at(0.5 * (a + b)), b - a)

    def moved(self, way: Way, y: PyTree[Array], a: Float[Array, " C"], b: Float[Array, " C"]) -> PyTree[Array]:
        """The same by two boosts, of order 4: the commutator-free Magnus method."""
        far, half = math.sqrt(3) / 6, 0.5 * (a + b)
        early, late = (way.pull.at(half + sign * far * (b - a)) for sign in (-1, 1))
        for near, other in ((early, late), (late, early)):
            y = self._boosted(way, y, (0.25 + far) * near + (0.25 - far) * other, b - a)
        return y

    def ahead(self, way: Way) -> tuple[PyTree[Array], PyTree[Array]]:
        """From `way` half of what is left of the step, `nudged`, and all of it, `moved`."""
        far, length = math.sqrt(3) / 6, 1 - way.tau
        shares = jnp.asarray([0.25, 0.5 - far, 0.5 + far], length.dtype)
        middle, early, late = jax.vmap(way.pull.at)(way.tau + shares[:, None] * length)
        near, other = 0.25 + far, 0.25 - far
        first = jnp.stack([0.5 * middle, near * early + other * late])
        both = jax.vmap(lambda G: self._boosted(way, way.y, G, length))(first)
        half, onward = (jax.tree.map(lambda a, k=k: a[k], both) for k in (0, 1))
        return half, self._boosted(way, onward, near * late + other * early, length)

    def _boosted(self, way: Way, y: PyTree[Array], G: Float[Array, "d *K C"], length: Float[Array, " C"]):
        project = way.modes.project
        G = project(G) if G.ndim == 2 else jax.vmap(project, in_axes=1, out_axes=1)(G)
        return self.chart.carried(y, G * length)

    def hidden(self, y: PyTree[Array]) -> Float[Array, "d C"]:
        """The chart's, at y."""
        return self.chart.hidden(self.chart.lowered(self.z, y))

    def preactivations(self, y: PyTree[Array]) -> Float[Array, "n C"]:
        """x_n . hidden_i."""
        return self.X @ self.hidden(y)

    def weights(self, y: PyTree[Array], tau: Float[Array, " C"], at: Int[Array, "R C"] | None = None):
        """(R, C): weights of the hyperplanes `at`, or of all, at `tau`."""
        given = self.given if at is None else self.given.of(at)
        return self.chart.pulled(y, given.at(tau)[0])

    def wanted(self, way: Way, y: PyTree[Array], tau: Float[Array, " C"], weight: Float[Array, "K C"]):
        """(K, C): entries wanted by the sliding rows, whose weights are `weight`, at `tau`."""
        return way.modes.wanted(self.X, self.chart.pulled(y, way.pull.at(tau)), weight)

    def levels(self, way: Way, y: PyTree[Array], tau: Float[Array, " C"], side: Float[Array, "R C"]) -> Levels:
        """At `tau`, where neurons are at y, with pre-activations towards their sides `side`."""
        weight = self.weights(y, tau, way.modes.at)
        # a row without weight has nothing to slide on
        wanted = jnp.where(weight == 0, -1.0, self.wanted(way, y, tau, weight))
        return Levels(side, wanted, self.jump - wanted, self.hostility(y, weight))

    def zero(self, y: PyTree[Array]) -> Float[Array, "n C"]:
        """What rounding leaves of a pre-activation."""
        hidden = self.hidden(y)
        return rounding(self.X.dtype) * lengths(self.X) * jnp.sqrt(inner(hidden, hidden))

    def hostility(self, y: PyTree[Array], weight: Float[Array, "R C"]) -> Float[Array, "R C"]:
        """Positive for pairs that can slide: sign a_i != y_n."""
        return -self.chart.orientation(self.chart.lowered(self.z, y)) * weight


class Travelled(NamedTuple):
    """`way`: at the end of the step; `base`: linear coordinates there if no mode had changed."""

    way: Way
    base: PyTree[Array]


def at_start(neurons: Traveller) -> Way:
    """Of every neuron."""
    zero = jnp.zeros(neurons.end.shape[1], neurons.X.dtype)
    no, nothing = jnp.zeros(neurons.end.shape, bool), jnp.zeros_like(neurons.end)
    pull = Pull.of(neurons.given, neurons.X, neurons.slopes(neurons.modes))
    y = neurons.chart.lift(neurons.z)
    return Way(zero, y, neurons.modes, pull, zero > 0, zero + 1, nothing + 1, no, no, no, nothing, nothing)


def travel(neurons: Traveller) -> Travelled:
    """Every neuron through the step, from event to event."""
    way = at_start(neurons)
    half, one = 0.5 + way.tau, 1 + way.tau
    middle = neurons.moved(way, way.y, way.tau, half)
    base = neurons.moved(way, middle, half, one)
    better = Better(neurons.middle - neurons.preactivations(middle), neurons.end - neurons.preactivations(base))

    def onward(carry):
        count, way = carry
        return count + 1, _to_next(neurons, better, way, count >= EVENTS)

    carry = (0, way)
    going = lambda carry: (carry[0] <= EVENTS) & ~jnp.all(carry[1].over)  # noqa: E731
    return Travelled(jax.lax.while_loop(going, onward, carry)[1], base)


def _to_next(neurons: Traveller, better: Better, way: Way, last) -> Way:
    """To the next event, and with new modes beyond it; to the end where there is none."""
    y, modes, half, one = way.y, way.modes, 0.5 * (way.tau + 1), jnp.ones_like(way.tau)
    middle, end = neurons.ahead(way)
    points = jax.tree.map(lambda *a: jnp.stack(a), y, middle, end)

    def level(point, tau):
        Z = neurons.preactivations(point) + better.at(tau) - way.offset
        return neurons.levels(way, point, tau, jnp.where(modes.on, Z, -Z))

    # of few columns an operation takes as long as of three times as many
    levels = jax.vmap(level)(points, jnp.stack([way.tau, half, one]))
    found = next_events(levels, modes, way.kept, neurons.zero(end), neurons.jump)
    happens = jnp.any(found.happens, axis=0) & ~way.over
    arrived = ~happens | last
    nothing = Event.none(modes._replace(delta=levels.wanted[2]), way, end)
    # most rounds of most tables only find that nothing happens any more
    event = jax.lax.cond(
        jnp.any(~arrived), lambda: _through(neurons, better, way, found, ~arrived, nothing), lambda: nothing
    )
    missed = found.happens & happens & last
    tau = jnp.where(happens & last, way.tau + found.tau * (1 - way.tau), event.tau)
    y, new = jax.tree.map(lambda a, b: jnp.where(way.over, a, b), (y, modes), (event.y, event.modes))
    return Way(
        jnp.where(way.over, way.tau, jnp.where(arrived, 1.0, tau)),
        y,
        new,
        event.pull,
        way.over | arrived,
        jnp.where(happens, jnp.minimum(way.first, tau), way.first),
        jnp.where(event.now | missed, tau, way.theta),
        way.turned | event.turned,
        way.open | missed | event.open,
        way.kept | event.kept,
        jnp.where(modes.slide | event.modes.slide, better.at(tau), way.offset),
        way.late + event.late,
    )


class Event(NamedTuple):
    """What the earliest event of a neuron leads to: `tau`, `y`, `modes` and `pull` behind it; `now`, the pairs whose it
    is, and of these, as in Way, `turned`, `open` and `kept`; `late`. Without an event: the end of the step."""

    tau: Float[Array, " C"]
    y: PyTree[Array]
    modes: Modes
    pull: Pull
    now: Bool[Array, "n C"]
    turned: Bool[Array, "n C"]
    open: Bool[Array, "n C"]
    kept: Bool[Array, "n C"]
    late: Float[Array, "n C"]

    @classmethod
    def none(cls, modes: Modes, way: Way, end: PyTree[Array]) -> Event:
        """At the `end` of the step, with these modes."""
        no = jnp.zeros_like(way.kept)
        return cls(jnp.ones_like(way.tau), end, modes, way.pull, no, no, no, no, jnp.zeros_like(way.late))


def _through(
    neurons: Traveller, better: Better, way: Way, found: Found, which: Bool[Array, " C"], otherwise: Event
) -> Event:
    """The events of these neurons, `otherwise` of others."""
    tau = jnp.where(which, way.tau + found.tau * (1 - way.tau), 1.0)
    tau, there, left = _onto(neurons, better, found, way, tau)
    found = found._replace(now=found.now & which)
    beyond, pull, unsettled, crowded, kept = _beyond(neurons, found, way, there, tau)
    there, event = (beyond.project(there[0]), *there[1:]), found.now
    y, modes = jax.tree.map(lambda a, b: jnp.where(which, a, b), (there, beyond), (otherwise.y, otherwise.modes))
    # a pair that began on its hyperplane and stays has not met it too early or late
    misplaced = event & ~found.slid & ~beyond.slide & ~(kept & (tau <= way.tau))
    late = jnp.where(misplaced, found.late(better.doubt(tau) + left, 1 - way.tau), 0.0)
    return Event(
        tau, y, modes, pull, event, found.turned & event, event & (crowded | kept | unsettled), kept & event, late
    )


def _onto(neurons: Traveller, better: Better, found: Found, way: Way, tau: Float[Array, " C"]):
    """(tau, y, what is left (1, C) of the pre-activation that crosses) on the earliest event, from `tau` where the
    parabola has it: by secants, first with its slope, until that is small beside the step's error."""
    start, n = way.tau, len(neurons.X)
    farthest = 0.5 * (tau - start)
    # of crossings at the same moment the first stands for all
    row = jnp.min(jnp.where(found.slopes.side < 0, jnp.arange(n)[:, None], n), axis=0)[None]
    x, here = rows_at(neurons.X, row)[0], lambda values: at_rows(values, row)
    towards, offset = here(jnp.where(way.modes.on, 1.0, -1.0)), here(way.offset)
    better = Better(here(better.middle), here(better.end))
    near = NEAR * neurons.error * jnp.sqrt(inner(x, x)) + here(neurons.zero(way.y))

    def levels(y, tau):
        Z = inner(x, neurons.hidden(y)) + better.at(tau) - offset
        return neurons.levels(way, y, tau, towards * Z)

    def off(level: Levels, slopes: Levels):
        crossing = jnp.any((slopes.side < 0) & (jnp.abs(level.side) > near), axis=0)
        entries = [
            jnp.any((s < 0) & (jnp.abs(v) > NEAR_ENTRY), axis=0) for v, s in zip(level[1:], slopes[1:], strict=True)
        ]
        return (crossing | entries[0] | entries[1] | entries[2]) & ~way.over

    def nearer(carry):
        count, tau, y, level, slopes = carry
        by = [jnp.where(s < 0, -v / jnp.where(s < 0, s, 1.0), 0.0) for v, s in zip(level, slopes, strict=True)]
        by = jnp.concatenate(by)
        by = by[jnp.argmax(jnp.abs(by), axis=0), jnp.arange(by.shape[1])]
        new = jnp.where(off(level, slopes), jnp.minimum(tau + jnp.clip(by, -farthest, farthest), 1.0), tau)
        y = neurons.nudged(way, y, tau, new)
        there = levels(y, new)
        run = jnp.where(new == tau, jnp.inf, new - tau)
        secant = lambda s, a, b: jnp.where((s < 0) & ((b - a) / run < 0), (b - a) / run, s)  # noqa: E731
        return count + 1, new, y, there, jax.tree.map(secant, slopes, level, there)

    slopes = found.slopes._replace(side=here(found.slopes.side))
    slopes = jax.tree.map(lambda s: s / jnp.where(start < 1, 1 - start, 1.0), slopes)
    y = neurons.moved(way, way.y, start, tau)
    going = lambda carry: (carry[0] < REFINED) & jnp.any(off(*carry[3:]))  # noqa: E731
    _, tau, y, level, slopes = jax.lax.while_loop(going, nearer, (0, tau, y, levels(y, tau), slopes))
    return tau, y, jnp.where(slopes.side < 0, jnp.abs(level.side), 0.0)


def _beyond(neurons: Traveller, found: Found, way: Way, y, tau):
    """(new modes, their pull, unsettled (C,), crossings without room to slide and crossings that do not happen (n, C))
    behind the events of `now`."""
    X, modes, n = neurons.X, way.modes, len(neurons.X)
    weight, drift = (neurons.chart.pulled(y, a) for a in neurons.given.at(tau))
    hostile = neurons.hostility(y, weight) > 0
    crossed, left = found.now & ~found.slid, found.now & found.slid
    on = jnp.where(left, found.above, modes.on) ^ (crossed & ~hostile)
    slide, wrong = modes.slide & ~left, crossed & hostile
    # one neuron slides on at most K rows: a crossing without room is charged in full
    at = first_rows(slide | wrong, len(modes.at), ahead=slide)
    if len(at) == X.shape[1]:  # as many rows as meet only at the tip
        at = at.at[-1].set(n)
    crowded = wrong & ~put(at, at < n, n)
    # it sums over all samples: of what was added and taken there is a rest, and a neuron without any must feel nothing
    choice = choose(X, neurons.activation, on ^ crowded, at, weight, drift)
    # of a neuron without an event nothing changes, whatever the box problem would have of it by now
    change = jnp.where(jnp.any(found.now, axis=0), neurons.slopes(choice.modes) - neurons.slopes(modes), 0.0)
    pull = way.pull.turned(neurons.given, X, change)
    kept = wrong & ~crowded & ~choice.modes.slide & (choice.modes.on == modes.on)
    return choice.modes, pull, choice.unsettled, crowded, kept


__all__ = ["Travelled", "Traveller", "Way", "at_start", "travel"]
