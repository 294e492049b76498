"""What happened at kinks inside a step whose modes were held fixed: new modes, the correction, and what it leaves.

Source: theory, "Network, loss, flow" (which kinks can slide); arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gflow.flow.field import Field, Frozen, Rates
from gflow.flow.modes import Choice, Modes, choose, gather, most_sliding, on_kink


class KinkError(NamedTuple):
    """Per neuron: `charge` (m,), the error left by crossings, and `theta` (m,), where in the step the worst one was;
    `weights`: the error of p, and so of every velocity, that the error of the smooth step makes."""

    charge: Float[Array, " m"]
    theta: Float[Array, " m"]
    weights: Float[Array, ""]


class Events(NamedTuple):
    """Pairs (n, m) whose mode does not hold up to the end of the step.

    `wrong`: on the other side of their hyperplane. `crowded`: wrong, and no room to slide. `left`: slid, and their
    entry has passed its bound; `jumped`: of these the ones whose neuron crossed another hyperplane, where entries jump.
    `turned`: slid until a_i changed its sign, which makes the hyperplane repelling. `theta`: fraction of the step at
    which it happened; `spread` (m,): fraction between a neuron's first crossing and its last, of what was left then.
    `away`: fraction of the step that a pair spent on the other side and came back from: had its mode changed there, it
    might not have.
    """

    choice: Choice
    wrong: Bool[Array, "n m"]
    crowded: Bool[Array, "n m"]
    left: Bool[Array, "n m"]
    jumped: Bool[Array, "n m"]
    turned: Bool[Array, "n m"]
    excess: Float[Array, "n m"]
    theta: Float[Array, "n m"]
    spread: Float[Array, " m"]
    away: Float[Array, "n m"]


def after_step(field: Field, modes: Modes, frozen: Frozen, start: Rates, Zm, end: Rates, z1: PyTree[Array], h):
    """The corrected end of a step, new modes, their frozen field, what the correction leaves as an error, and Events.

    `start`, `end`: the field with the old modes; `Zm` (n, m): pre-activations halfway.
    """
    length = h * field.clock.rate(end.log_S)
    events = settle(field, modes, start, Zm, end, z1)
    change, correction = corrections(field, modes, frozen, events, end, z1, length)
    kinks = charged(field, frozen, events, change, correction, start, end, z1, length)
    z1 = field.chart.with_hidden(z1, events.choice.frozen.project(field.chart.hidden(z1) + correction))
    return z1, events.choice.modes, events.choice.frozen, kinks, events


def settle(field: Field, modes: Modes, start: Rates, Zm, end: Rates, z1: PyTree[Array]) -> Events:
    """The modes at the end of a step, and when the old ones ceased to hold."""
    X, Z, lam = field.problem.X, end.Z, end.lam
    lower, upper = field.problem.activation.slope_interval()
    jump = upper - lower
    wrong = ~modes.slide & jnp.where(modes.on, Z < 0, Z > 0) & ~on_kink(field, z1, Z)
    hostile = jnp.sign(field.chart.orientation(z1)) * lam[:, None] < 0
    # on a repelling hyperplane both sides are solutions: the one with the smaller share of its entry is taken
    turned = modes.slide & ~hostile & (lam[:, None] != 0)
    on = (modes.on ^ (wrong & ~hostile)) | (turned & (modes.delta < 0.5 * jump))
    # one neuron slides on at most K rows: a crossing for which there is no room keeps its mode and is charged in full
    slide = modes.slide & ~turned
    choice, candidate = choose(field, on, gather(X, slide | (wrong & hostile), most_sliding(field), first=slide), lam)
    crowded = wrong & hostile & ~candidate

    left = slide & ~choice.modes.slide
    bound = jnp.where(choice.modes.on, jump, 0.0)
    run = choice.wanted - modes.delta
    passed = jnp.clip((bound - modes.delta) / jnp.where(run == 0, 1.0, run), 0.0, 1.0)
    crossed = crossing(start.Z, Zm, Z)
    # a crossing changes the normal velocity of every row on which its neuron slides: these entries jump with it
    mended = wrong & ~crowded
    first = jnp.min(jnp.where(mended, crossed, 1.0), axis=0)
    last = jnp.max(jnp.where(mended, crossed, 0.0), axis=0)
    jumped = left & (first < 1)
    theta = jnp.where(jumped, first, jnp.where(left, passed, crossed))
    excess = jnp.where(left, jnp.where(jumped, modes.delta, choice.wanted) - bound, 0.0)
    spread = jnp.maximum(last - first, 0.0) / jnp.maximum(1 - first, 1e-300)
    entered, away = excursion(start.Z, Zm, Z, modes.on)
    away = jnp.where(wrong | modes.slide, 0.0, away)
    theta = jnp.where(away > 0, entered, theta)
    return Events(choice, wrong, crowded, left, jumped, turned, excess, theta, spread, away)


def corrections(field: Field, modes: Modes, frozen: Frozen, events: Events, end: Rates, z1: PyTree[Array], length):
    """(change (n, m), correction (d, m)): a direction is corrected by what its pairs added with their old mode.

    An entry that drifted out of its interval had grown linearly from its bound: half of its excess counts.
    """
    after = events.choice.frozen.D + jnp.where(events.choice.modes.slide, events.choice.modes.delta, 0.0)
    given_up = jnp.where(events.jumped, -1.0, -0.5) * events.excess
    switch = jnp.where(events.wrong & ~events.crowded, after - frozen.D, given_up)
    change = switch * (1 - events.theta) * length * end.lam[:, None]
    return change, field.chart.orientation(z1) * (field.problem.X.T @ change)


def charged(field: Field, frozen: Frozen, events: Events, change, correction, start: Rates, end: Rates, z1, length):
    """KinkError: what is left after the corrections, of second order in the time since the crossing."""
    X, Z, lam = field.problem.X, end.Z, end.lam
    lower, upper = field.problem.activation.slope_interval()
    orientation, tau = field.chart.orientation(z1), (1 - events.theta) * length
    row = jnp.linalg.norm(X, axis=1)[:, None]
    safe = jnp.where(row > 0, row, 1.0)
    size = jnp.maximum(jnp.abs(lam), jnp.abs(start.lam))
    drift = jnp.abs(lam - start.lam) / jnp.maximum(size * length, 1e-300)
    speed = jnp.abs(orientation) * jnp.linalg.norm(end.G, axis=0)
    # several crossings of one neuron: each moves the others', relatively by what it shifts their pre-activation
    others = jnp.abs(X @ correction - orientation * change * row**2)
    shifted = jnp.where(events.wrong, others / jnp.maximum(jnp.abs(Z), 1e-300), 0.0)
    shifted = jnp.where(events.jumped, events.spread, shifted)
    since = jnp.where(events.left, length, tau)
    second = jnp.abs(change) * row * jnp.minimum(1.0, (drift[:, None] + speed) * since + shifted)
    # a pair on the wrong side that kept its mode, or found no settled one, is not accounted for: it may be off by what
    # it moved since, or by its distance where the neuron is being pulled back
    unmended = events.crowded | (events.wrong & ((change == 0) | events.choice.unsettled))
    whole = jnp.abs(lam[:, None]) * (upper - lower) * row * tau
    first = jnp.where(unmended, jnp.minimum(whole, jnp.abs(Z) / safe), 0.0)
    first = first + jnp.abs(lam[:, None]) * (upper - lower) * row * events.away * length
    # while a pair is on the wrong side it also shifts its margin, and so the multipliers that move every neuron
    shift = jnp.where(events.wrong, jnp.abs(Z) * (upper - lower) * field.chart.sizes(z1), 0.0)
    shared = jnp.abs(lam[:, None]) * row * shift * 0.5 * tau * jnp.sqrt(jnp.asarray(Z.shape[1], Z.dtype))
    charge = (second + first + shared) * jnp.abs(orientation)
    # the earliest of the crossings that matter
    heavy = charge >= jnp.maximum(0.1 * jnp.max(charge, axis=0), 1e-300)
    earliest = jnp.min(jnp.where(heavy, events.theta, 1.0), axis=0)
    return KinkError(jnp.sum(charge, axis=0), earliest, jnp.zeros_like(length))


def crossing(Z0: Float[Array, "n m"], Zm: Float[Array, "n m"], Z1: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Fraction of the step at which the parabola through Z0, Zm (halfway) and Z1 is zero, clipped to 0..1."""
    c = 2 * (Z0 - 2 * Zm + Z1)
    b = Z1 - Z0 - c
    # of the two roots the one where Z moves towards Z1's side, without cancellation and with one division
    root = jnp.sign(Z1) * jnp.sqrt(jnp.maximum(b**2 - 4 * c * Z0, 0.0))
    along = b * root > 0
    top, bottom = jnp.where(along, -2 * Z0, root - b), jnp.where(along, b + root, 2 * c)
    return jnp.clip(top / jnp.where(bottom == 0, 1.0, bottom), 0.0, 1.0)


def excursion(Z0, Zm, Z1, on: Bool[Array, "n m"]) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """(entry, length): where in the step the parabola goes over to the other side, and for how much of it, if it comes
    back before the end; the length is 0 if it does not go."""
    side = jnp.where(on, 1.0, -1.0)
    Z0, Zm, Z1 = side * Z0, side * Zm, side * Z1
    c = 2 * (Z0 - 2 * Zm + Z1)
    b = Z1 - Z0 - c
    square = b**2 - 4 * c * Z0
    safe = jnp.where(c > 0, c, 1.0)
    goes = (Z0 > 0) & (Z1 > 0) & (c > 0) & (square > 0) & (b < 0) & (-b < 2 * c)
    root = jnp.sqrt(jnp.where(goes, square, 0.0)) / safe
    return jnp.where(goes, -0.5 * b / safe - 0.5 * root, 1.0), jnp.where(goes, root, 0.0)
