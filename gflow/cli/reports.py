"""`gflow report STORE --out DIR`: the page of a sweep, with flows integrated again."""

from __future__ import annotations

import json
import math
import os
import shlex
from pathlib import Path

from gflow.cli.commands import run_command, sweep_command
from gflow.cli.inputs import InputError, check_file, check_folder, checked
from gflow.cli.named import initial_law
from gflow.cli.progress import say
from gflow.cli.spec import AXES, DEFAULTS

FLOWS = 4
"""Most flows that are drawn unless another number is asked for."""


def check_rows(summary: dict, path: str) -> None:
    """Refuse to draw a store in which no row is done yet."""
    if summary["done"] == 0:
        raise InputError(f"none of the {summary['inits']} rows of {path} is done yet: there is nothing to report")


def onward(dataset, path: str) -> str:
    """The command that continues the sweep of this store."""
    command, toml = sweep_command(values_of(dataset), path)
    return command + (f" with a spec.toml that says: {'; '.join(toml.splitlines())}" if toml else "")


def check_page(folder: Path, path: str) -> None:
    """Refuse, before anything is computed, a folder into which no page can be written."""
    from gflow import store

    place = store.local(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out takes the folder of the page")
    if place is not None and folder.resolve().is_relative_to(place.resolve()):
        raise InputError(f"{folder} is in the store {path}; choose another --out")
    if folder.is_dir():
        check_file(folder / "index.html", (".html",))
    else:
        check_folder(folder)


def write_page(dataset, summary: dict, path: str, folder: Path, count: int, seconds: float) -> Path:
    """Write the page of this store, with at most `count` flows; the file that was written."""
    from gflow.report.overview import overview
    from gflow.report.page import render

    values = values_of(dataset)
    limits = [{**limit, "command": run_command(values, limit, limit["example"])} for limit in summary["limits"]]
    summary = {**summary, "limits": limits}
    if count and "output" in dataset.sizes:
        say("flows of networks with an output for each class are not drawn: the page has the tables and histograms")
        count = 0
    chosen = [limit for limit in limits if math.isfinite(limit["objective"])][:count]
    command, toml = sweep_command(values, path)
    text = render(
        dataset,
        summary,
        values,
        overview=overview(dataset, summary),
        flows=_flows(dataset, chosen, values, seconds),
        commands={"sweep": command, "toml": toml, "verify": shlex.join(["gflow", "verify", path])},
    )
    folder.mkdir(exist_ok=True)
    page = folder / "index.html"
    beside = folder / f".index.html.{os.getpid()}"
    try:  # a page is whole or absent
        beside.write_text(text, encoding="utf-8")
        beside.replace(page)
    finally:
        beside.unlink(missing_ok=True)
    return page


def values_of(dataset) -> dict:
    """What the sweep was asked for, as `read_spec` understands it."""
    spec = checked(json.loads, str(dataset.attrs.get("spec")))
    if not isinstance(spec, dict):
        raise InputError("the store does not say what was swept: its attribute spec is no JSON object")
    own = {"data": "unknown", "seed": dataset.attrs.get("seed", 0), "dtype": dataset.attrs.get("dtype", "float64")}
    axes = {name: dataset[name].values.tolist() for name in dataset["verdict"].dims[:-1]}
    return {**DEFAULTS, **own, **spec, **axes, "inits": dataset.sizes["init"]}


def _flows(dataset, chosen: list[dict], values: dict, seconds: float) -> list[dict]:
    """The figures of one flow for each of these limits."""
    import gflow
    from gflow import deadline
    from gflow.optimum import solve_optimum
    from gflow.report import flows
    from gflow.verification import problem_of

    drawn, known = [], {}
    for k, limit in enumerate(chosen):
        cell = {name: limit[name] for name in AXES if name in limit}
        where = {name: values[name].index(value) for name, value in cell.items()}
        there = ", ".join([f"{name} {value}" for name, value in cell.items()] + [f"--index {limit['example']}"])
        which = where.get("data_seed", 0), where.get("loss", 0)
        if which not in known:
            problem = checked(problem_of, dataset.isel(where), values, which[1])
            say(f"solving the program of the data, at most {seconds:g} s")
            with deadline.within(seconds):
                listed = gflow.faces(problem.X)
                known[which] = problem, listed, solve_optimum(problem, listed)
        problem, *solved = known[which]
        compiles = "" if k else " (compilation takes half a minute)"
        say(f"integrating flow {k + 1} of {len(chosen)}: {there}{compiles}")
        one = {**values, **cell}
        law = initial_law(one["law"], one["scale"])
        key = one["seed"], limit["example"]
        ended = checked(flows.integrated, problem, law, one["width"], key, *solved, q_min=one.get("q_min"))
        drawn.append({**limit, "figures": flows.figures(ended, f"flow{k}"), "found": ended})
    return drawn
