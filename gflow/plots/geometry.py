"""The geometry of flows: the dual constraint around the circle, the rectified ellipsoid, alignment, kinks along a flow.

Source: arXiv 2110.06488, section 4; Ergen & Pilanci, arXiv 2002.11219, section 2; docs/mathematics.md, "Rectified
ellipsoid and extreme points".
"""

from __future__ import annotations

import numpy as np

from gflow.plots.directions import LIVE
from gflow.plots.style import MINUS, NEUTRAL, PLUS, S_LABEL


def dual_function(ax, X, lam, W1, w2, scale: float = 1.0, label: str = "", colour: str = PLUS):
    """scale lambda^T (X u)_+ for u = (cos phi, sin phi), d = 2, and the neurons W1 (2, m), w2 (m,) on it.

    With `scale` = P(theta) the dual constraint is |.| <= 1. Where it holds everywhere the network is the global
    optimum, and its neurons sit where it is touched; where it is exceeded a neuron is missing.
    """
    X, lam, W1, w2 = map(np.asarray, (X, lam, W1, w2))
    if X.shape[1] != 2:
        raise ValueError(f"the circle is of data in two dimensions, got d = {X.shape[1]}")
    phi = np.linspace(-np.pi, np.pi, 1441)

    def value(angle):
        U = np.stack([np.cos(angle), np.sin(angle)])
        return scale * (lam @ np.maximum(X @ U, 0.0))

    ax.plot(phi, value(phi), color=colour, lw=1.4, label=label or r"$P\,\lambda^T (Xu)_+$")
    mass = np.abs(w2) * np.linalg.norm(W1, axis=0)
    live = mass > LIVE * mass.max(initial=0.0)
    angle = np.arctan2(W1[1, live], W1[0, live])
    for sign, tone in ((1, PLUS), (-1, MINUS)):
        own = np.sign(w2[live]) == sign
        size = 15 + 150 * mass[live][own] / mass[live].sum()
        name = f"neurons, $a_i {'>' if sign > 0 else '<'} 0$" if own.any() else None
        at = angle[own], value(angle[own])
        ax.scatter(*at, s=size, facecolors="none", edgecolors=tone, lw=1.5, zorder=3, label=name)
    for bound in (1.0, -1.0):
        ax.axhline(bound, color=NEUTRAL, lw=0.8, ls="--")
    ax.set_xticks(np.pi * np.array([-1, -0.5, 0, 0.5, 1]), [r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"])
    ax.set(
        title="dual constraint around the circle", xlabel="direction of $u$ (radians)",
        ylabel=r"$P\,\lambda^T (Xu)_+$  (bounds dashed)", xlim=(-np.pi, np.pi),
    )  # fmt: skip
    return ax


def travelled(X, W1, w2) -> np.ndarray:
    """s_i (X u_i)_+ along a flow, (k, n, m): points of Q for positive neurons and of -Q for negative ones."""
    X, W1, w2 = map(np.asarray, (X, W1, w2))
    norms = np.linalg.norm(W1, axis=-2, keepdims=True)
    return np.sign(w2)[..., None, :] * np.maximum(X @ (W1 / np.where(norms > 0, norms, 1.0)), 0.0)


def rectified_ellipsoid(ax, X, paths, lam, y=None):
    """Q = {(Xu)_+ : |u| <= 1} and -Q for n = 2 or 3 samples, the hull of both, and where neurons go on them.

    `paths` (k, n, m): `travelled`. `lam` (n,), scaled to P(theta) at a limit: the face that it exposes is where
    lambda . z = 1. `ax` is a 3d Axes for n = 3.
    """
    from scipy.spatial import ConvexHull

    X, paths, lam = map(np.asarray, (X, paths, lam))
    n, d = X.shape
    if n not in (2, 3):
        raise ValueError(f"Q is drawn for n = 2 and 3 samples, got {n}")
    rng = np.random.default_rng(0)
    U = rng.standard_normal((20_000, d))
    if d == 2:
        phi = np.linspace(0, 2 * np.pi, 2001)
        U = np.stack([np.cos(phi), np.sin(phi)], axis=1)
    rim = np.maximum(U / np.linalg.norm(U, axis=1, keepdims=True) @ X.T, 0.0)
    hull = ConvexHull(np.concatenate([rim, -rim, np.zeros((1, n))]))
    (_plane if n == 2 else _space)(ax, rim, hull, paths, lam, d)
    return ax


def _plane(ax, rim, hull, paths, lam, d: int) -> None:
    outline = hull.points[hull.vertices]
    ax.fill(*outline.T, color="#eeeeee", zorder=0, label=r"hull of $Q \cup -Q$")
    for sign, tone, name in ((1, PLUS, "$Q$"), (-1, MINUS, "$-Q$")):
        order = rim if d == 2 else rim[np.argsort(np.arctan2(rim[:, 1], rim[:, 0]))]
        ax.fill(*(sign * order).T, color=tone, alpha=0.15, zorder=1)
        ax.plot(*(sign * order).T, color=tone, lw=1.0, zorder=1, label=name)
    _paths(ax, paths)
    if np.any(lam):
        # the line lambda . z = 1 touches the hull at its exposed face
        along = np.array([-lam[1], lam[0]]) / np.linalg.norm(lam)
        foot, reach = lam / (lam @ lam), 0.6 * np.abs(outline).max()
        for side in (1, -1):
            line = np.stack([side * foot - reach * along, side * foot + reach * along])
            ax.plot(*line.T, color=NEUTRAL, lw=1.0, ls="--", label=r"$\lambda^T z = \pm 1$" if side > 0 else None)
    ax.axhline(0, color="#cccccc", lw=0.5, zorder=0)
    ax.axvline(0, color="#cccccc", lw=0.5, zorder=0)
    ax.set(title="rectified ellipsoid, 2 samples", xlabel="$z_1$ (sample 1)", ylabel="$z_2$ (sample 2)", aspect="equal")
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _space(ax, rim, hull, paths, lam, d: int) -> None:
    points = hull.points
    ax.plot_trisurf(*points.T, triangles=hull.simplices, color="#bbbbbb", alpha=0.18, lw=0)
    for sign, tone, name in ((1, PLUS, "$Q$"), (-1, MINUS, "$-Q$")):
        z = sign * rim[:: max(1, len(rim) // 1500)]
        ax.plot(*z.T, "-" if d == 2 else ".", ms=1.2, lw=0.8, color=tone, alpha=0.6, label=name)
    _paths(ax, paths)
    value = points[hull.vertices] @ lam
    for side in (1, -1):
        face = points[hull.vertices][side * value >= (side * value).max() * (1 - 1e-3)]
        ax.scatter(*face.T, color="black", s=4, alpha=0.6, label=r"face exposed by $\pm\lambda$" if side > 0 else None)
    labels = {f"{axis}label": f"$z_{k}$ (sample {k})" for k, axis in enumerate("xyz", 1)}
    ax.set(title="rectified ellipsoid, 3 samples", **labels)
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _paths(ax, paths) -> None:
    for i in range(paths.shape[2]):
        z = paths[:, :, i]
        tone = PLUS if z.sum() >= 0 else MINUS
        # on the rim, which has the same colour: wider than it
        ax.plot(*z.T, color=tone, lw=2.2, alpha=0.8, solid_capstyle="round")
        ax.plot(*z[:1].T, "o", color=tone, ms=3.5, zorder=4)
        ax.plot(*z[-1:].T, "o", color=tone, ms=7, mew=1.6, mfc="white", zorder=5)
    nowhere = [[]] * paths.shape[1]
    ax.plot(*nowhere, "o-", color=NEUTRAL, ms=3.5, lw=2.2, label="neurons from their start")
    ax.plot(*nowhere, "o", color=NEUTRAL, ms=7, mew=1.6, mfc="white", label="where they end")


def alignment(ax, s, W1, w2, U, signs, label: str = "", colour: str = PLUS):
    """1 - cos of the angle between neurons and the nearest limit direction of their sign, against s; mean over mass.

    `W1` (k, d, m), `w2` (k, m): a flow; `U` (d, K), `signs` (K,): the neurons of its limit.
    """
    s, W1, w2, U, signs = map(np.asarray, (s, W1, w2, U, signs))
    norms = np.linalg.norm(W1, axis=1)
    cos = np.einsum("kdm,dj->kmj", W1 / np.where(norms > 0, norms, 1.0)[:, None], U / np.linalg.norm(U, axis=0))
    cos = np.where(np.sign(w2)[:, :, None] == np.sign(signs), cos, -1.0).max(axis=2)
    mass = np.abs(w2) * norms
    away = np.sum(mass * (1 - cos), axis=1) / np.sum(mass, axis=1)
    ax.semilogy(s, np.maximum(away, 1e-17), color=colour, label=label or None)
    ax.set(title="alignment with the limit", xlabel=S_LABEL, ylabel=r"$1-\cos$ to its nearest neuron (mean over mass)")
    if label:
        ax.legend(frameon=False)
    return ax


def kink_times(ax, s, sample, kind, neuron):
    """The events of `Flow.kinks` (K,): the sample whose hyperplane was met, against s."""
    s, sample, kind, neuron = map(np.asarray, (s, sample, kind, neuron))
    there = np.isfinite(s) & (kind >= 0)
    styles = (
        (0, "|", NEUTRAL, "crossed"),
        (1, ">", PLUS, "starts to slide"),
        (2, "<", MINUS, "leaves"),
        (3, "x", "black", "repelled"),
    )
    for code, marker, colour, name in styles:
        own = there & (kind == code)
        if own.any():
            ax.scatter(s[own], sample[own], marker=marker, s=22, color=colour, label=f"{name} ({own.sum()})", lw=1.0)
    ax.set(
        title=f"hyperplanes met by {len(np.unique(neuron[there]))} neurons", xlabel=S_LABEL,
        ylabel=r"sample $n$ (hyperplane $x_n \cdot w_i = 0$)",
    )  # fmt: skip
    ax.yaxis.get_major_locator().set_params(integer=True)
    if there.any():
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, frameon=False)
    return ax
