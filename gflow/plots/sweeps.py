"""Figures of a store: certificates, limits and phase diagrams."""

from __future__ import annotations

import numpy as np

from gflow._types import VERDICT
from gflow.plots.directions import neurons_on_circle
from gflow.plots.style import NEUTRAL, VERDICT_COLOURS, panels

BINS = 40
"""Bars of a histogram."""

WIDE = 30.0
"""Objectives whose ratio exceeds this are drawn on a logarithmic axis."""


def certificate_histogram(ax, certificate, verdict):
    """Histogram of log10 c over the fitted initialisations, stacked by verdict."""
    certificate, verdict = np.asarray(certificate), np.asarray(verdict)
    fitted = np.isfinite(certificate)
    log_c = np.log10(np.maximum(certificate, 1.0))
    highest = float(log_c[fitted].max(initial=0.0))
    _stacked(ax, log_c, fitted, verdict, np.linspace(0.0, max(highest * 1.05, 0.01), BINS + 1))
    ax.set(title="certificates", xlabel="$\\log_{10} c$  (0: proved global)", ylabel="initialisations")
    return ax


def objective_histogram(ax, objective, verdict, optimum: float | None = None):
    """Histogram of the objectives P of the limits over the fitted initialisations, stacked by verdict.

    `optimum`: P*, drawn as a line at which the bars begin, as no network is below it. The axis is logarithmic where the
    objectives span more than WIDE: those of flows under way may be far out.
    """
    objective, verdict = np.asarray(objective), np.asarray(verdict)
    fitted = np.isfinite(objective)
    low, high = (float(f(objective[fitted])) if fitted.any() else 0.0 for f in (np.min, np.max))
    wide = low > 0 and high > WIDE * low
    # some room on both sides, also where all limits are one
    room = max(0.03 * (high - low), 0.01 * abs(high), 1e-300)
    first, last = (0.9 * low, 1.1 * high) if wide else (low - room, high + room)
    if optimum is not None:
        first = min(low, optimum)
    bins = (np.geomspace if wide else np.linspace)(first, last, BINS + 1)
    _stacked(ax, objective, fitted, verdict, bins)
    if optimum is not None:
        ax.axvline(optimum, color="black", lw=1, ls="--", label=f"optimum $P^*$ = {optimum:.4f}")
        ax.legend(frameon=False, fontsize=8)
    if wide:
        ax.set_xscale("log")
    ax.set(title="objectives", xlabel="objective $P$ of the limit", ylabel="initialisations")
    return ax


def _stacked(ax, values, fitted, verdict, bins) -> None:
    if fitted.any():
        names = [v for v in VERDICT if np.any(fitted & (verdict == v))]
        ax.hist(
            [values[fitted & (verdict == v)] for v in names], bins=bins, stacked=True,
            color=[VERDICT_COLOURS[v.name] for v in names], label=[f"{v.name} ({np.sum(verdict == v)})" for v in names],
        )  # fmt: skip
    else:
        ax.text(0.5, 0.5, "no initialisation fits the data", ha="center", va="center", transform=ax.transAxes)
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0], yticks=[])
    unfitted = int(np.sum(verdict == VERDICT.UNFITTED))
    if unfitted:
        ax.plot([], [], "s", color=VERDICT_COLOURS["UNFITTED"], label=f"UNFITTED ({unfitted}), not shown")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)


def sweep_figure(dataset, limits: list[dict]):
    """Histogram of certificates and the neurons of the (at most three) most frequent limits; of networks with several
    outputs the histogram alone. Returns the Figure."""
    shown = [x for x in limits if np.isfinite(x["objective"])][:3] if "output" not in dataset.sizes else []
    figure, axes = panels(1 + len(shown))
    done = dataset["verdict"].values >= 0
    certificate_histogram(axes[0], dataset["certificate"].values[done], dataset["verdict"].values[done])
    for ax, limit in zip(axes[1:], shown, strict=True):
        row = dataset.isel(init=limit["example"])
        K = int(row["neurons"])
        several = "{} x P" if limit["polished"] else "of {} under way the least P"
        title = f"{several.format(limit['count'])} = {limit['objective']:.6g}, {limit['verdict']}"
        neurons_on_circle(
            ax, dataset["X"].values, dataset["y"].values, row["W1"].values[:K].T, row["w2"].values[:K], title
        )
    return figure


AXIS_LABELS = {"width": "width $m$", "scale": "scale of the initialisation", "data_seed": "seed of the data"}
AXIS_LABELS |= {"law": "law of the first weights"}


