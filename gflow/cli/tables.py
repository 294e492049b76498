"""What `sweep`, `report` and `verify` say about a store."""

from __future__ import annotations

import math

from gflow import formats
from gflow.cli.sentences import UNSETTLED

SHOWN = 20
"""Lines of a table; --json has all of them."""


def print_sweep(console, summary: dict) -> None:
    """The table of distinct limits, or of the cells of a grid."""
    from rich.table import Table

    counts = ", ".join(f"{name} {count}" for name, count in summary["verdicts"].items() if count)
    console.print(f"[bold]{summary['done']} of {summary['inits']} initialisations[/bold]: {counts or 'none yet'}")
    if summary["axes"]:
        table = Table(
            *summary["axes"], "done", "GLOBAL", "95 %", "fitted", "95 %", "limits", "predicted", title="grid", box=None
        )
        for cell in summary["cells"][:SHOWN]:
            places = [f"{cell[name]}" for name in summary["axes"]]
            # so that a line fits into 80 columns
            shares = [text.replace(" to ", "-") for name in ("global", "fitted") for text in formats.share(cell[name])]
            table.add_row(*places, str(cell["done"]), *shares, str(cell["limits"]), str(cell["predicted"]))
        lines = summary["cells"]
    else:
        table = Table("count", "objective P", "certificate c", "verdict", "example", title="distinct limits", box=None)
        lines = summary["limits"]
        for limit in lines[:SHOWN]:
            objective, c = formats.objective(limit), formats.number(limit["certificate"])
            table.add_row(str(limit["count"]), objective, c, limit["verdict"], f"--index {limit['example']}")
    console.print(table)
    if len(lines) > SHOWN:
        console.print(f"and {len(lines) - SHOWN} more; --json prints all")
    farther = "; without --q-min flows are followed to their limits" if summary["farther"] else ""
    if summary["predicted"]:
        console.print(
            f"{summary['predicted']} of these limits are predictions: patterns had not settled when the flow was "
            f"stopped (changes > 0){farther}"
        )
    if summary["settled"]:
        console.print(f"{summary['settled']} flows were followed to their limits, at q_min = infinity (settled)")
    for name, count in summary["unsettled"].items():
        if name != "not_followed":
            console.print(f"{count} not settled ({name}): {UNSETTLED[name]}")
    if summary.get("check"):
        found = summary["check"]
        console.print(
            f"{found['agree']} of {found['rows']} flows that were run again at a tenth of the tolerance have the same "
            f"limit (95 %: {found['low']:.1%} to {found['high']:.1%} of all)"
        )
    for name, count in summary["used_up"].items():
        console.print(f"{count} flows were stopped on their way ({name}): nothing is said of their limits")
    under_way = sum(x["count"] for x in summary["limits"] if not x["polished"] and math.isfinite(x["objective"]))
    if under_way:
        console.print(f"{under_way} flows were stopped before their limit could be named{farther}")
    if summary["verdicts"]["UNFITTED"] > 0.5 * summary["done"]:
        console.print("Most flows do not fit the data: try more neurons (--width), a larger --scale, or --bias")


def print_verified(console, found: dict) -> None:
    """What `verify` found."""
    done = "unknown" if found["done"] is None else found["done"]
    state = "whole" if found["whole"] else "unfinished" if found["sound"] else "NOT WHOLE"
    console.print(f"[bold]{state}[/bold]: {done} of {found['rows']} rows are done")
    if found.get("onward"):
        console.print(f"what is there is sound; this goes on: {found['onward']}", soft_wrap=True)
    if found["changed"]:
        console.print("data, spec or axes in the store are not those of the sweep")
    for name in found["damaged"][:SHOWN]:
        console.print(f"damaged: {name}")
    for row in found["wrong"][:SHOWN]:
        place = "".join(f"{k} {v}, " for k, v in row["where"].items())
        console.print(f"wrong: {place}row {row['index']}: {row['what']}")
    sample = "" if found["checked"] == done else ", drawn at random (--sample)"
    console.print(f"{found['checked']} rows recomputed from their weights{sample}, {len(found['wrong'])} disagree")
    if found["damaged"] and not found.get("repaired"):
        console.print("verify --repair marks damaged rows as pending; the sweep's own command computes them again")
