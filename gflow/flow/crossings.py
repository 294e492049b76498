"""What happened at kinks inside a step whose modes were held fixed: new modes, the correction, and what it leaves.

Most neurons meet no hyperplane in a step: `met` finds those that do, and only these are settled.
Source: docs/mathematics.md, "Crossing and sliding"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gflow.activations import AbstractActivation
from gflow.flow.charts import AbstractChart
from gflow.flow.field import Field, Rates
from gflow.flow.flagged import on_flagged
from gflow.flow.modes import Choice, Modes, at_rows, choose, first_rows, lengths, put, slopes, tiny
from gflow.flow.parabola import crossing, dips, excursion
from gflow.network import inner


class Neurons(NamedTuple):
    """What a step did to each neuron. `start`, `middle`, `end` (n, m): x_n . hidden_i. `chart`, and the state `z` at
    the end, where `G` (d, m) moves it; `error` (m,): of the smooth step. `modes`: those that were held, and `wanted`
    (K, m), the entries of their sliding rows at the end. `altered` (n, m): pairs that cross because of an earlier event
    of the same neuron, or do not because of one."""

    start: Float[Array, "n m"]
    middle: Float[Array, "n m"]
    end: Float[Array, "n m"]
    chart: AbstractChart
    z: PyTree[Array]
    G: Float[Array, "d m"]
    error: Float[Array, " m"]
    modes: Modes
    wanted: Float[Array, "K m"]
    altered: Bool[Array, "n m"]

    @property
    def size(self) -> Float[Array, " m"]:
        """|hidden_i|."""
        hidden = self.chart.hidden(self.z)
        return jnp.sqrt(inner(hidden, hidden))

    @property
    def orientation(self) -> Float[Array, " m"]:
        """The chart's."""
        return self.chart.orientation(self.z)

    @property
    def speed(self) -> Float[Array, " m"]:
        """Of hidden_i on the clock s."""
        return jnp.abs(self.orientation) * jnp.sqrt(inner(self.G, self.G))


class Lane(NamedTuple):
    """Weights of the hyperplanes at the step's start and end, `lam0`, `lam` (n,), or (n, m) where columns belong to
    several networks or every neuron has its own, the `drift` at its end (see Lines), and the step's length on the clock
    s; `across` (n, m): how fast a sample turns a second-layer direction, None where there is none."""

    lam0: Float[Array, "n ..."]
    lam: Float[Array, "n ..."]
    drift: Float[Array, "d ..."]
    length: Float[Array, "..."]
    across: Float[Array, "n m"] | None = None

    def per_neuron(self) -> tuple[Lane | None, Lane | Float[Array, "..."]]:
        """What belongs to single neurons, and what all neurons of a lane share."""
        return (self._replace(length=None), self.length) if self.lam.ndim == 2 else (None, self)  # pyright: ignore

    @classmethod
    def whole(cls, own: Lane | None, shared) -> Lane:
        """The two parts again."""
        return shared if own is None else own._replace(length=shared)


class Details(NamedTuple):
    """For the log of kinks, all (n, m): `theta`, where in the step a pair's mode ceased to hold; `turned`: it slid
    until a_i changed its sign; `repelled`: it is on a hyperplane that pushes away on both sides."""

    theta: Float[Array, "n m"]
    turned: Bool[Array, "n m"]
    repelled: Bool[Array, "n m"]


class Settled(NamedTuple):
    """After the step, per neuron: `modes`; `correction` of z; `charge` (m,): the error that crossings
    leave; `theta` (m,): where the worst one was; `repelled` (m,): repelling hyperplanes met; `altered` (n, m): as
    those of Neurons, and newly found ones; `details` or None."""

    modes: Modes
    correction: PyTree[Array]
    charge: Float[Array, " m"]
    theta: Float[Array, " m"]
    repelled: Float[Array, " m"]
    altered: Bool[Array, "n m"]
    details: Details | None


