"""What the commands print: one JSON object, or tables for people."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import numpy as np

from gflow._types import VERDICT, Scope, on_host, result_name
from gflow.cli.sentences import (
    UNSETTLED,
    bracket_sentence,
    none_below,
    optimal_sentence,
    scopes,
    unseparated,
    verdict_sentence,
)
from gflow.fates import FATE, fates
from gflow.programs.base import AtInfinity, Certificate, decide


def to_json(value) -> str:
    """One line of strict JSON: numbers that are not finite become null."""
    return json.dumps(_plain(value), allow_nan=False)


UNWRAPPED = 100_000
"""Columns of a line that goes into a pipe or a file: sentences, vectors and rows of a table stay on one line there."""


def emit(summary: dict, as_json: bool, table) -> None:
    """Print the summary: JSON on stdout, or `table(console, summary)`, wrapped to the width of a terminal alone."""
    if as_json:
        print(to_json(summary))
        return
    from rich.console import Console

    table(Console() if sys.stdout.isatty() else Console(width=UNWRAPPED), summary)


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    array = np.asarray(value)
    if array.ndim:
        return [_plain(v) for v in array.tolist()]
    item = array.item()
    return None if isinstance(item, float) and not math.isfinite(item) else item


def limit_summary(problem, limit, certificate) -> dict:
    """The keys that `run` and `certify` share."""
    problem, limit = on_host((problem, limit))
    missing, sign = certificate.missing_neuron, None
    if missing is not None:
        lam = certificate.p * np.asarray(problem.y) if problem.directional else np.asarray(limit.lam)
        pull = lam.T @ np.asarray(problem.activation(problem.X @ missing))
        sign = int(np.sign(pull)) if problem.outputs is None else pull / np.linalg.norm(pull)
    return {
        "verdict": certificate.verdict.name,
        "scope": scopes(
            verdict=Scope.PATTERNS if certificate.verdict.name == "UNFITTED" else certificate.scope,
            lower_bound=certificate.scope,
        ),
        "objective": certificate.objective,
        "lower_bound": certificate.lower_bound,
        "certificate": certificate.c,
        "exact": certificate.exact,
        "optimum": certificate.optimum,
        "loss": limit.loss,
        "margin": problem.normalised_margin(limit.network) if problem.directional else None,
        "kkt_residual": limit.kkt_residual,
        "slackness": limit.slackness,
        "polished": limit.polished,
        "changes": limit.changes,
        "p": certificate.p,
        "missing_neuron": missing,
        "missing_sign": sign,
        "neurons": neurons(problem, limit),
    }


def settled_summary(problem, limit) -> dict:
    """The keys that tell whether a flow was followed to its limit: numbers are None where it was not; {} of points."""
    if not problem.directional:
        return {}
    found = {"settled": limit.settled, "ending": limit.ending.name.lower()}
    names = (name for name in AtInfinity._fields if name != "steps")
    return found | {name: getattr(limit.at_infinity, name, None) for name in names}


def limit_line(problem, limit, flow) -> str:
    """Where a flow has ended, in one line: what is known before anything is proved."""
    exact = "settled" if limit.settled else "exact, not settled"
    parts = [exact if limit.polished else f"not named, the network at s = {float(flow.s[-1]):.6g}"]
    parts.append(f"P = {limit.objective:.9g}" if math.isfinite(limit.objective) else "not fitted")
    parts += [] if limit.loss is None else [f"loss {limit.loss:.9g}"]
    parts += [f"KKT residual {float(limit.kkt_residual):.3g}", f"{len(neurons(problem, limit))} neurons"]
    return f"limit ({result_name(flow.result)}): " + ", ".join(parts)


def unfinished(problem, limit, lower: float) -> Certificate:
    """What is proved when a proof is interrupted that has found no network of an objective below `lower`."""
    lam, objective = np.abs(np.asarray(limit.lam)), float(limit.objective)
    judged = decide(objective, lower, rounding=0.0, settled=False)
    return Certificate(
        VERDICT.INCONCLUSIVE, Scope.ALL, objective=objective, lower_bound=judged.lower_bound, c=judged.c,
        p=lam / max(lam.sum(), 1e-300) if problem.directional else lam, exact=False, missing_neuron=None, better=None,
        optimum=None,
    )  # fmt: skip


def flow_summary(problem, network, flow) -> dict:
    """The keys that only a flow has."""
    # by NumPy: JAX would compile each of a hundred small operations
    problem, network, final = on_host((problem, network, flow.final))
    fate = np.asarray(fates(problem, final))
    return {
        "result": result_name(flow.result),
        "q_min": np.min(flow.margins[-1]) if problem.directional else None,
        "s": flow.s[-1],
        "log_t": flow.log_t[-1],
        "steps": flow.steps,
        "rejected": flow.rejected,
        # of a frozen second layer nothing is conserved
        "balance_drift": None if flow.frozen else final.balance_drift(network),
        "repelled": flow.repelled,
        "fates": {kind.name.lower(): int(np.sum(fate == kind)) for kind in FATE},
    }


def of_frozen(problem, network, frozen):
    """The Limit of a flow that ended at `network` with a frozen second layer: its limit `frozen`, merged and balanced
    (None for points, which are judged as they are). Residual and slackness are those of W1 alone."""
    from gflow.limit import limit_of_network

    if frozen is None:
        return limit_of_network(problem, network, polish=False)
    limit = limit_of_network(problem, frozen.network, polish=False)
    p = np.abs(np.asarray(frozen.lam)) / np.sum(np.abs(np.asarray(frozen.lam)))
    own = {"polished": frozen.polished, "kkt_residual": frozen.kkt_residual}
    return dataclasses.replace(limit, **own, slackness=float(problem.slackness(limit.margins, p)))


def frozen_summary(flow, frozen) -> dict:
    """The key "frozen": what is proved about W1 for this second layer; {} of points, None of a flow of both layers."""
    if frozen is None:
        return {"frozen": {} if flow.frozen else None}
    bounds = {"objective": frozen.objective, "lower_bound": frozen.lower_bound, "certificate": frozen.c}
    return {"frozen": bounds | {"optimal": frozen.optimal, "scope": scopes(lower_bound=frozen.scope)}}


PROGRAMS = {
    "MaxMargin": "max-margin", "VectorMaxMargin": "max-margin", "MinNorm": "least-norm", "Penalized": "weight-decay",
    "Gated": "gated-weight-decay",
}  # fmt: skip


def program_summary(known, solved) -> dict:
    """The keys of `solve`."""
    network, found = solved.network, []
    if network is not None:
        found = [
            {**how, "mass": r, "direction": u}
            for how, r, u in zip(
                _second(network), np.asarray(network.masses()), np.asarray(network.directions()).T, strict=True
            )
        ]
    return {
        "program": PROGRAMS[type(solved).__name__],
        "primal": solved.primal,
        "dual": solved.dual,
        "gap": solved.gap,
        "lower_bound": getattr(solved, "lower_bound", solved.dual),
        "scope": scopes(dual=solved.scope, lower_bound=Scope.ALL),
        "masks": known.cells,
        "complete": solved.complete,
        "result": result_name(solved.result),
        "alpha": solved.lam if hasattr(solved, "lam") else solved.alpha,
        "neurons": sorted(found, key=lambda neuron: -neuron["mass"]),
    }


def _second(network) -> list[dict]:
    """What the second layer says of every neuron: its sign, or with several outputs the direction of a_i."""
    if hasattr(network, "W2"):
        return [{"output": v} for v in np.asarray(network.output_directions()).T]
    return [{"sign": int(s)} for s in np.sign(np.asarray(network.w2))]


def gated_summary(gates, solved) -> dict:
    """The keys of `solve` for gated ReLU; a neuron's `mask` is its gate."""
    mass, masks = np.linalg.norm(solved.V, axis=1), gates.masks
    live = np.flatnonzero(mass > 1e-9 * mass.max(initial=0.0))
    return {
        "program": PROGRAMS[type(solved).__name__],
        "primal": solved.primal,
        "dual": solved.dual,
        "gap": solved.gap,
        "lower_bound": solved.dual,
        "scope": scopes(dual=solved.scope, lower_bound=solved.scope),
        "masks": len(gates),
        "complete": gates.complete,
        "result": result_name(solved.result),
        "alpha": solved.alpha,
        "neurons": [
            {"sign": 1, "mass": mass[j], "direction": solved.V[j] / mass[j], "mask": masks[j].astype(int)}
            for j in live[np.argsort(-mass[live], kind="stable")]
        ],
    }


