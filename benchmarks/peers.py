"""What a user would write today instead of gflow: solvers of the same flow by other means, on plain arrays.

Each is a generator: it yields (seconds of its own work so far, W1, w2) now and then, until it is stopped or stuck.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np


def parts(theta, d: int):
    """theta (m (d + 1),) -> W1 (d, m), w2 (m,)."""
    m = len(theta) // (d + 1)
    return theta[: d * m].reshape(d, m), theta[d * m :]


def slope(X, y, theta, log: bool):
    """-dL/dtheta, or -d log L/dtheta, of the logistic loss; what exponentials there are go through logarithms."""
    W1, w2 = parts(theta, X.shape[1])
    Z = X @ W1
    H = np.maximum(Z, 0.0)
    q = y * (H @ w2)
    log_weight = -np.logaddexp(0.0, q)  # log of -l'(q)
    if log:
        each = np.where(q > 30, -q, np.log(np.logaddexp(0.0, -np.minimum(q, 30))))
        log_weight = log_weight - each.max() - np.log(np.sum(np.exp(each - each.max())))
    pull = y * np.exp(log_weight)
    return np.concatenate([(X.T @ ((Z > 0) * np.outer(pull, w2))).ravel(), H.T @ pull])


def scipy_steps(X, y, W1, w2, method: str, log: bool, end: float, rtol: float = 1e-6) -> Iterator:
    """One of SciPy's OdeSolver classes, step by step: physical time t, or ds of log L (`log`)."""
    import scipy.integrate as ode

    theta = np.concatenate([W1.ravel(), w2])
    spent, start = 0.0, time.perf_counter()
    solver = getattr(ode, method)(lambda t, th: slope(X, y, th, log), 0.0, theta, end, rtol=rtol, atol=1e-9)
    while solver.status == "running":
        with np.errstate(all="ignore"):  # a trial step may overflow: the solver rejects it
            solver.step()
        now = time.perf_counter()
        if solver.status == "failed":
            return
        if now - start >= 0.02 * max(spent, 0.5) or solver.status == "finished":
            spent += now - start
            yield spent, *parts(solver.y.copy(), X.shape[1])
            start = time.perf_counter()


def diffrax_by_hand(X, y, W1, w2, name: str, until: float = 1e300) -> Iterator:
    """diffrax in physical time with SaveAt(t1), over intervals that grow by 10; compiled before the clock starts."""
    import diffrax
    import jax
    import jax.numpy as jnp

    X, y = jnp.asarray(X), jnp.asarray(y)

    def loss(theta):
        return jnp.sum(jax.nn.softplus(-y * (jax.nn.relu(X @ theta[0]) @ theta[1])))

    term = diffrax.ODETerm(lambda t, theta, _: jax.tree.map(jnp.negative, jax.grad(loss)(theta)))
    control = diffrax.PIDController(rtol=1e-6, atol=1e-9)

    @jax.jit
    def onward(t0, t1, theta):
        out = diffrax.diffeqsolve(
            term, getattr(diffrax, name)(), t0, t1, None, theta, stepsize_controller=control, max_steps=200_000,
            throw=False,
        )  # fmt: skip
        return jax.tree.map(lambda a: a[-1], out.ys), out.result == diffrax.RESULTS.successful

    theta = jnp.asarray(W1), jnp.asarray(w2)
    jax.block_until_ready(onward(0.0, 1e-9, theta))
    t, spent = 0.0, 0.0
    while t < until:
        new, start = max(10 * t, 1.0), time.perf_counter()
        theta, well = jax.block_until_ready(onward(t, new, theta))
        t, spent = new, spent + time.perf_counter() - start
        if not bool(well) or not all(bool(jnp.all(jnp.isfinite(a))) for a in theta):
            return
        yield spent, *map(np.asarray, theta)