def after_step(
    field: Field, modes: Modes, start, Zm: Float[Array, "n m"], end: Rates, z1: PyTree[Array], error, h, log: bool
) -> Settled:
    """`start`, `end`: the field with the modes that were held; `Zm` (n, m): pre-activations halfway; `error` (m,): that
    of the smooth step; `log`: whether details are wanted."""
    X, activation, width = field.hyperplanes, field.problem.activation, modes.on.shape[1]
    no, lines = jnp.zeros_like(modes.on), field.problem.lines
    leading = lambda Z: Z if lines is None else jnp.where(lines.first[:, None], Z, 0.0)  # noqa: E731
    lane = Lane(start.weight, end.weight, end.drift, h * field.clock.rate(end.log_S), field.chart.across(z1, end.lam))
    own, shared = lane.per_neuron()
    weight = at_rows(end.weight, modes.at)
    wanted = modes.wanted(end.force, weight)
    neurons = Neurons(leading(start.Z), leading(Zm), leading(end.Z), field.chart, z1, end.G, error, modes, wanted, no)
    nothing = jnp.zeros_like(error)
    details = Details(jnp.ones_like(end.Z), no, no) if log else None
    still = jax.tree.map(jnp.zeros_like, z1)
    quiet = Settled(modes._replace(delta=wanted), still, nothing, nothing + 1, nothing, no, details)

    def look(flagged, altered, otherwise: Settled) -> Settled:
        def work(columns, lanes, X):
            return settle(X, activation, columns[0], Lane.whole(columns[1], lanes), width, log)

        return on_flagged(work, flagged, (neurons._replace(altered=altered), own), shared, X, otherwise)

    # an event may make its neuron cross another hyperplane, or keep it from crossing: such neurons are looked at again
    def again(_, carry):
        flagged, before = carry
        settled = look(flagged, before.altered, before)
        return jnp.any(settled.altered, axis=0), settled

    # a loop of two: compiled once
    return jax.lax.fori_loop(0, 2, again, (met(X, activation, neurons, weight, wanted), quiet))[1]


def rounding(dtype) -> float:
    """|x_n . u_i| / |x_n| up to which a direction counts as lying on a hyperplane: where rounding leaves it."""
    return 64 * float(jnp.finfo(dtype).eps)


def on_kink(X: Float[Array, "n d"], Z: Float[Array, "n m"], size: Float[Array, " m"]) -> Bool[Array, "n m"]:
    """Pairs whose pre-activation is zero up to rounding. Rows of zeros have no kink."""
    sizes = lengths(X) * size
    return (jnp.abs(Z) <= rounding(Z.dtype) * sizes) & (sizes > 0)


def wrong_side(X, neurons: Neurons) -> Bool[Array, "n m"]:
    """Pairs that do not slide and ended on the other side of their hyperplane."""
    Z, modes = neurons.end, neurons.modes
    return ~modes.slide & across(modes.on, Z) & ~on_kink(X, Z, neurons.size)


def across(on: Bool[Array, "n m"], Z: Float[Array, "n m"]) -> Bool[Array, "n m"]:
    """Whether a pre-activation does not fit the mode."""
    return jnp.where(on, Z < 0, Z > 0)


def is_hostile(neurons: Neurons, lam: Float[Array, "n m"]) -> Bool[Array, "n m"]:
    """Pairs that can slide, sign a_i != y_n: the jump of the velocity points towards the hyperplane from both sides."""
    return jnp.sign(neurons.orientation) * lam < 0


def turned_over(neurons: Neurons, lam: Float[Array, "n m"]) -> Bool[Array, "n m"]:
    """Sliding pairs that are no longer hostile, because a_i has changed its sign."""
    return neurons.modes.slide & ~is_hostile(neurons, lam) & (lam != 0)


def near_kink(X, neurons: Neurons, Z, within: Float[Array, " m"]) -> Bool[Array, "n m"]:
    """Pairs that came, in this step, within an error of their hyperplane: on which side they are cannot be told."""
    row = lengths(X)
    close = (jnp.abs(Z) <= row * within) | on_kink(X, Z, neurons.size)
    return close & ~neurons.modes.slide & (jnp.abs(neurons.start) > row * within)


def met(X, activation: AbstractActivation, neurons: Neurons, weight: Float[Array, "K m"], wanted: Float[Array, "K m"]):
    """(m,): neurons to which something happened: a pair crossed, went over and came back, came near, or may no longer
    slide. `weight`, `wanted` (K, m): lambda and the entry of sliding rows. `settle` finds out what it was.
    """
    lower, upper = activation.slope_interval()
    row, side = lengths(X), jnp.where(neurons.modes.on, 1.0, -1.0)
    first, middle, last = side * neurons.start, side * neurons.middle, side * neurons.end
    zero = rounding(row.dtype) * neurons.size * row
    near = jnp.maximum(row * neurons.error, zero)
    pairs = (last < -zero) | ((last <= near) & (first > near)) | dips(first, middle, last)[2]
    pairs = jnp.any(pairs & ~neurons.modes.slide, axis=0)
    # an entry of 0 is what a row without weight has: it has nothing to slide on
    ends = ~((wanted > 0) & (wanted < upper - lower)) | (weight * neurons.orientation > 0)
    return pairs | jnp.any((neurons.modes.at < len(X)) & ends, axis=0)


