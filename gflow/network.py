"""TwoLayer(W1, w2): f(x) = sum_i a_i sigma(w_i . x), its activation patterns and balance; VectorTwoLayer: K outputs.

Source: arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow._types import Module, namespace, positive
from gflow.activations import AbstractActivation, ReLU


def column_norms(W: Float[Array, "... d m"]) -> Float[Array, "... m"]:
    """|w_i| of every column, without underflow for entries below 1e-160."""
    xp = namespace(W)
    largest = xp.max(xp.abs(W), axis=-2)
    exists = positive(largest)
    safe = xp.where(exists, largest, 1.0)
    return xp.where(exists, safe * xp.sqrt(xp.sum((W / safe[..., None, :]) ** 2, axis=-2)), 0.0)


def inner(A: Float[Array, "d ..."], B: Float[Array, "d ..."]) -> Float[Array, "..."]:
    """sum_j A_j B_j over the first axis."""
    return (A * B).sum(axis=0)


class TwoLayer(Module):
    """A two-layer network without bias (append a constant column to X for one).

    `W1` (d, m): first-layer weights, column i is w_i. `w2` (m,): second-layer weights a_i.
    A leading axis on both holds a batch of networks. PyTorch's `Linear(d, m).weight` is W1 transposed, (m, d): where
    m = d its shape cannot tell, and it would be another network, so take `network_of_torch`.
    """

    W1: Float[Array, "... d m"]
    w2: Float[Array, "... m"]

    def __call__(self, X: Float[Array, "n d"], activation: AbstractActivation = ReLU()) -> Float[Array, " n"]:
        """f(x) for every row x of X, shape (n,)."""
        return activation(X @ self.W1) @ self.w2

    @property
    def second(self) -> Float[Array, "... m"]:
        """The second layer: w2 (m,); of a VectorTwoLayer W2 (m, K)."""
        return self.w2

    @property
    def width(self) -> int:
        return self.w2.shape[-1]

    def at(self, index) -> TwoLayer:
        """The networks at this index of the saved times, the last axis before the weights."""
        return TwoLayer(self.W1[..., index, :, :], self.w2[..., index, :])

    def resized(self, width: int) -> TwoLayer:
        """The first `width` neurons, and neurons that are zero where there are fewer."""
        return TwoLayer(_resized(self.W1, width, -1), _resized(self.w2, width, -1))

    def masks(self, X: Float[Array, "n d"]) -> Bool[Array, "n m"]:
        """1[x_n . w_i > 0], shape (n, m)."""
        return X @ self.W1 > 0

    def masses(self) -> Float[Array, "... m"]:
        """|a_i| |w_i|: what neuron i contributes to sum_i |a_i||w_i|."""
        return abs(self.w2) * column_norms(self.W1)

    def live(self) -> Bool[Array, "... m"]:
        """Whether neither w_i nor a_i is 0, also where the product |a_i| |w_i| is too small for a number."""
        return positive(abs(self.w2)) & positive(column_norms(self.W1))

    def directions(self) -> Float[Array, "... d m"]:
        """u_i = w_i / |w_i|; a neuron with w_i = 0 has direction 0."""
        return _units(self.W1)

    def balance(self) -> Float[Array, "... m"]:
        """a_i^2 - |w_i|^2, constant along the flow."""
        return _difference_of_squares(abs(self.w2), column_norms(self.W1))

    def balance_drift(self, start: TwoLayer) -> Float[Array, ""]:
        """The largest change of a_i^2 - |w_i|^2 since `start`, relative to a_i^2 + |w_i|^2; over a batch, of all."""
        return _relative_change(self.balance() - start.balance(), (self.W1**2).sum(axis=-2) + self.w2**2)

    def squared_norm(self) -> Float[Array, "..."]:
        """|theta|^2 = |W1|_F^2 + |w2|^2."""
        xp = namespace(self.W1, self.w2)
        return xp.sum(self.W1**2, axis=(-2, -1)) + xp.sum(self.w2**2, axis=-1)

    def normalised(self) -> TwoLayer:
        """theta / max |theta_k|: nothing over- or underflows, and P(theta), c and directions stay the same."""
        xp = namespace(self.W1, self.w2)
        largest = xp.maximum(xp.max(xp.abs(self.W1), initial=0.0), xp.max(xp.abs(self.w2), initial=0.0))
        safe = xp.where(positive(largest), largest, 1.0)
        return TwoLayer(self.W1 / safe, self.w2 / safe)

    def balanced(self) -> TwoLayer:
        """|a_i| = |w_i| for every neuron, masses relative to the largest: f up to a positive factor, in range.

        A network whose layers differ by 1e300 is turned into one that can be computed with.
        """
        size = _common_size(column_norms(self.W1), abs(self.w2))
        return TwoLayer(size * self.directions(), size * namespace(self.w2).sign(self.w2))

    def with_neuron(self, w: Float[Array, " d"], a) -> TwoLayer:
        """This network and one more neuron a (w . x)_+, for instance the one that a certificate misses."""
        return TwoLayer(jnp.column_stack([self.W1, jnp.asarray(w)]), jnp.append(self.w2, a))

    def scaled(self, factor: Float[Array, ""]) -> TwoLayer:
        """The network factor * theta; its outputs are multiplied by factor^2."""
        return TwoLayer(factor * self.W1, factor * self.w2)


def network_of_torch(hidden, output, bias=None) -> TwoLayer | VectorTwoLayer:
    """The network of weights in PyTorch's layout, tensors or arrays, in float64 where that is switched on.

    Args:
        hidden: `Linear(d, m).weight`, shape (m, d): row i is w_i.
        output: `Linear(m, K, bias=False).weight`, shape (K, m), or (m,).
        bias: `Linear(d, m).bias`, shape (m,); None for a layer without. It becomes the last row of W1, and the data
            need a constant column 1 at their end.

    Returns:
        TwoLayer with W1 (d, m), or (d + 1, m) with a bias, and w2 (m,); for K > 1 VectorTwoLayer with W2 (m, K).

    Raises:
        ValueError: for shapes that do not fit together and weights that are not finite numbers.
    """
    weights = {"hidden": hidden, "output": output} | ({} if bias is None else {"bias": bias})
    H, A, *b = (_of_tensor(name, weight) for name, weight in weights.items())
    A = A[None] if A.ndim == 1 else A
    if H.ndim != 2 or A.ndim != 2 or 0 in H.shape or 0 in A.shape or A.shape[1] != len(H):
        raise ValueError(
            f"hidden is (m, d) and output (K, m) or (m,), as PyTorch has them; got {H.shape} and {A.shape}: "
            "the W1 (d, m) of a TwoLayer is hidden.T"
        )
    if b and b[0].shape != (len(H),):
        raise ValueError(f"bias is that of the hidden layer, shape ({len(H)},); got {b[0].shape}")
    W1 = jnp.asarray(np.vstack([H.T, *b]), float)
    return TwoLayer(W1, jnp.asarray(A[0], float)) if len(A) == 1 else VectorTwoLayer(W1, jnp.asarray(A.T, float))


def _of_tensor(name: str, weight) -> np.ndarray:
    """A tensor or array as NumPy's, in float64."""
    if hasattr(weight, "weight"):
        raise ValueError(f"{name} is a layer: pass its .weight, and the bias of the hidden layer as bias=")
    array = np.asarray(weight.detach().cpu().double() if hasattr(weight, "detach") else weight)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array) or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must hold finite real numbers")
    return array.astype(float)


