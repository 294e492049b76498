"""descend(problem, network, optimizer): subgradient descent with any optax optimiser, beside the flow.

    theta <- theta + update(-d L(theta)),   sigma'(0) the lower slope,

full-batch or by minibatches, on L or on log L, whose steps do not shrink with the loss.
Source: docs/mathematics.md, "Network and loss".
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gflow._types import RESULTS
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.parts import require_part
from gflow.problem import Problem


class Descent(eqx.Module):
    """Iterates theta_k at the saved steps, the last one included.

    `network`: W1 (k, d, m), w2 (k, m) or W2 (k, m, K). `step` (k,), `margins` (k, n) or (k, n, K), `loss` (k,):
    L + weight_decay/2 |theta|^2. `result`: steps_made, or nonfinite: a weight overflowed, and
    so is what follows it.
    """

    network: TwoLayer | VectorTwoLayer
    step: Int[Array, " k"]
    margins: Float[Array, "k n *K"]
    loss: Float[Array, " k"]
    result: RESULTS

    @property
    def final(self) -> TwoLayer | VectorTwoLayer:
        """The last iterate."""
        return self.network.at(-1)


def gradient(
    problem: Problem, network: TwoLayer | VectorTwoLayer, normalised: bool = False, share: float = 1.0
) -> TwoLayer | VectorTwoLayer:
    """dL, or d log L if `normalised`, with sigma'(0) the lower slope, as a network: a sum over samples, times `share`.

    By hand: automatic differentiation is not asked what it thinks of a kink. Margins may be 1e10: log L stays.
    """
    Z = problem.X @ network.W1
    D = problem.activation.slope(Z)
    H = D * Z
    second = network.W2 if isinstance(network, VectorTwoLayer) else network.w2
    q = problem.scored(H @ second)
    if normalised and problem.of_margins:
        # -l'(q) / L, both in logarithms: l ~ -l' on the tail
        value = jnp.log(problem.loss.value(q))
        value = jnp.where(jnp.isfinite(value), value, problem.loss.log_weight(q))  # pyright: ignore
        pull = jnp.exp(problem.loss.log_weight(q) - jax.nn.logsumexp(value)) * problem.y  # pyright: ignore
    else:
        pull = -(1.0 if normalised else share) * problem.loss.slope(q) * problem.signs()
        if normalised:
            loss = problem.loss_value(q)
            pull = pull / jnp.where(loss > 0, loss, 1.0)
    if isinstance(network, VectorTwoLayer):
        return VectorTwoLayer(-(problem.X.T @ (D * (pull @ network.W2.T))), -(H.T @ pull))
    dW1, dw2 = -(problem.X.T @ (D * pull[:, None])) * network.w2, -(pull @ H)
    if problem.weight_decay is None:
        return TwoLayer(dW1, dw2)
    return TwoLayer(dW1 + problem.weight_decay * network.W1, dw2 + problem.weight_decay * network.w2)


def descend(
    problem: Problem,
    network: TwoLayer | VectorTwoLayer,
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    saves: int = 1,
    normalised: bool = False,
    batch: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Descent:
    """`steps` steps from `network`, `saves` iterates of them at equal distances, the last one always.

    `normalised`: steps on log L. `batch`: samples per step, drawn anew without replacement from `key`, their sum scaled
    by n/batch; None: all. A schedule counts steps. `batch`, `saves` and `steps` are static under jit, and many networks
    go through jax.vmap. Raises ValueError for shapes that do not fit, steps < 1, saves not in 1..steps, a batch not in
    1..n or without a key, and for normalised steps with weight decay.
    """
    require_part("problem", problem, Problem)
    problem.check(network)
    if not isinstance(optimizer, optax.GradientTransformation):
        shown = (
            repr(optimizer) if isinstance(optimizer, str) else getattr(optimizer, "__name__", type(optimizer).__name__)
        )
        raise ValueError(f"optimizer takes what optax makes: write optimizer=optax.sgd(0.1), got {shown}")
    n = problem.shape[0]
    if steps < 1 or not 1 <= saves <= steps:
        raise ValueError(f"steps must be at least 1 and saves between 1 and steps, got {steps} and {saves}")
    if batch is not None and (key is None or not 1 <= batch <= n):
        raise ValueError(f"a batch has between 1 and n = {n} samples and needs a key; got {batch}, key {key}")
    if normalised and problem.weight_decay is not None:
        raise ValueError("log L has no weight decay: leave `normalised` or the weight decay out")
    return _descend(problem, network, optimizer, key, steps, saves, normalised, batch)


@eqx.filter_jit
def _descend(problem, network, optimizer, key, steps, saves, normalised, batch) -> Descent:
    def step(k, carry):
        network, state = carry
        if batch is None:
            slope = gradient(problem, network, normalised)
        else:
            part = _minibatch(problem, jax.random.fold_in(key, k), batch)
            slope = gradient(part, network, normalised, problem.shape[0] / batch)
        updates, state = optimizer.update(slope, state, network)
        return optax.apply_updates(network, updates), state

    def onward(carry, ends):
        carry = jax.lax.fori_loop(ends[0], ends[1], step, carry)
        return carry, carry[0]

    # the k-th saved iterate has made `at[k]` steps
    at = jnp.asarray([steps * (k + 1) // saves for k in range(saves)])
    begin = jnp.concatenate([jnp.zeros_like(at[:1]), at[:-1]])
    _, path = jax.lax.scan(onward, (network, optimizer.init(network)), (begin, at))
    q = jax.vmap(problem.margins)(path)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf[-1])) for leaf in jax.tree.leaves(path)]))
    result = RESULTS.where(finite, RESULTS.steps_made, RESULTS.nonfinite)  # pyright: ignore
    return Descent(path, at, q, jax.vmap(problem.total_loss)(path), result)


def _minibatch(problem: Problem, key: PRNGKeyArray, batch: int) -> Problem:
    """The same problem on a few samples; of its fields only those that `gradient` reads mean something."""
    chosen = jax.random.choice(key, problem.shape[0], (batch,), replace=False)
    return eqx.tree_at(lambda p: (p.X, p.y), problem, (problem.X[chosen], problem.y[chosen]))


__all__ = ["Descent", "descend", "gradient"]
