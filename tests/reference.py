"""An event-driven integrator of the inclusion in NumPy and SciPy: slow, simple, and sharing no code with gflow.

Balanced networks, logistic loss, clock s. Between events the modes (off, on, sliding) are fixed and DOP853 runs at a
tolerance of 1e-13; every crossing and every end of a slide is located by Newton's method on full steps, and the modes
after it come from the box-constrained least squares problem of the least-norm velocity.
"""

import itertools

import numpy as np
from scipy.integrate import DOP853

ON_KINK = 1e-11


class Reference:
    """State u (d, m) unit directions, r (m,) = log|w|, signs s (m,); modes "on" and "slide" (n, m)."""

    def __init__(self, X, y, W1, w2):
        self.X, self.y = np.asarray(X, float), np.asarray(y, float)
        W1, w2 = np.asarray(W1, float), np.asarray(w2, float)
        self.s, (self.d, self.m) = np.sign(w2), W1.shape
        norms = np.linalg.norm(W1, axis=0)
        self.state, self.time = np.concatenate([(W1 / norms).ravel(), np.log(norms)]), 0.0
        self.on, self.slide = self.X @ W1 > 0, np.zeros((len(y), self.m), bool)
        self.events = []

    def split(self, state):
        return state[: self.d * self.m].reshape(self.d, self.m), state[self.d * self.m :]

    def margins(self, state):
        u, r = self.split(state)
        return self.y * ((np.where(self.on, self.X @ u, 0.0)) @ (self.s * np.exp(2 * r)))

    def multipliers(self, state):
        q = self.margins(state)
        weight = np.where(q > 0, np.exp(-np.abs(q)), 1.0) / (1 + np.exp(-np.abs(q)))
        return weight / weight.sum() * self.y

    def forces(self, state):
        """G (d, m) with the entries of sliding pairs, and these entries (n, m)."""
        lam = self.multipliers(state)
        G, delta = self.X.T @ (self.on * lam[:, None]), np.zeros(self.on.shape)
        for i in np.flatnonzero(self.slide.any(axis=0)):
            k = np.flatnonzero(self.slide[:, i])
            A = lam[k, None] * self.X[k]  # G + A^T delta is orthogonal to the rows k
            delta[k, i] = np.linalg.solve(A @ A.T, -A @ G[:, i])
            G[:, i] += A.T @ delta[k, i]
        return G, delta

    def velocity(self, _, state):
        u, _ = self.split(state)
        g = self.s * self.forces(state)[0]
        radial = np.sum(u * g, axis=0)
        return np.concatenate([(g - radial * u).ravel(), radial])

    def gaps(self, state):
        """For every pair a number that is positive inside its mode: +-z, or the distance of delta from its bounds."""
        u, _ = self.split(state)
        z, delta = self.X @ u, self.forces(state)[1]
        return np.where(self.slide, np.minimum(delta, 1 - delta), np.where(self.on, z, -z))

    def run(self, until):
        """Integrate to s = until and return (W1, w2)."""
        while self.time < until:
            solver = DOP853(self.velocity, self.time, self.state, until, rtol=1e-13, atol=1e-14)
            # pairs that have just changed start at a gap of zero
            fresh = self.gaps(self.state) < ON_KINK
            while solver.status == "running":
                old_time, old = solver.t, solver.y.copy()
                solver.step()
                assert solver.status != "failed"
                dense = solver.dense_output()
                hit = None
                for t in np.linspace(old_time, solver.t, 9)[1:]:
                    gap = self.gaps(dense(t))
                    wrong = gap < np.where(fresh, -ON_KINK, 0.0)
                    if wrong.any():
                        hit = t, wrong
                        break
                    fresh &= gap < ON_KINK
                if hit is not None:
                    self._locate(old_time, old, *hit)
                    break
                self.time, self.state = solver.t, solver.y.copy()
        u, r = self.split(self.state)
        u = u / np.linalg.norm(u, axis=0)
        return u * np.exp(r), self.s * np.exp(r)

    def _locate(self, start, old, late, wrong):
        """Step from (start, old) onto the earliest of the wrong pairs' events, by secants on steps of full accuracy."""

        def at(t):
            if t <= start:
                return old
            solver = DOP853(self.velocity, start, old, t, rtol=1e-13, atol=1e-14)
            while solver.status == "running":
                solver.step()
            return solver.y

        low, high = start, late
        gap = lambda state: np.min(self.gaps(state)[wrong])  # noqa: E731
        g_low, g_high = gap(at(low)), gap(at(high))
        for _ in range(200):
            if high - low <= 1e-14 * max(1.0, high):
                break
            cut = low + (high - low) * np.clip(g_low / (g_low - g_high), 0.02, 0.98) if g_low > 0 else (low + high) / 2
            g = gap(at(cut))
            if g > 0:
                low, g_low = cut, g
            else:
                high, g_high = cut, g
        self.time, self.state = high, at(high)
        pairs = np.argwhere(wrong & (self.gaps(self.state) <= ON_KINK))
        assert len(pairs), "an event without a pair"
        u, r = self.split(self.state)
        u = u / np.linalg.norm(u, axis=0)
        for i in {int(i) for _, i in pairs}:
            u[:, i] = self._new_modes(i, u[:, i], [int(n) for n, j in pairs if j == i])
        self.state = np.concatenate([u.ravel(), r])

    def _new_modes(self, i, u, changed):
        """Modes of neuron i's kinks, and its direction snapped onto the rows on which it slides."""
        lam = self.multipliers(self.state)
        kinks = [k for k in range(len(self.y)) if self.slide[k, i] or k in changed]
        before = {k: "slide" if self.slide[k, i] else "on" if self.on[k, i] else "off" for k in kinks}
        rest = self.on[:, i].copy()
        rest[kinks] = False
        v = self.X.T @ (rest * lam)
        A = lam[kinks, None] * self.X[kinks]
        delta = box_by_enumeration(A, v)
        for k, value in zip(kinks, delta, strict=True):
            friendly = self.s[i] * self.y[k] > 0
            if friendly:  # it crosses; an entry at its upper end then means that it leaves towards off
                on = before[k] == "off"
                slide = False
            else:
                on, slide = value >= 1, 0 < value < 1
            self.on[k, i], self.slide[k, i] = on, slide
            after = "slide" if slide else "on" if on else "off"
            self.events.append((self.time, i, k, before[k], after))
        held = np.flatnonzero(self.slide[:, i])
        if len(held):
            Q, _ = np.linalg.qr(self.X[held].T)
            u = u - Q @ (Q.T @ u)
        return u / np.linalg.norm(u)


def box_by_enumeration(A, v):
    """argmin over delta in [0,1]^K of |v + A^T delta|: all 3^K faces of the box, for K up to 7."""
    K, best = len(A), None
    for face in itertools.product((0.0, 1.0, None), repeat=K):
        free = [k for k in range(K) if face[k] is None]
        delta = np.array([0.0 if f is None else f for f in face])
        if free:
            B = A[free]
            delta[free] = np.linalg.lstsq(B @ B.T, -B @ (v + A.T @ delta), rcond=1e-13)[0]
            if np.any(delta < 0) or np.any(delta > 1):
                continue
        size = np.linalg.norm(v + A.T @ delta)
        if best is None or size < best[0] - 1e-15:
            best = size, delta
    assert best is not None
    return best[1]
