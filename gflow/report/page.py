"""render(...): the page of a store as one HTML document; what comes from the store is text, and escaped."""

from __future__ import annotations

import base64
import datetime
import hashlib
import math
from pathlib import Path

import numpy as np

from gflow import formats

HERE = Path(__file__).parent

MOST_ROWS = 1000
"""Rows of a table; `gflow report --json` has all."""

AGREE, LOOSELY = 1e-6, 1e-3
"""A flow that was integrated again has the limit of the store if objectives agree to the first, relatively; where the
limit is the flow's own end, and as accurate as the integrator, to the second."""


def render(dataset, summary: dict, values: dict, *, overview: list, flows: list[dict], commands: dict) -> str:
    """HTML of a store. `summary`: as `gflow report --json` prints it, its limits with a `command` each; `values`: what
    was asked for; `overview`: figures (`Drawn`) of the whole store; `flows`: limits with `figures` and what was `found`
    (`Ended`) for each; `commands`: the `sweep` and the `toml` file it needs, if any."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": formats.number,
        "objective": formats.objective,
        "share": formats.share,
        "sorts": _sorts,
    }
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    for flow in flows:
        flow["agrees"] = _agrees(flow, flow["found"])
    return environment.get_template("page.html.j2").render(
        title=str(values["data"]),
        facts=_facts(dataset, summary, values),
        summary=summary,
        axes=list(summary["axes"]),
        verdicts={name: count for name, count in summary["verdicts"].items() if count},
        limits=summary["limits"][:MOST_ROWS],
        cells=summary["cells"][:MOST_ROWS],
        overview=overview,
        flows=flows,
        commands=commands,
        versions=_versions(dataset),
        command=dataset.attrs.get("command"),
        single=values["dtype"] == "float32",
        now=datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00"),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        digest=digest,
        markup=Markup,
    )


def _facts(dataset, summary: dict, values: dict) -> list[tuple[str, str]]:
    """What was run, as (name, text)."""
    n, d = dataset["X"].shape[-2:]
    done = f"{summary['done']} of {summary['inits']} done"
    cells = math.prod(len(v) for v in summary["axes"].values())
    if summary["axes"]:
        done += f", {values['inits']} in each of {cells} cells"
    changes = {"index_column": "without its index", "standardize": "standardised", "bias": "a constant column"}
    changed = [text for name, text in changes.items() if values.get(name)]
    columns = f"{n} samples, d = {d} columns" + (f" ({', '.join(changed)})" if changed else "")
    seconds, rate = summary["seconds"], summary["flows_per_second"]
    decay = f", weight decay {values['weight_decay']:g}" if values["weight_decay"] else ""
    facts = [
        ("data", _listed(values["data"])),
        ("size", f"n = {columns}"),
        ("classes", _classes(dataset["y"], values["loss"])),
        *([] if values["data_seed"] is None else [("seed of the data", _listed(values["data_seed"]))]),
        ("width m", _listed(values["width"])),
        ("activation", _listed(values["activation"])),
        ("law of the first weights", _listed(values["law"])),
        ("scale", _listed(values["scale"])),
        ("loss", _listed(values["loss"]) + decay),
        ("seed", f"{values['seed']}: initialisation i depends on (seed, i) alone"),
        (
            "flows end",
            f"with the step that passes q_min = {values['q_min']:g}"
            if values.get("q_min")
            else "by q_min = 1e3, and are continued to infinity from there"
            if summary["settled"]
            else "where gflow run ends them",
        ),
        ("flows in", f"{values['dtype']}, limits and certificates in float64"),
        ("initialisations", done),
        ("limits settled", "; ".join([str(summary["settled"]), *_others(summary)])),
        ("wall clock", None if seconds is None else f"{formats.duration(float(seconds))}, compilation included"),
        ("flows per second", None if rate is None else f"{rate:.3g}"),
        ("device", dataset.attrs.get("device")),
        ("begun", dataset.attrs.get("created")),
        ("versions", ", ".join(_versions(dataset)) or None),
    ]
    return [(name, "not recorded" if text is None else str(text)) for name, text in facts]


def _others(summary: dict) -> list[str]:
    """How many limits are not settled, and why."""
    return [f"{count} {name.replace('_', ' ')}" for name, count in summary["unsettled"].items()]


def _classes(labels, loss) -> str:
    several = "data_seed" in labels.dims
    first = (labels.isel(data_seed=0) if several else labels).values
    if first.ndim == 2:
        text = ", ".join(f"output {k}: {count}" for k, count in enumerate(np.sum(first > 0, axis=0)))
        return text + (" (of the first seed)" if several else "")
    if "squared" in (loss if isinstance(loss, list) else [loss]):
        return f"none: labels are numbers from {first.min():.4g} to {first.max():.4g}"
    values, counts = np.unique(first, return_counts=True)
    text = ", ".join(f"{value:+g}: {count}" for value, count in zip(values, counts, strict=True))
    return text + (" (of the first seed)" if several else "")


def _versions(dataset) -> list[str]:
    found = dataset.attrs.get("versions")
    return [f"{name} {version}" for name, version in found.items()] if isinstance(found, dict) else []


def _agrees(limit: dict, ended) -> bool:
    solved = ended.limit.polished and not ended.own_end
    same = abs(ended.limit.objective - limit["objective"]) <= (AGREE if solved else LOOSELY) * abs(limit["objective"])
    return same and ended.proof.verdict.name == limit["verdict"]


def _listed(value) -> str:
    values = value if isinstance(value, list) else [value]
    shown = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    return ", ".join(shown if len(shown) <= 20 else [*shown[:20], f"... ({len(shown)} values)"])


def _sorts(value) -> str:
    """What a cell is sorted by: a number, infinite where there is none."""
    return "Infinity" if formats.is_open(value) else str(value)