def print_program(console, summary: dict) -> None:
    """P* between its bounds, and the neurons of an optimal network."""
    from rich.table import Table

    scope = summary["scope"]
    if summary["result"] == "infeasible":
        console.print(f"[bold]infeasible[/bold]: {unseparated(summary['dual'], scope['dual'], summary['program'])}")
    else:
        console.print(bracket_sentence(summary["dual"], summary["primal"], scope["dual"]))
        if not math.isfinite(summary["primal"]):
            console.print("no network that fits the data was found")
        if scope["lower_bound"] != scope["dual"]:
            console.print(none_below(summary["lower_bound"], scope["lower_bound"]))
    covers = "all" if summary["complete"] else "sampled"
    console.print(f"result {summary['result']}, {summary['masks']} masks ({covers})")
    alpha, what = np.asarray(summary["alpha"]), "alpha"
    if alpha.ndim == 2:
        alpha, what = alpha.sum(axis=1), "alpha, summed over the outputs"
    if summary["result"] == "infeasible":  # a ray of the dual: only its direction means something
        alpha, what = alpha / max(np.sum(np.abs(alpha)), 1e-300), "alpha of the proof, sum 1"
    heaviest = [f"{n}: {alpha[n]:.6g}" for n in np.argsort(-abs(alpha), kind="stable")[:8] if alpha[n]]
    console.print(f"{what} (samples from 0, largest first): {', '.join(heaviest) or 'none'}", soft_wrap=True)
    if not summary["neurons"]:
        return
    vector = "output" in summary["neurons"][0]
    second = "output a/|a|" if vector else "sign"
    table = Table(second, "mass |a||w|", "direction w/|w|", title="neurons of this network", box=None)
    for neuron in summary["neurons"][:20]:
        sign = _text(neuron["output"]) if vector else "+" if neuron["sign"] > 0 else "-"
        table.add_row(sign, f"{neuron['mass']:.9g}", _text(neuron["direction"]))
    console.print(table)
    if len(summary["neurons"]) > 20:
        console.print(f"and {len(summary['neurons']) - 20} more; --json prints all")