def optax_descent(X, y, W1, w2, rate: float, normalised: bool) -> Iterator:
    """Full-batch gradient descent in optax, on L or on log L, in compiled blocks that double until they take 0.2 s."""
    import jax
    import jax.numpy as jnp
    import optax

    X, y, rule = jnp.asarray(X), jnp.asarray(y), optax.sgd(rate)

    def loss(theta):
        q = y * (jax.nn.relu(X @ theta[0]) @ theta[1])
        return (
            jax.nn.logsumexp(jnp.where(q > 30, -q, jnp.log(jax.nn.softplus(-q))))
            if normalised
            else jnp.sum(jax.nn.softplus(-q))
        )

    @jax.jit
    def block(steps, carry):
        def step(_, carry):
            theta, state = carry
            update, state = rule.update(jax.grad(loss)(theta), state)
            return optax.apply_updates(theta, update), state

        return jax.lax.fori_loop(0, steps, step, carry)

    theta = jnp.asarray(W1), jnp.asarray(w2)
    carry, steps, spent = (theta, rule.init(theta)), 64, 0.0
    jax.block_until_ready(block(1, carry))
    while True:
        start = time.perf_counter()
        carry = jax.block_until_ready(block(steps, carry))
        took = time.perf_counter() - start
        spent, steps = spent + took, steps * 2 if took < 0.2 else steps
        yield spent, *map(np.asarray, carry[0])


def torch_descent(X, y, W1, w2, rate: float) -> Iterator:
    """Full-batch gradient descent in PyTorch, float64, one thread."""
    import torch

    torch.set_num_threads(1)
    X, y = torch.tensor(X), torch.tensor(y)
    theta = [torch.tensor(np.array(a), requires_grad=True) for a in (W1, w2)]
    rule, spent, steps = torch.optim.SGD(theta, lr=rate), 0.0, 64
    while True:
        start = time.perf_counter()
        for _ in range(steps):
            rule.zero_grad()
            torch.nn.functional.softplus(-y * (torch.relu(X @ theta[0]) @ theta[1])).sum().backward()
            rule.step()
        took = time.perf_counter() - start
        spent, steps = spent + took, steps * 2 if took < 0.2 else steps
        yield spent, *(a.detach().numpy().copy() for a in theta)


def torchdiffeq_by_hand(X, y, W1, w2, until: float = 1e300) -> Iterator:
    """torchdiffeq's dopri5 in physical time, over intervals that grow by 10."""
    import torch
    import torchdiffeq

    torch.set_num_threads(1)
    X, y = torch.tensor(X), torch.tensor(y)

    def field(t, theta):
        W1, w2 = theta
        Z = X @ W1
        H = torch.relu(Z)
        pull = y * torch.sigmoid(-y * (H @ w2))
        return X.T @ ((Z > 0) * torch.outer(pull, w2)), H.T @ pull

    theta, t, spent = tuple(torch.tensor(np.array(a)) for a in (W1, w2)), 0.0, 0.0
    while t < until:
        new, start = max(10 * t, 1.0), time.perf_counter()
        try:
            path = torchdiffeq.odeint(field, theta, torch.tensor([t, new]), rtol=1e-6, atol=1e-9, method="dopri5")
        except AssertionError:  # underflow of the step: how it says that it is stuck
            return
        theta, t, spent = tuple(a[-1] for a in path), new, spent + time.perf_counter() - start
        yield spent, *(a.numpy() for a in theta)


def vmapped_descent(X, y, W1, w2, rate: float, block: int, until: float, most: int):
    """Full-batch gradient descent on many networks at once, W1 (b, d, m), w2 (b, m): a plain vmapped loop in JAX, until
    every network has fitted or none has gained a part `until` of its loss in a block of steps, or after `most` steps.

    Returns (which fit the data (b,), how many steps were made).
    """
    import jax
    import jax.numpy as jnp

    X, y = jnp.asarray(X), jnp.asarray(y)
    margins = lambda theta: y * (jax.nn.relu(X @ theta[0]) @ theta[1])  # noqa: E731
    loss = lambda theta: jnp.sum(jax.nn.softplus(-margins(theta)))  # noqa: E731

    @jax.jit
    @jax.vmap
    def onward(theta):
        step = lambda _, theta: jax.tree.map(lambda a, g: a - rate * g, theta, jax.grad(loss)(theta))  # noqa: E731
        after = jax.lax.fori_loop(0, block, step, theta)
        return after, loss(theta) - loss(after) <= until * loss(theta), jnp.min(margins(after)) > 0

    theta, steps = (jnp.asarray(W1), jnp.asarray(w2)), 0
    while steps < most:
        theta, rests, fits = onward(theta)
        steps += block
        if bool(jnp.all(rests | fits)):
            break
    return np.asarray(fits), steps