def require_network(network) -> None:
    """Raise ValueError unless this is a network of arrays; the error says what to write."""
    if not isinstance(network, TwoLayer | VectorTwoLayer):
        hint = "its .final or .network" if hasattr(network, "final") or hasattr(network, "network") else "its weights"
        raise ValueError(
            f"a network is gflow.TwoLayer(W1, w2), with K outputs gflow.VectorTwoLayer(W1, W2); got a "
            f"{type(network).__name__}: pass {hint}"
        )
    if not all(hasattr(layer, "ndim") for layer in (network.W1, network.second)):
        raise ValueError("the weights of a network are arrays: wrap lists in numpy.asarray")


def cast_like(network, X):
    """The network in the dtype of X, itself where it has that already."""
    if network.W1.dtype == network.second.dtype == X.dtype:
        return network
    return type(network)(network.W1.astype(X.dtype), network.second.astype(X.dtype))


def host_network(W1, w2) -> TwoLayer:
    """The network of two NumPy arrays: what is asked of it is computed by NumPy."""
    return TwoLayer(np.asarray(W1), np.asarray(w2))  # pyright: ignore[reportArgumentType]


class VectorTwoLayer(Module):
    """The same with K outputs: F(x) = sum_i sigma(w_i . x) a_i, a_i in R^K (docs/mathematics.md, "Vector output").

    `W1` (d, m): column i is w_i. `W2` (m, K): row i is a_i. A leading axis on both holds a batch of networks.
    """

    W1: Float[Array, "... d m"]
    W2: Float[Array, "... m K"]

    def __call__(self, X: Float[Array, "n d"], activation: AbstractActivation = ReLU()) -> Float[Array, "n K"]:
        """F(x) for every row x of X, shape (n, K)."""
        return activation(X @ self.W1) @ self.W2

    @property
    def second(self) -> Float[Array, "... m K"]:
        """W2 (m, K)."""
        return self.W2

    @property
    def width(self) -> int:
        return self.W2.shape[-2]

    def at(self, index) -> VectorTwoLayer:
        """The networks at this index of the saved times, the last axis before the weights."""
        return VectorTwoLayer(self.W1[..., index, :, :], self.W2[..., index, :, :])

    def resized(self, width: int) -> VectorTwoLayer:
        """The first `width` neurons, and neurons that are zero where there are fewer."""
        return VectorTwoLayer(_resized(self.W1, width, -1), _resized(self.W2, width, -2))

    def output_norms(self) -> Float[Array, "... m"]:
        """|a_i|."""
        return column_norms(self.W2.swapaxes(-1, -2))

    def masses(self) -> Float[Array, "... m"]:
        """|a_i| |w_i|."""
        return self.output_norms() * column_norms(self.W1)

    def directions(self) -> Float[Array, "... d m"]:
        """u_i = w_i / |w_i|; a neuron with w_i = 0 has direction 0."""
        return _units(self.W1)

    def live(self) -> Bool[Array, "... m"]:
        """Whether neither w_i nor a_i is 0, also where the product |a_i| |w_i| is too small for a number."""
        return positive(self.output_norms()) & positive(column_norms(self.W1))

    def output_directions(self) -> Float[Array, "... K m"]:
        """v_i = a_i / |a_i|, in columns."""
        return _units(self.W2.swapaxes(-1, -2))

    def balance_drift(self, start: VectorTwoLayer) -> Float[Array, ""]:
        """The largest change of |a_i|^2 - |w_i|^2 since `start`, relative to |a_i|^2 + |w_i|^2; in a batch, of all."""
        gap = lambda net: _difference_of_squares(net.output_norms(), column_norms(net.W1))  # noqa: E731
        return _relative_change(gap(self) - gap(start), self.output_norms() ** 2 + column_norms(self.W1) ** 2)

    def squared_norm(self) -> Float[Array, "..."]:
        """|theta|^2 = |W1|_F^2 + |W2|_F^2."""
        return jnp.sum(self.W1**2, axis=(-2, -1)) + jnp.sum(self.W2**2, axis=(-2, -1))

    def balanced(self) -> VectorTwoLayer:
        """|a_i| = |w_i| for every neuron, masses relative to the largest: F up to a positive factor, in range."""
        size = _common_size(column_norms(self.W1), self.output_norms())
        return VectorTwoLayer(size * self.directions(), (size * self.output_directions()).T)

    def normalised(self) -> VectorTwoLayer:
        """theta / max |theta_k|: P(theta), c and directions stay the same."""
        largest = jnp.maximum(jnp.max(jnp.abs(self.W1), initial=0.0), jnp.max(jnp.abs(self.W2), initial=0.0))
        return self.scaled(1 / jnp.where(positive(largest), largest, 1.0))

    def scaled(self, factor: Float[Array, ""]) -> VectorTwoLayer:
        """The network factor * theta; its outputs are multiplied by factor^2."""
        return VectorTwoLayer(factor * self.W1, factor * self.W2)