def neurons(problem, limit) -> list[dict]:
    """Neurons that are not dead, merged when equal: {sign, mass, direction, mask, sliding}, heaviest first.

    With vector output {output, ...} in place of the sign: the direction of a.
    """
    directions, mass = np.asarray(limit.network.directions()).T, np.asarray(limit.network.masses())
    second = _second(limit.network)
    alive = (mass > 0) & (limit.masks.any(axis=0) | (problem.lower_slope > 0))
    return [
        {
            **second[k],
            "mass": mass[k],
            "direction": directions[k],
            "mask": limit.masks[:, k].astype(int),
            "sliding": np.flatnonzero(limit.sliding[:, k]),
        }
        for k in np.flatnonzero(alive)[np.argsort(-mass[alive], kind="stable")]
    ]


def print_run(console, summary: dict) -> None:
    """Tables of one flow or one set of weights."""
    from rich.table import Table

    point = summary["margin"] is None
    frozen = summary.get("frozen")
    verdict, limit = summary["verdict"], summary["polished"] or summary["s"] is None
    fitted = math.isfinite(summary["objective"])
    case = "not fitted" if not fitted else "" if limit else "under way"
    if point and verdict == "NOT_GLOBAL" and not math.isfinite(summary["certificate"]):
        case = "not interpolating"
    console.print(f"[bold]{verdict}[/bold]  {verdict_sentence(verdict, summary['scope'], case)}")
    if not limit and verdict != "UNFITTED":
        console.print(
            f"This is the network at s = {float(np.asarray(summary['s'])):.6g}, where the integration ended "
            f"({summary['result']}); the figures below are about it."
        )
        if summary["result"] == "max_steps_reached":
            console.print("With more steps (--max-steps) the flow goes on.")
    if fitted and not point and summary.get("settled") is False:
        console.print(f"Not settled: {UNSETTLED[summary['ending']]}.")
    if frozen is not None:
        console.print(FROZEN + _proved_of_frozen(frozen))
    table = Table("quantity", "value", box=None)
    for key, value in summary.items():
        if key in ("verdict", "scope", "neurons", "kkt_point", "p", "frozen") or (
            value is None and (point or summary["s"] is None)
        ):
            continue
        table.add_row(key, _text(value))
    console.print(table)
    vector = any("output" in neuron for neuron in summary["neurons"])
    merged = Table(
        "output a/|a|" if vector else "sign",
        "mass |a||w|",
        "active",
        "sliding on (from 0)",
        "direction",
        title="neurons that are not dead, scaled to q_min = 1" if fitted and not point else "neurons",
        box=None,
    )
    for neuron in summary["neurons"][:20]:
        merged.add_row(
            _text(neuron["output"]) if vector else f"{neuron['sign']:+d}", f"{float(neuron['mass']):.6g}",
            str(int(np.sum(neuron["mask"]))), ", ".join(str(int(i)) for i in neuron["sliding"]) or "-",
            _text(neuron["direction"]),
        )  # fmt: skip
    console.print(merged)
    if len(summary["neurons"]) > 20:
        console.print(f"and {len(summary['neurons']) - 20} more; --json prints all")
    if summary.get("kkt_point"):
        point = summary["kkt_point"]
        console.print(
            f"The exact KKT point with these patterns: objective {point['objective']:.9g}, "
            f"c = {point['certificate']:.9g}, {point['verdict']}"
        )


FROZEN = (
    "The second layer was frozen. The verdict compares this network, its layers balanced, with those whose layers are "
    "both free. "
)


def _proved_of_frozen(frozen: dict) -> str:
    """What is proved about first layers for the second layer of the flow."""
    if not frozen or not math.isfinite(frozen["objective"]):
        return "Whether another first layer is better for this second layer is not proved."
    size = f"|W1|^2/2 = {frozen['objective']:.9g} at q_min = 1"
    return f"{size}; {optimal_sentence(frozen['optimal'], frozen['lower_bound'], frozen['scope']['lower_bound'])}."


def _text(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    if value is None:
        return "-"
    array = np.asarray(value)
    if array.ndim:
        shown = ", ".join(f"{v:.6g}" for v in array[:6])
        return f"({shown}{', ...' if len(array) > 6 else ''})"
    item = array.item()
    return f"{item + 0.0:.9g}" if isinstance(item, float) else str(item)  # + 0.0: no -0
