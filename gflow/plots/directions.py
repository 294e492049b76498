"""Directions of data and neurons: on the circle, on the sphere, in the first two principal directions."""

from __future__ import annotations

import numpy as np

from gflow.plots.style import MINUS, OUTPUTS, PLUS

LIVE = 1e-9
"""Neurons below this share of the largest mass are not drawn."""


def projection(X: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """(d, 2) map to the plane of the figures: the plane itself for d <= 2, else the first two principal directions."""
    d = X.shape[1]
    if d <= 2:
        return np.eye(d, 2), ("$x_1$", "$x_2$")
    _, sigma, Vt = np.linalg.svd(X, full_matrices=False)
    share = sigma**2 / np.sum(sigma**2)
    return Vt[:2].T, (f"principal direction 1 ({share[0]:.0%})", f"principal direction 2 ({share[1]:.0%})")


def neurons_on_circle(ax, X, y, W1, w2, title: str = "directions of live neurons"):
    """Directions of the data and of neurons W1 (d, m), w2 (m,); a neuron's area is its share of the mass |a||w|.

    With K outputs, y (n, K) and W2 (m, K), a neuron has the colour of the output that it raises most.
    """
    X, y, W1, w2 = map(np.asarray, (X, y, W1, w2))
    plane, labels = projection(X)
    rows, tips, mass, live = _directions(X, W1, w2)
    rows, tips = rows @ plane, tips @ plane
    angle = np.linspace(0, 2 * np.pi, 400)
    ax.plot(np.cos(angle), np.sin(angle), color="#cccccc", lw=0.8, zorder=0)
    if X.shape[1] == 2:  # the data's hyperplanes x_n . u = 0, and the sectors of one activation pattern between them
        _sectors(ax, X)
        for k, x in enumerate(rows):
            label = "kinks $x_n \\cdot u = 0$" if k == 0 else None
            ax.plot([-x[1], x[1]], [x[0], -x[0]], color="#dddddd", lw=0.6, zorder=0, label=label)
    for name, of_neurons, marker, colour, own, chosen in _classes(y, w2[live]):
        pick = rows[own]
        ax.scatter(pick[:, 0], pick[:, 1], marker=marker, color=colour, s=28, label=f"$x_n/|x_n|$, {name}")
        share = mass[chosen] / max(mass.sum(), 1e-300)
        for tip in tips[chosen]:
            ax.plot([0, tip[0]], [0, tip[1]], color=colour, lw=1.0, alpha=0.7)
        ax.scatter(
            tips[chosen, 0],
            tips[chosen, 1],
            s=4 + 316 * share,
            facecolors="none",
            edgecolors=colour,
            lw=1.5,
            label=f"neurons, {of_neurons}",
        )
    ax.set(title=title, xlabel=labels[0], ylabel=labels[1], aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return ax


def neurons_on_sphere(ax, X, y, W1, w2, title: str = "directions of live neurons"):
    """The same for d = 3 on a 3d Axes: the data's hyperplanes are great circles; what lies behind is drawn pale."""
    X, y, W1, w2 = map(np.asarray, (X, y, W1, w2))
    if X.shape[1] != 3:
        raise ValueError(f"the sphere is of data in three dimensions, got d = {X.shape[1]}")
    rows, tips, mass, live = _directions(X, W1, w2)
    elevation, azimuth = np.radians(ax.elev), np.radians(ax.azim)
    eye = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    angle = np.linspace(0, 2 * np.pi, 181)
    wheel = np.stack([np.cos(angle), np.sin(angle)])
    label = "kinks $x_n \\cdot u = 0$"
    for row, length in zip(rows, np.linalg.norm(X, axis=1), strict=True):
        if length > 0:
            circle = (np.linalg.svd(row[None])[2][1:].T @ wheel).T
            front = (circle @ eye >= 0)[:, None]
            ax.plot(*np.where(front, circle, np.nan).T, color="#999999", lw=0.8, label=label)
            label = None
            ax.plot(*np.where(front, np.nan, circle).T, color="#dddddd", lw=0.6)
    for name, of_neurons, marker, colour, own, chosen in _classes(y, w2[live]):
        share = mass[chosen] / max(mass.sum(), 1e-300)
        for at, size, shape, label in (
            (rows[own], np.full(own.sum(), 30.0), {"marker": marker}, f"$x_n/|x_n|$, {name}"),
            (tips[chosen], 10 + 250 * share, {"facecolors": "none", "lw": 1.6}, f"neurons, {of_neurons}"),
        ):
            front = at @ eye >= 0
            tone = {"edgecolors" if "facecolors" in shape else "color": colour}
            for there, alpha in ((front, 1.0), (~front, 0.35)):
                if there.any():  # labelled once, by what is in front if anything is
                    ax.scatter(*at[there].T, s=size[there], depthshade=False, alpha=alpha, label=label, **shape, **tone)
                    label = None
    ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$", zlabel="$x_3$", xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    ax.set_box_aspect((1, 1, 1))
    ticks = [-1, 0, 1]
    ax.set(xticks=ticks, yticks=ticks, zticks=ticks)
    title = "pale: on the far side"
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, title=title, title_fontsize=7)
    return ax


def _directions(X, W1, w2):
    """Unit rows (n, d), unit live neurons (k, d), their masses (k,), and which of the m are live."""
    size, norms = np.linalg.norm(X, axis=1, keepdims=True), np.linalg.norm(W1, axis=0)
    mass = (np.abs(w2) if w2.ndim == 1 else np.linalg.norm(w2, axis=1)) * norms
    live = mass > LIVE * mass.max(initial=0.0)
    return X / np.where(size > 0, size, 1.0), (W1[:, live] / norms[live]).T, mass[live], live


def _sectors(ax, X) -> None:
    """Sectors of the circle with one activation pattern, darker where more samples are active."""
    X = X[np.any(X != 0, axis=1)]
    normal = np.arctan2(X[:, 1], X[:, 0])
    edges = np.unique(np.mod(np.concatenate([normal + np.pi / 2, normal - np.pi / 2]), 2 * np.pi).round(12))
    for start, end in zip(edges, [*edges[1:], edges[0] + 2 * np.pi], strict=True):
        arc = np.linspace(start, end, 24)
        middle = [np.cos((start + end) / 2), np.sin((start + end) / 2)]
        active = np.mean(X @ middle > 0)
        ax.fill([0, *np.cos(arc)], [0, *np.sin(arc)], color="black", alpha=0.12 * active, lw=0, zorder=-1)


def _classes(y, w2):
    """(name, name of its neurons, marker, colour, its samples, its neurons) of every class."""
    if y.ndim == 1 and not np.all(np.isin(y, (-1, 1))):
        parts = ((1, "+", PLUS), (-1, "_", MINUS))
        return [
            (
                f"y {'>' if c > 0 else '<'} 0",
                f"a {'>' if c > 0 else '<'} 0",
                mark,
                colour,
                np.sign(y) == c,
                np.sign(w2) == c,
            )
            for c, mark, colour in parts
        ]
    if y.ndim == 1:
        parts = ((1, "+", PLUS), (-1, "_", MINUS))
        return [
            (f"y = {c:+d}", f"a {'>' if c > 0 else '<'} 0", mark, colour, y == c, np.sign(w2) == c)
            for c, mark, colour in parts
        ]
    samples, neurons = np.argmax(y, axis=1), np.argmax(w2, axis=1)
    return [
        (f"class {k}", f"largest $a_{{{k}}}$", "+x_|1234"[k % 8], OUTPUTS[k % len(OUTPUTS)], samples == k, neurons == k)
        for k in range(y.shape[1])
    ]