def settle(X, activation: AbstractActivation, neurons: Neurons, lane: Lane, width: int, log: bool) -> Settled:
    """New modes of every column, its correction and what that leaves. `width`: neurons of a network."""
    n, lam, Z, modes = len(X), lane.lam, neurons.end, neurons.modes
    lower, upper = activation.slope_interval()
    jump = upper - lower
    wrong = wrong_side(X, neurons) ^ neurons.altered
    hostile, turned = is_hostile(neurons, lam), turned_over(neurons, lam)
    before, row = put(modes.at, modes.delta, n), lengths(X)
    # on a repelling hyperplane both sides are solutions: the one with the smaller share of its entry is taken
    on = (modes.on | (turned & (before < 0.5 * jump))) ^ (wrong & ~hostile)
    slide = modes.slide & ~turned
    # one neuron slides on at most K rows: a crossing without room keeps its mode and is charged in full
    at = first_rows(slide | (wrong & hostile), len(modes.at), ahead=slide)
    if len(at) == X.shape[1]:  # as many rows as meet only at the tip
        at = at.at[-1].set(n)
    crowded = wrong & hostile & ~put(at, at < n, n)
    # one without room that was there before: between two hyperplanes closer than the tolerance. It has crossed
    late = crowded & across(modes.on, neurons.start)
    crowded, on = crowded & ~late, on ^ late
    choice = choose(X, activation, on, at, lam, lane.drift)
    events = timed(neurons, choice, wrong, slide, crowded, before, jump)
    after = slopes(activation, choice.modes.on, Z.dtype) + put(choice.modes.at, choice.modes.delta, n)
    # an entry that drifted out of its interval had grown linearly from its bound: half of its excess counts
    given_up = jnp.where(events.jumped, -1.0, -0.5) * events.excess
    switch = jnp.where(wrong & ~events.crowded, after - slopes(activation, modes.on, Z.dtype), given_up)
    # what turns a neuron that slides on stays in its hyperplanes
    stays = ~jnp.any(events.left, axis=0)
    shift = lambda pushes: jnp.where(stays, modes.project(X.T @ pushes), X.T @ pushes)  # noqa: E731
    push = neurons.orientation * switch * lane.length * lam
    events = events._replace(theta=in_turn(X, neurons, events, push, shift))
    tau = (1 - events.theta) * lane.length
    # the multiplier's mean since the event, if it changes linearly
    change = switch * tau * (lam + 0.5 * (1 - events.theta) * (lane.lam0 - lam))
    later = change * tau * jnp.where(events.left & ~events.jumped, 1 / 3, 1 / 2)
    G = choice.modes.project(lane.drift + X.T @ (slopes(activation, choice.modes.on, Z.dtype) * lam))
    correction, *rest = corrected(neurons, shift(change), shift(later), G)
    others = X @ correction - neurons.orientation * change * row**2
    first = jnp.min(jnp.where(wrong, events.theta, 1.0), axis=0)
    beyond = jnp.where(modes.on, -1.0, 1.0) * (Z + others) / jnp.where(row > 0, row, 1.0)
    prevented = wrong & (events.theta > first) & (beyond < 0)
    # not one that rests on its hyperplane beside an antipodal row, which would take turns with it
    missed = ~(wrong | modes.slide | on_kink(X, neurons.start, neurons.size)) & (row > 0)
    missed &= beyond > rounding(Z.dtype) * neurons.size
    charge = charged(neurons, lane, choice, events, change, others, row, jump, width)
    charge += jnp.abs(neurons.orientation) * jnp.where(missed, jnp.minimum(beyond, jnp.abs(lam) * row * lane.length), 0)
    # a pair on the wrong side that is pulled back to its hyperplane is put there: the charge covers the distance
    kept = wrong & hostile & choice.candidate & ~choice.modes.slide & (choice.modes.on == modes.on)
    correction = correction - X.T @ jnp.where(kept, Z / jnp.where(row > 0, row, 1.0) ** 2, 0.0)
    # the earliest of the crossings that matter
    heavy = charge >= jnp.maximum(0.1 * jnp.max(charge, axis=0), tiny(charge))
    earliest = jnp.min(jnp.where(heavy, events.theta, 1.0), axis=0)
    charge = jnp.sum(charge, axis=0)
    repelled = repelling(X, neurons.orientation, choice.modes, lam, jump, G) | turned
    repelled &= turned | near_kink(X, neurons, Z + X @ correction, neurons.error + charge)
    details = Details(events.theta, turned, repelled) if log else None
    repelled = jnp.sum(repelled, axis=0).astype(Z.dtype)
    altered = neurons.altered ^ prevented ^ missed
    return Settled(choice.modes, (correction, *rest), charge, earliest, repelled, altered, details)


