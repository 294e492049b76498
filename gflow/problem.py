"""Problem(X, y, loss, activation): margins, weights p, multipliers lambda, objective, KKT residual.

The one home of every scale factor: P(theta) = 1/2 |theta|^2 / q_min, normalised margin = q_min / |theta|^2 = 1/(2P).
Source: arXiv 2110.06488, sections 2 and 3; Lyu & Li, arXiv 1906.05890.
"""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float

from gflow._types import Module, namespace, positive
from gflow.activations import AbstractActivation, ReLU
from gflow.inclusion import least_norm_slopes
from gflow.labels import check_numbers, check_rows, labelled, one_hot
from gflow.lines import Lines, columns, shared_lines
from gflow.losses import AbstractLoss, AbstractMarginLoss, Logistic
from gflow.network import TwoLayer, VectorTwoLayer, inner, require_network
from gflow.parts import require_part

UNASKED = 1e30
"""The margin of an entry without a label: its loss and weight are 0, and q_min does not see it."""

EPS, UNDERFLOW = 2.0**-52, 1e-290
"""Of float64: rounding, relative; numbers below the other one lose digits, and a square below it may be 0."""


class Problem(Module):
    """Data, a loss and a weight decay: L(theta) + weight_decay/2 |theta|^2, L = sum_n l(q_n).

    `X` (n, d) samples in rows, `y` (n,) labels -1 or +1, or real for the squared loss. Vector output: `y` (n, K), one
    column per output (classes one-vs-rest), L sums over entries, and all that is (n,) below is (n, K); a label 0 leaves
    its entry out. Of a loss of margins any two label values (n,), numbers, truth values or text, become -1 and +1 in
    sorted order, and three to twenty of them the columns of vector output: `classes` says which; it may be given where
    y holds -1 and +1 only. Raises ValueError for anything else: wrong shapes, no rows, entries that are not finite,
    rows shorter than 1e-100 or longer than 1e100, labels (n, K) that are not -1 or +1, one-hot columns, a weight decay
    that is negative or not finite, vector output with another loss or weight decay.
    """

    X: Float[Array, "n d"]
    y: Float[Array, "n *K"]
    loss: AbstractLoss
    activation: AbstractActivation
    lines: Lines | None
    """Which samples share a hyperplane; None if none do."""
    weight_decay: Float[Array, ""] | None
    """beta of L + beta/2 |theta|^2; None for 0."""
    classes: tuple[Any, ...] = eqx.field(static=True)
    """What -1 and +1, or the K columns of y stand for; () of real labels, and of columns without names."""

    def __init__(
        self,
        X,
        y,
        loss: AbstractLoss = Logistic(),
        activation: AbstractActivation = ReLU(),
        weight_decay=0.0,
        *,
        classes: tuple[Any, ...] | None = None,
    ):
        require_part("loss", loss, AbstractLoss)
        require_part("activation", activation, AbstractActivation)
        found: tuple[Any, ...] = ()
        if not isinstance(X, jax.core.Tracer) and not isinstance(y, jax.core.Tracer):
            check_rows(np.asarray(X), np.shape(y))
            y, found = _labels(np.asarray(y), loss)
        self.classes = found if classes is None else tuple(classes)
        self.X = jnp.asarray(X, jnp.result_type(float))
        self.y = jnp.asarray(y, self.X.dtype)
        self.loss = loss
        self.activation = activation
        self.lines = shared_lines(self.X)
        self.weight_decay = _decay(weight_decay, self.X.dtype)
        if self.outputs is not None and not self.directional:
            raise ValueError("vector output is for logistic or exponential loss without weight decay")

    @property
    def outputs(self) -> int | None:
        """K of vector output, None for a scalar network."""
        return self.y.shape[1] if self.y.ndim == 2 else None

    def require_scalar(self) -> None:
        """Raise ValueError for vector output."""
        if self.outputs is not None:
            raise ValueError(
                "this exists for labels (n,); with labels (n, K) use solve_flow, find_limit, certify, descend and "
                "solve_vector_max_margin"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.X.shape[0], self.X.shape[1]

    def check(self, network: TwoLayer | VectorTwoLayer) -> None:
        """Raise ValueError unless W1 is (d, m) and w2 is (m,), or W2 (m, K), with the d and K of the data."""
        d = self.shape[1]
        require_network(network)
        if isinstance(network, VectorTwoLayer) or self.outputs is not None:
            shapes = tuple(a.shape for a in jax.tree.leaves(network))
            width = network.W1.shape[-1] if network.W1.ndim else 0
            wanted = (d, width), (width, self.outputs)
            if not isinstance(network, VectorTwoLayer) or self.outputs is None or shapes != wanted or not width:
                raise ValueError(
                    f"the network does not fit the data: labels (n, K) go with VectorTwoLayer(W1 ({d}, m), W2 (m, K)) "
                    f"and labels (n,) with TwoLayer(W1, w2 (m,)); got y {self.y.shape}, weights {shapes}"
                )
            return
        if network.w2.ndim == 1 and network.width == 0:
            raise ValueError("the network has no neurons")
        if network.W1.ndim != 2 or network.W1.shape[0] != d or network.w2.shape != network.W1.shape[1:]:
            raise ValueError(
                f"the weights do not fit the data: W1 must be ({d}, m) and w2 (m,), got W1 {network.W1.shape} and "
                f"w2 {network.w2.shape}; for many initialisations use jax.vmap or gflow.sweep"
            )

    def require_max_margin(self) -> None:
        """Raise ValueError unless the loss is one of margins, without weight decay: max-margin is about it."""
        if not self.of_margins:
            name = type(self.loss).__name__
            raise ValueError(f"{name} has no margins: use Logistic or Exponential here, or solve_penalized")
        if not self.directional:
            raise ValueError(
                "with weight decay the flow ends at a point: use solve_penalized, not the max-margin program"
            )

    @property
    def lower_slope(self) -> float:
        """alpha, the activation's slope for z < 0; it is 1 for z > 0. Raises ValueError for fixed gates."""
        self.require_sides()
        return self.activation.slope_interval()[0]

    def require_sides(self) -> None:
        """Raise ValueError unless the activation is a function of z: fixed gates have another program."""
        if not self.activation.kinks:
            raise ValueError("with fixed gates use gated_limit, or solve_gated for the program with weight decay")

    def require_relu(self) -> None:
        """Raise ValueError unless the activation is ReLU."""
        if self.activation.slope_interval() != (0.0, 1.0):
            name = type(self.activation).__name__
            raise ValueError(f"this exists for ReLU, not for {name}")

    @property
    def of_margins(self) -> bool:
        """Whether the loss is one of margins q = y f(x)."""
        return isinstance(self.loss, AbstractMarginLoss)

    @property
    def directional(self) -> bool:
        """Whether the flow has a direction for a limit, not a point: a loss of margins without weight decay."""
        return self.of_margins and self.weight_decay is None

    def signs(self) -> Float[Array, " n"]:
        """c (n,) with q = c o f - b: the labels for a loss of margins, else 1. lambda = c o alpha."""
        return self.y if self.of_margins else jnp.ones_like(self.y)

    def targets(self) -> Float[Array, " n"]:
        """b (n,) with q = c o f - b: 0 for a loss of margins, else the labels."""
        return jnp.zeros_like(self.y) if self.of_margins else self.y

    def margins(self, network: TwoLayer | VectorTwoLayer) -> Float[Array, "n *K"]:
        """q (n,): margins y_n f(x_n), or residuals f(x_n) - y_n for the squared loss."""
        return self.scored(network(self.X, self.activation))

    def scored(self, outputs: Float[Array, "n *K"]) -> Float[Array, "n *K"]:
        """q (n,) of the outputs f(x_n)."""
        if self.outputs is not None:
            return namespace(self.y, outputs).where(self.y == 0, UNASKED, self.y * outputs)
        return self.y * outputs if self.of_margins else outputs - self.y

    @property
    def _tail(self) -> AbstractMarginLoss:
        assert isinstance(self.loss, AbstractMarginLoss), "weights exist for losses of margins"
        return self.loss

    def loss_value(self, q: Float[Array, " n"]) -> Float[Array, ""]:
        """L = sum_n l(q_n) from margins."""
        return jnp.sum(self.loss.value(q))

    def separated(self, q: Float[Array, " n"]) -> Bool[Array, ""]:
        """L < l(0), which implies that every margin is positive.

        From then on the smoothed normalised margin never falls (arXiv 1906.05890, section 4).
        """
        return self.loss_value(q) < self.loss.value(jnp.zeros((), q.dtype))

    def log_S(self, q: Float[Array, " n"]) -> Float[Array, ""]:
        """log S, S = sum_n -l'(q_n): the rate of the clock, ds = S dt. For a loss without margins S = 1."""
        return logsumexp(self._tail.log_weight(q)) if self.of_margins else jnp.zeros((), q.dtype)

    def weights(self, q: Float[Array, " n"]) -> Float[Array, " n"]:
        """p_n = -l'(q_n) / S, in the simplex."""
        return jax.nn.softmax(self._tail.log_weight(q), axis=None)

    def multipliers(self, q: Float[Array, " n"]) -> Float[Array, " n"]:
        """lambda_n = p_n y_n, so that |lambda|_1 = 1; for a loss without margins lambda_n = -l'(q_n)."""
        return self.weights(q) * self.y if self.of_margins else -self.loss.slope(q)

    def total_loss(self, network: TwoLayer | VectorTwoLayer) -> Float[Array, ""]:
        """L(theta) + weight_decay/2 |theta|^2."""
        loss = self.loss_value(self.margins(network))
        return loss if self.weight_decay is None else loss + 0.5 * self.weight_decay * network.squared_norm()

    def objective(self, network: TwoLayer | VectorTwoLayer) -> Float[Array, ""]:
        """P(theta) = 1/2 |theta|^2 / q_min; infinite unless every margin is positive."""
        q = self.margins(network)
        xp, q_min = namespace(q), q.min()
        fits = positive(q_min)
        return xp.where(fits, 0.5 * network.squared_norm() / xp.where(fits, q_min, 1.0), xp.inf)

    def rounding(self, network: TwoLayer | VectorTwoLayer) -> Float[Array, ""]:
        """A bound on the relative rounding error of q_min and P(theta); infinite unless every margin is positive.

        (n_terms + 8) eps max_n sum_i |a_i| sum_j |x_nj||w_ji| / q_min: large where neurons cancel each other.
        """
        terms = abs(self.X) @ abs(network.W1) @ abs(network.second)
        q, count = self.margins(network), network.width + self.shape[1] + 8
        xp, q_min = namespace(q), q.min()
        fits, info = positive(q_min), jnp.finfo(self.X.dtype)
        error = info.eps * terms.max() + info.tiny * (1 + abs(network.second).max(initial=0.0))
        return xp.where(fits, count * error / xp.where(fits, q_min, 1.0), xp.inf)

    def total_rounding(self, q: Float[Array, " n"], terms, total: float, count: int) -> float:
        """A bound on the relative rounding error of `total`, computed as L at q (n,) + beta/2 |theta|^2.

        `terms` (n,): the sum of the absolute values of what f(x_n) is summed of, `count` numbers. Infinite where
        squares have underflowed: a loss of 0 that is none.
        """
        terms, b, count = np.asarray(terms), np.abs(np.asarray(self.targets())), count + sum(self.shape)
        if not (terms.any() or b.any()):
            return 0.0 if total == 0 else count * EPS
        off = count * EPS * (terms + b)
        error = float(np.abs(np.asarray(self.loss.slope(q))) @ off + off @ off)
        return (error + count * UNDERFLOW) / total + count * EPS if total > 0 else np.inf

    def normalised_margin(self, network: TwoLayer | VectorTwoLayer) -> Float[Array, ""]:
        """q_min / |theta|^2; its optimum is 1/(2 P*). Zero for the zero network."""
        squared = network.squared_norm()
        return self.margins(network).min() / namespace(squared).where(positive(squared), squared, 1.0)

    def least_norm_gradients(
        self, network: TwoLayer | VectorTwoLayer, lam: Float[Array, "n *K"], band: float
    ) -> Float[Array, "d m"]:
        """G (d, m), column i the least-norm X^T D_i lambda: (1/S) dw_i/dt = a_i G_i, (1/S) da_i/dt = w_i . G_i.

        Vector output: X^T D_i Lambda v_i, v_i = a_i/|a_i|, and (1/S) dw_i/dt = |a_i| G_i. `band`: a pair counts as a
        kink if |x_n . w_i| <= band |x_n||w_i|.
        """
        pull = lam @ network.output_directions() if isinstance(network, VectorTwoLayer) else lam
        if self.activation.kinks:
            D = least_norm_slopes(self.X, pull, network.directions(), self.activation, band, self.lines)
        else:
            D = self.activation.slope(self.X @ network.W1)
        return self.X.T @ (D * columns(pull))

    def velocity(self, network: TwoLayer | VectorTwoLayer, G: Float[Array, "d m"], lam: Float[Array, "n *K"]):
        """(1/S) d/dt of (W1, w2) or (W1, W2) from the G of `least_norm_gradients`; da_i = Lambda^T (X w_i)_+."""
        if isinstance(network, VectorTwoLayer):
            return network.output_norms() * G, self.activation(self.X @ network.W1).T @ lam
        return network.w2 * G, inner(network.W1, G)

    def kkt_residual(
        self, network: TwoLayer | VectorTwoLayer, lam: Float[Array, "n *K"], band: float = 1e-6
    ) -> Float[Array, ""]:
        """1 - cos(theta, v), v the least-norm element of -d°L: 0 iff theta is a KKT direction for lambda.

        Between 0 and 2, the same for c theta and c lambda, c > 0; 1 where v = 0 or theta = 0. `lam` (n,) are the
        multipliers (p_n y_n along a flow). Source: arXiv 1906.05890, section 4; arXiv 2110.06488, section 3.
        """
        return self.misalignment(network, self.least_norm_gradients(network, lam, band), lam)

    def misalignment(
        self, network: TwoLayer | VectorTwoLayer, G: Float[Array, "d m"], lam: Float[Array, "n *K"]
    ) -> Float[Array, ""]:
        """1 - cos(theta, v) for the velocity v of these G and lambda; 1 where either is zero."""
        squared = network.squared_norm()
        xp = namespace(squared, G, lam)
        size = xp.sqrt(squared)
        unit = network.scaled(1 / xp.where(positive(size), size, 1.0))
        dW1, dw2 = self.velocity(unit, G, lam)
        speed = xp.sqrt(xp.sum(dW1**2) + xp.sum(dw2**2))
        safe = xp.where(positive(speed), speed, 1.0)
        # half the squared chord instead of 1 - cos: no cancellation near 0
        W1, w2 = jax.tree.leaves(unit)
        chord = xp.sum((W1 - dW1 / safe) ** 2) + xp.sum((w2 - dw2 / safe) ** 2)
        return xp.where(positive(speed) & positive(size), 0.5 * chord, 1.0)

    def speed(self, network: TwoLayer, G: Float[Array, "d m"], lam: Float[Array, " n"]) -> Float[Array, ""]:
        """How fast in t the fastest neuron changes, relative to its size and to sum |lambda_n||x_n|, lambda = -dL/df,
        for dw_i = a_i G_i - beta w_i, da_i = w_i . G_i - beta a_i: 0 at a stationary point.

        One that shrinks counts by what it has to lose, min(1, (a_i^2 + |w_i|^2) max|x_n|). One that turns or grows
        counts in full, however small: a flow may rest near a stationary point for as long as such a neuron takes.
        Without weight decay an interpolating network is at rest too: the largest |lambda_n| relative to the zero
        network's counts if that is less.
        """
        W1, w2 = network.W1, network.w2
        dW, da = w2 * G, jnp.sum(W1 * G, axis=0)
        if self.weight_decay is not None:
            dW, da = dW - self.weight_decay * W1, da - self.weight_decay * w2
        # sizes first: squares of weights of 1e-160 are 0
        size = jnp.maximum(jnp.max(jnp.abs(W1), axis=0), jnp.abs(w2))
        safe = jnp.where(size > 0, size, 1.0)
        W1, w2, dW, da = W1 / safe, w2 / safe, dW / safe, da / safe
        squared = jnp.where(size > 0, jnp.sum(W1**2, axis=0) + w2**2, 1.0)
        growth = (jnp.sum(W1 * dW, axis=0) + w2 * da) / squared
        turning = jnp.sqrt(jnp.maximum((jnp.sum(dW**2, axis=0) + da**2) / squared - growth**2, 0.0))
        lengths = jnp.sqrt(jnp.sum(self.X**2, axis=1))
        effect = jnp.minimum(1.0, squared * size**2 * jnp.max(lengths))
        fastest = jnp.max(jnp.maximum(turning, jnp.where(growth > 0, growth, -growth * effect)), initial=0.0)
        scale = jnp.sum(jnp.abs(lam) * lengths)
        relative = fastest / jnp.where(scale > 0, scale, 1.0)
        if self.weight_decay is not None:
            return relative
        at_zero = jnp.abs(self.loss.slope(-self.targets()))
        usual = lengths * jnp.max(at_zero) / jnp.max(lengths)
        left = jnp.abs(lam) / jnp.where(at_zero > 0, at_zero, jnp.where(usual > 0, usual, 1.0))
        return jnp.minimum(relative, jnp.max(left))

    def slackness(self, q: Float[Array, " n"], p: Float[Array, " n"]) -> Float[Array, ""]:
        """Complementary slackness max_n p_n (q_n / q_min - 1), p in the simplex; infinite unless q_min > 0."""
        xp, q_min = namespace(q, p), q.min()
        fits = positive(q_min)
        return xp.where(fits, xp.max(p * (q / xp.where(fits, q_min, 1.0) - 1)), xp.inf)


def _labels(y: np.ndarray, loss: AbstractLoss) -> tuple[np.ndarray, tuple[Any, ...]]:
    """(y, classes) as `Problem` holds them."""
    real = not isinstance(loss, AbstractMarginLoss)
    if y.ndim == 1:
        read = labelled(y, real)
        if real and read.y.ndim == 2:
            raise ValueError(f"{type(loss).__name__} takes numbers as labels, these are {len(read.classes)} classes")
        if read.doubtful:
            warnings.warn(
                f"labels that are not whole numbers make {len(read.classes)} classes: for real-valued labels take "
                "loss=gflow.Squared()",
                stacklevel=5,
            )
        return read.y, read.classes
    check_numbers("y", y)
    if one_hot(y):
        raise ValueError("y is one-hot, and a label 0 leaves its entry out: pass the classes (n,), or 2 y - 1")
    if not real and not np.all(np.isin(y, (-1, 0, 1))):
        raise ValueError(
            f"labels (n, K) must be -1 or +1, or 0 to leave an entry out, got {np.unique(y)[:5]}; pass classes as (n,)"
        )
    if y.shape[1] == 1 and not np.any(y == -1) and np.any(y == 0):
        raise ValueError("a label 0 leaves its entry out of one column (n, 1): pass 0 and 1 as (n,), y.ravel()")
    if not y.any():
        raise ValueError("all labels are 0: nothing is asked of the network")
    return y, ()


def _decay(weight_decay, dtype) -> Float[Array, ""] | None:
    if weight_decay is None or isinstance(weight_decay, jax.core.Tracer):
        return weight_decay
    if not 0 <= float(weight_decay) < np.inf:
        raise ValueError(f"the weight decay must be at least 0 and finite, got {weight_decay} (--weight-decay)")
    return jnp.asarray(weight_decay, dtype) if float(weight_decay) > 0 else None