WRITTEN = 0.75
"""Inches that "0.12 to 0.34" takes."""


def phase_diagram(summary: dict):
    """Fractions of initialisations over the grid of a sweep, with 95 % Wilson intervals. Returns the Figure.

    `summary`: `axes` (name -> values) and `cells` as `gflow report --json` prints them. One axis with more than one
    value: GLOBAL and fitted as curves; more: GLOBAL over the two longest, the other axes at their first value.
    """
    names, held, cells = shown_cells(summary)
    figure, (ax,) = panels(1)
    if len(names) == 1:
        _curves(ax, summary["axes"][names[0]], names[0], cells)
    else:
        across, up = names
        _map(figure, ax, (across, summary["axes"][across]), (up, summary["axes"][up]), cells)
    note = ", ".join(f"{AXIS_LABELS.get(k, k)} {v}" for k, v in held.items())
    ax.set_title("where initialisations end" + (f" ({note})" if note else ""), fontsize=10)
    return figure


def shown_cells(summary: dict) -> tuple[list[str], dict, list[dict]]:
    """What a phase diagram shows: the names of its one or two axes, the others and the value at which they are held,
    and the cells there."""
    axes = {name: values for name, values in summary["axes"].items() if len(values) > 1}
    names = sorted(axes, key=lambda name: -len(axes[name]))[:2] or list(summary["axes"])[:1]
    names.sort(key=lambda name: name != "width")
    held = {name: values[0] for name, values in summary["axes"].items() if name not in names}
    return names, held, [cell for cell in summary["cells"] if all(cell[k] == v for k, v in held.items())]


def _curves(ax, values, name: str, cells: list[dict]) -> None:
    numbers = not isinstance(values[0], str)
    at = np.asarray(values if numbers else range(len(values)), float)
    # the fitted ones behind, as large open squares: where all that fit are GLOBAL both are seen
    for key, colour, style in (
        ("fitted", NEUTRAL, {"marker": "s", "ms": 8, "mfc": "none"}),
        ("global", VERDICT_COLOURS["GLOBAL"], {"marker": "o", "ms": 4}),
    ):
        middle, low, high = (np.array([c[key][k] for c in cells], float) for k in ("fraction", "low", "high"))
        label = f"{'GLOBAL' if key == 'global' else key}, 95 % interval"
        # at a fraction of 0 or 1 rounding may put it outside its interval by 1e-17
        error = np.maximum([middle - low, high - middle], 0.0)
        ax.errorbar(at, middle, error, color=colour, lw=1, capsize=2, label=label, **style)
    if name == "scale" and min(at) > 0:
        ax.set_xscale("log")
    if not numbers:
        ax.set_xticks(at, values)
    elif name in ("width", "data_seed"):
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel=AXIS_LABELS.get(name, name), ylabel="fraction of initialisations", ylim=(-0.03, 1.03))
    ax.legend(frameon=False, fontsize=8)


def _map(figure, ax, across, up, cells: list[dict]) -> None:
    (x_name, xs), (y_name, ys) = across, up
    written = len(xs) * len(ys) <= 64
    if written:  # a cell has room for its interval
        figure.set_figwidth(max(figure.get_figwidth(), WRITTEN * len(xs) + 2))
    shown = np.full((len(ys), len(xs)), np.nan)
    for cell in cells:
        at = ys.index(cell[y_name]), xs.index(cell[x_name])
        if cell["global"]["fraction"] is None:
            continue
        shown[at] = cell["global"]["fraction"]
        colour = "white" if shown[at] < 0.45 else "#111111"  # not black, which a page may invert
        if written:
            # Wilson's interval is not symmetric: a fraction of 1 has nothing above it
            text = "{fraction:.2f}\n{low:.2f} to {high:.2f}".format(**cell["global"])
            ax.text(at[1], at[0], text, ha="center", va="center", color=colour, fontsize=7)
    image = ax.imshow(shown, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=1)
    ax.set_xticks(range(len(xs)), [f"{v:g}" if not isinstance(v, str) else v for v in xs])
    ax.set_yticks(range(len(ys)), [f"{v:g}" if not isinstance(v, str) else v for v in ys])
    ax.set(xlabel=AXIS_LABELS.get(x_name, x_name), ylabel=AXIS_LABELS.get(y_name, y_name))
    figure.colorbar(image, ax=ax, label="fraction GLOBAL (below it a 95 % interval)")
