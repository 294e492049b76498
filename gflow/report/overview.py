"""Figures of a whole store on its page: histograms of a cell, the phase diagram of a grid."""

from __future__ import annotations

import numpy as np

from gflow.plots.style import panels
from gflow.plots.sweeps import certificate_histogram, objective_histogram, phase_diagram, shown_cells
from gflow.report.svg import Drawn, Tips, drawing, inline, plain

SIZE = (4.8, 3.7)
"""Inches: text of 10 points is still read on a telephone."""

ROOMY = 25
"""Cells of a map in which there is room for larger numbers."""

MOST_TIPS = 2500
"""Cells that tell their numbers; beyond, the table does."""

KINDS = (
    (
        "certificate",
        certificate_histogram,
        "log10 c",
        "Certificates c of the initialisations that fit the data: at 0 the limit is proved to be the global optimum, "
        "elsewhere its P is at most c times the optimum.",
    ),
    (
        "objective",
        objective_histogram,
        "P",
        "Objectives P of the limits: every column away from the others is a place where the flow ends; the lowest is "
        "the best network found.",
    ),
)


def overview(dataset, summary: dict) -> list[Drawn]:
    """The phase diagram of a grid, or histograms of certificates and objectives."""
    return [_phases(summary)] if summary["axes"] else [_histogram(dataset, *kind) for kind in KINDS]


def _histogram(dataset, name: str, draw, symbol: str, caption: str) -> Drawn:
    done = dataset["verdict"].values >= 0
    values, verdict = dataset[name].values[done], dataset["verdict"].values[done]
    tips = Tips()
    with drawing():
        figure, (ax,) = panels(1)
        figure.set_size_inches(*SIZE)
        draw(ax, values, verdict)
        for bars in ax.containers:
            of = str(bars.patches[0].get_label()).split(" ")[0] if bars.patches else ""
            for bar in bars.patches:
                low, count = bar.get_x(), round(bar.get_height())
                if count:
                    text = f"{of}: {count} with {symbol} from {low:.6g} to {low + bar.get_width():.6g}"
                    tips.mark(bar, text)
        shown = int(np.isfinite(values).sum())
        return Drawn(inline(figure, name, f"Histogram of {symbol} over {shown} initialisations", tips), caption)


def _phases(summary: dict) -> Drawn:
    names, held, cells = shown_cells(summary)
    # names of laws and losses come from the store, and matplotlib would read them as mathematics
    safe = {
        "axes": {name: [_safe(v) for v in values] for name, values in summary["axes"].items()},
        "cells": [{key: _safe(v) for key, v in cell.items()} for cell in summary["cells"]],
    }
    tips = Tips()
    with drawing():
        figure = phase_diagram(safe)
        figure.set_size_inches(5.4, 4.4)
        ax = figure.axes[0]
        if len(names) == 1:
            _tell_points(ax, tips, names[0], cells)
        elif len(cells) <= MOST_TIPS:
            for text in ax.texts if len(cells) <= ROOMY else ():
                text.set_fontsize(9)
            _tell_cells(ax, tips, names, cells, summary["axes"])
        label = f"Phase diagram over {' and '.join(names)}, {len(cells)} cells"
        svg = inline(figure, "phases", label, tips)
    there = ", ".join(f"{name} {value}" for name, value in held.items())
    what = "Fractions of the initialisations that fit the data (squares) and that are GLOBAL (dots)"
    what = what if len(names) == 1 else "Fraction of the initialisations that are proved GLOBAL"
    return Drawn(svg, f"{what}, with 95 % Wilson intervals{f', at {there}' if there else ''}.")


def _safe(value):
    return plain(value) if isinstance(value, str) else value


def _tell(cell: dict, key: str) -> str:
    at = cell[key]
    share = "nothing done yet"
    if at["fraction"] is not None:
        share = f"{at['fraction']:.4g} (95 %: {at['low']:.4f} to {at['high']:.4f}) of {cell['done']}"
    return f"{'GLOBAL' if key == 'global' else key} {share}"


def _tell_points(ax, tips: Tips, name: str, cells: list[dict]) -> None:
    for key, bars in zip(("fitted", "global"), ax.containers, strict=True):
        for x, y, cell in zip(*bars.lines[0].get_data(), cells, strict=True):
            if np.isfinite(y):
                tips.ring(ax, x, y, f"{name} {cell[name]}: {_tell(cell, key)}", 13.0 if key == "fitted" else 9.0)


def _tell_cells(ax, tips: Tips, names: list[str], cells: list[dict], axes: dict) -> None:
    from matplotlib.patches import Rectangle

    for cell in cells:
        x, y = (axes[name].index(cell[name]) for name in names)
        where = ", ".join(f"{name} {cell[name]}" for name in names)
        # in front of the number that is written into the cell, which would be in the way of the pointer
        box = ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, lw=0, zorder=9))
        tips.mark(box, f"{where}: {_tell(cell, 'global')}; {_tell(cell, 'fitted')}")
