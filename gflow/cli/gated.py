"""`gflow run --activation gated-relu`: a flow with fixed gates, and what is proved among networks with these gates."""

from __future__ import annotations

import numpy as np

from gflow.cli.inputs import InputError
from gflow.cli.sentences import scopes, verdict_sentence


def check_gated(problem, **refused) -> None:
    """Refuse what a flow with fixed gates does not exist for."""
    given = [name for name, value in refused.items() if value]
    if given:
        raise InputError(f"--activation gated-relu: leave {', '.join('--' + n.replace('_', '-') for n in given)} out")
    if not problem.of_margins and problem.weight_decay is None:
        raise InputError(
            "--activation gated-relu with --loss squared needs --weight-decay: without it nothing is proved"
        )


def gated_summary(problem, network, flow, seconds: float) -> dict:
    """The keys of a flow of `problem` with fixed gates, and what is proved about its end in `seconds`."""
    import gflow
    from gflow import deadline
    from gflow._types import result_name

    with deadline.within(seconds):
        limit = gflow.gated_limit(problem, flow.final)
    mass = np.linalg.norm(limit.V, axis=1)
    live = np.flatnonzero(mass > 1e-9 * mass.max(initial=0.0))
    summary = {
        "verdict": limit.verdict.name, "scope": scopes(verdict=limit.scope, lower_bound=limit.scope),
        "objective": limit.objective, "lower_bound": limit.lower_bound, "certificate": limit.c,
        "polished": limit.polished, "gates": len(limit.masks), "result": result_name(flow.result), "s": flow.s[-1],
        "log_t": flow.log_t[-1], "steps": flow.steps, "rejected": flow.rejected, "loss": flow.loss[-1],
        "balance_drift": flow.final.balance_drift(network),
        "neurons": [
            {"mass": mass[k], "direction": limit.V[k] / mass[k], "gate": limit.masks[k].astype(int)}
            for k in live[np.argsort(-mass[live], kind="stable")]
        ],
    }  # fmt: skip
    return summary


def print_gated(console, summary: dict) -> None:
    """The tables of such a flow."""
    from rich.table import Table

    case = "" if summary["polished"] else "under way"
    console.print(f"[bold]{summary['verdict']}[/bold]  {verdict_sentence(summary['verdict'], summary['scope'], case)}")
    table = Table("quantity", "value", box=None)
    for key, value in summary.items():
        if key not in ("verdict", "scope", "neurons"):
            item = np.asarray(value).item()
            table.add_row(key, f"{item:.9g}" if isinstance(item, float) else str(item))
    console.print(table)
    listed = Table("mass |v|", "gate open on", "direction v/|v|", title="neurons of these gates, merged", box=None)
    for neuron in summary["neurons"][:20]:
        direction = ", ".join(f"{x:.6g}" for x in neuron["direction"][:6])
        listed.add_row(f"{neuron['mass']:.6g}", str(int(np.sum(neuron["gate"]))), f"({direction})")
    console.print(listed)
    if len(summary["neurons"]) > 20:
        console.print(f"and {len(summary['neurons']) - 20} more; --json prints all")