def corrected(neurons: Neurons, A: Float[Array, "d m"], B: Float[Array, "d m"], G: Float[Array, "d m"]):
    """What to add to z at the end of a step, to second order in the time since its events.

    The velocity V(z, G) is linear in G, and from an event on G was larger by dG than what the step assumed. With
    A = int dG and B = int (time left) dG over the step, and `G` (d, m) the new one, this is

        V(z, A) + d_z V(z, G)[V(z, B)] - d_z V(z, B)[V(z, old G)].
    """
    z, velocity = neurons.z, neurons.chart.velocity
    along = lambda G, v: jax.jvp(lambda z: velocity(z, G), (z,), (v,))[1]  # noqa: E731
    bent, turned = along(G, velocity(z, B)), along(B, velocity(z, neurons.G))
    return jax.tree.map(lambda a, b, c: a + b - c, velocity(z, A), bent, turned)


def in_turn(X, neurons: Neurons, events: Events, push: Float[Array, "n m"], shift) -> Float[Array, "n m"]:
    """theta (n, m) when each event of a neuron moves the crossings after it; `push` (n, m): o_i times the change of an
    entry's slope times lambda, per step; `shift` turns such changes into one of hidden_i.

    Event by event in the order of time: from then on x_k . hidden_i gains sum_j x_k . x_j push_j (theta - theta_j).
    """
    side = jnp.where(neurons.modes.on, 1.0, -1.0)

    def one(carry):
        count, due, theta, a, b = carry
        now = jnp.min(jnp.where(due, theta, jnp.inf), axis=0)
        which = due & (theta == now)
        gain = X @ shift(jnp.where(which, push, 0.0))
        a, b, due = a - gain * jnp.where(jnp.isfinite(now), now, 0.0), b + gain, due & ~which
        end = neurons.end + a + b
        moved = crossing(neurons.start + a, neurons.middle + a + 0.5 * b, end)
        moves = due & events.wrong & (side * end < 0)
        return count + 1, due, jnp.where(moves, jnp.maximum(moved, now), theta), a, b

    zero = jnp.zeros_like(push)
    several = jnp.sum(push != 0, axis=0) > 1
    start = (0, (push != 0) & several, events.theta, zero, zero)
    # every pair has at most one event; a theta that is not a number is never next
    return jax.lax.while_loop(lambda carry: (carry[0] < len(X)) & jnp.any(carry[1]), one, start)[2]


class Events(NamedTuple):
    """Pairs (n, m) whose mode does not hold up to the end of the step.

    `wrong`: on the other side of their hyperplane. `crowded`: wrong, and no room to slide. `left`: slid, and their
    entry has passed its bound; `jumped`: of these the ones whose neuron crossed another one, where entries jump.
    `theta`: fraction of the step at which it happened; `spread` (m,): fraction between a neuron's first crossing and
    its last, of what was left then. `away`: fraction of the step that a pair spent on the other side and came back
    from: had its mode changed there, it might not have. `early`: integral, over the step, of what an entry exceeded its
    bound by before the crossing with which it is taken to have left: it may have left first, and prevented that.
    """

    wrong: Bool[Array, "n m"]
    crowded: Bool[Array, "n m"]
    left: Bool[Array, "n m"]
    jumped: Bool[Array, "n m"]
    excess: Float[Array, "n m"]
    theta: Float[Array, "n m"]
    spread: Float[Array, " m"]
    away: Float[Array, "n m"]
    early: Float[Array, "n m"]