def _resized(W: Float[Array, "..."], width: int, axis: int) -> Float[Array, "..."]:
    xp, have = namespace(W), W.shape[axis]
    if width <= have:
        return xp.take(W, xp.arange(width), axis=axis)
    missing = [(0, 0)] * W.ndim
    missing[axis] = (0, width - have)
    return xp.pad(W, missing)


def _units(W: Float[Array, "... d m"]) -> Float[Array, "... d m"]:
    norms, xp = column_norms(W), namespace(W)
    exists = positive(norms)[..., None, :]
    return xp.where(exists, W / xp.where(exists, norms[..., None, :], 1.0), 0.0)


def _difference_of_squares(a, w):
    """a^2 - w^2, without cancellation."""
    return (a - w) * (a + w)


def _relative_change(change, size):
    xp = namespace(change, size)
    exists = positive(size)
    return xp.max(xp.where(exists, abs(change) / xp.where(exists, size, 1.0), 0.0))


SMALL = 1e-70
"""The least size of a balanced neuron, relative to the largest: squares of its mass are still normal numbers."""


def _common_size(w: Float[Array, " m"], a: Float[Array, " m"]) -> Float[Array, " m"]:
    """sqrt(a_i w_i) relative to the largest, at least SMALL, 0 where either is 0: in range, whatever the two are."""
    xp = namespace(w, a)
    live = positive(w) & positive(a)
    log = 0.5 * (xp.log(xp.where(live, w, 1.0)) + xp.log(xp.where(live, a, 1.0)))
    log = log - xp.max(xp.where(live, log, -xp.inf), initial=-1e300)
    return xp.where(live, xp.exp(xp.where(live, xp.maximum(log, np.log(SMALL)), 0.0)), 0.0)