def timed(neurons: Neurons, choice: Choice, wrong, slide, crowded, before: Float[Array, "n m"], jump: float) -> Events:
    """When the old modes ceased to hold. `before` (n, m): entries at the step's start."""
    modes = neurons.modes
    left = slide & ~choice.modes.slide
    bound = jnp.where(choice.modes.on, jump, 0.0)
    # as the entry went with the old modes, whatever its neuron crossed meanwhile
    held = put(modes.at, neurons.wanted, len(slide))
    alone = (held < 0) | (held > jump)
    after = jnp.where(alone, held, choice.wanted)
    run = after - before
    passed = jnp.clip((bound - before) / jnp.where(run == 0, 1.0, run), 0.0, 1.0)
    crossed = crossing(neurons.start, neurons.middle, neurons.end)
    crossed = jnp.where(across(modes.on, neurons.end), crossed, 1.0)
    crossed = jnp.where(across(modes.on, neurons.start) & wrong, 0.0, crossed)
    # a crossing changes the normal velocity of every row on which its neuron slides: these entries jump with it
    mended = wrong & ~crowded
    first = jnp.min(jnp.where(mended, crossed, 1.0), axis=0)
    last = jnp.max(jnp.where(mended, crossed, 0.0), axis=0)
    jumped = left & (first < 1)
    ahead = jnp.where(jumped & alone, jnp.maximum(first - passed, 0.0), 0.0)
    early = 0.5 * jnp.abs(held - bound) * ahead**2 / jnp.maximum(1 - passed, tiny(passed))
    theta = jnp.where(jumped, first, jnp.where(left, passed, crossed))
    excess = jnp.where(left, jnp.where(jumped, before, after) - bound, 0.0)
    spread = jnp.maximum(last - first, 0.0) / jnp.maximum(1 - first, tiny(first))
    entered, away = excursion(neurons.start, neurons.middle, neurons.end, modes.on)
    away = jnp.where(wrong | modes.slide, 0.0, away)
    theta = jnp.where(away > 0, entered, theta)
    return Events(wrong, crowded, left, jumped, excess, theta, spread, away, early)


def charged(neurons: Neurons, lane: Lane, choice: Choice, events: Events, change, others, row, jump: float, width):
    """(n, m): what may be left after the corrections. `others` (n, m): what
    the corrections of a neuron's other crossings add to its pre-activation; `row` (n, 1): |x_n|."""
    Z, lam = neurons.end, lane.lam
    tau = (1 - events.theta) * lane.length
    safe = jnp.where(row > 0, row, 1.0)
    largest = jnp.maximum(jnp.abs(lam), jnp.abs(lane.lam0))
    drift = jnp.abs(lam - lane.lam0) / jnp.maximum(largest * lane.length, tiny(lam))
    # several crossings of one neuron: each moves the others', relatively by what it shifts their pre-activation
    shifted = jnp.where(events.wrong, jnp.abs(others) / jnp.maximum(jnp.abs(Z), tiny(Z)), 0.0)
    # crossings have been put in turn, but which rows slide in between is known less well
    turns = jnp.where(jnp.any(events.left | choice.candidate & events.wrong, axis=0), 4.0, 1.0)
    shifted = shifted * jnp.minimum(1.0, turns * (drift + neurons.speed) * lane.length)
    shifted = jnp.where(events.jumped, events.spread, shifted)
    since = jnp.where(events.left, lane.length, tau)
    bent = ((drift * since) ** 2 / 2 + (neurons.speed * since) ** 2) / 6
    bent = jnp.where(events.left & ~events.jumped, (drift + neurons.speed) * lane.length, bent)
    second = jnp.abs(change) * row * jnp.minimum(1.0, bent + shifted)
    # a pair on the wrong side that kept its mode, or found no settled one, is not accounted for: it may be off by what
    # it moved since, or by its distance where the neuron is being pulled back
    unmended = events.crowded | (events.wrong & ((change == 0) | choice.unsettled))
    whole = jnp.abs(lam) * jump * row * tau
    first = jnp.where(unmended, jnp.minimum(whole, jnp.abs(Z) / safe), 0.0)
    first = first + jnp.abs(lam) * row * (jump * events.away + events.early) * lane.length
    if lane.across is not None:
        # on the wrong side of a hyperplane a pair also turned the neuron's second-layer direction
        first = first + jnp.where(events.wrong, lane.across * jump * jnp.abs(Z) * 0.5 * tau, 0.0)
    # while a pair is on the wrong side it also shifts its margin, and so the multipliers that move every neuron
    shift = jnp.where(events.wrong, jnp.abs(Z) * jump * neurons.chart.sizes(neurons.z), 0.0)
    common = jnp.abs(lam) * row * shift * 0.5 * tau * jnp.sqrt(jnp.asarray(width, Z.dtype))
    return (second + first + common) * jnp.abs(neurons.orientation)


def repelling(X, orientation: Float[Array, " m"], modes: Modes, lam: Float[Array, "n m"], jump: float, G):
    """(n, m): pairs whose hyperplane pushes away on both of its sides: the flow is not unique there. `G` (d, m)."""
    gap = jump * orientation * lam * lengths(X) ** 2
    off = orientation * (X @ G) - jnp.where(modes.on, gap, 0.0)
    return ~modes.slide & (off <= 0) & (off + gap > 0)
