"""`gflow sweep | report | verify`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from gflow.cli.inputs import InputError, announce, check_budget, check_folder, checked
from gflow.cli.options import Bias, IndexColumn, Json, ProofSeconds, QMin, Standardize
from gflow.cli.progress import Progress, say
from gflow.cli.provenance import differences, machine, provenance

SpecData = Annotated[
    str, typer.Argument(metavar="DATA|SPEC.toml", help="as for run, or a .toml file with data and any of the options")
]
MOST_PROCESSES = 1024
"""More are taken for a slip of the keyboard."""

WORTH = {"cpu": 1024, "gpu": 128}
"""Initialisations for which one more process finds limits: until it has its programs it takes as long as for a hundred
of them, and where the flows need the cores too it should be more than repaid."""

CHECKED, CHECKED_FROM = 0.01, 1000
"""Share of the rows whose flows are run again, and from how many rows on where nothing is asked for."""

WAIT = 5.0
"""Seconds after which rows are written that wait for others of their chunk."""

Grid = "a value, a list 4,8,16 or a range 2..16: more than one makes a grid"


def sweep(
    data: SpecData,
    out: Annotated[str, typer.Option(help="the Zarr store to write: a path, or a URL that fsspec knows")],
    inits: Annotated[int | None, typer.Option(help="initialisations of every cell [256]")] = None,
    width: Annotated[str | None, typer.Option(help=f"number of neurons m [50]; {Grid}")] = None,
    scale: Annotated[str | None, typer.Option(help="scale of the balanced initialisation [1e-3]; or a list")] = None,
    law: Annotated[
        str | None, typer.Option("--init", "--law", help="law of the first weights, as in run [gaussian]; or a list")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="logistic, exponential, squared [logistic]; or a list")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="beta of loss + beta/2 |theta|^2 [0]")] = None,
    activation: Annotated[str | None, typer.Option(help="relu or leaky-relu:ALPHA [relu]")] = None,
    data_seed: Annotated[str | None, typer.Option(help="seed of a built-in data set; or a list or range")] = None,
    seed: Annotated[int | None, typer.Option(help="initialisation i depends on (seed, i) alone [0]")] = None,
    bias: Bias = False,
    standardize: Standardize = False,
    index_column: IndexColumn = False,
    dtype: Annotated[
        str | None, typer.Option(help="of the flows: float64 or float32; limits and certificates are float64")
    ] = None,
    q_min: QMin = None,
    max_steps: Annotated[
        int | None, typer.Option(help="attempted steps of a flow at most; its row says if they were used up [100000]")
    ] = None,
    seconds_per_flow: Annotated[
        float | None,
        typer.Option(help="seconds of stepping of a flow at most; which rows used them up depends on the machine"),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="try those again that used up --seconds-per-flow, now as it is given")
    ] = False,
    # no limit unless one is asked for: rows must not depend on how fast a machine is
    proof_seconds: ProofSeconds = float("inf"),
    resume: Annotated[
        bool, typer.Option("--resume", help="refuse to begin a store (one that exists is continued anyway)")
    ] = False,
    devices: Annotated[int | None, typer.Option(help="how many local devices (cores, GPUs) to use [all]")] = None,
    limit_processes: Annotated[
        int | None, typer.Option(help="processes that find limits beside the flows [one a core where flows are many]")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="tcp://host:port of a Dask scheduler whose workers do the work")
    ] = None,
    check: Annotated[
        float | None,
        typer.Option(
            help="share of the rows whose flows are run again at a tenth of the tolerance, and have the same limit or "
            "not [0.01 of 1,000 rows and more, else 0]"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Many initialisations, each to its certified limit, into a store; continues a store that was interrupted."""
    import numpy as np

    from gflow import cluster, store
    from gflow._types import RESULTS, result_code
    from gflow.cli import output, spec, tables
    from gflow.summary import sweep_summary
    from gflow.sweep import Flows, sweep_grid

    flags = {"inits": inits, "width": width, "scale": scale, "law": law, "loss": loss, "data_seed": data_seed}
    flags |= {"seed": seed, "bias": bias or None, "standardize": standardize or None, "dtype": dtype}
    flags["index_column"] = index_column or None
    flags |= {"weight_decay": weight_decay, "activation": activation, "q_min": q_min, "max_steps": max_steps}
    if seconds_per_flow is not None and not seconds_per_flow > 0:
        raise InputError(f"--seconds-per-flow must be positive, got {seconds_per_flow:g}")
    if scheduler and not (devices is None and limit_processes is None):
        raise InputError("--devices and --limit-processes are about this machine: leave them out with --scheduler")
    if check is not None and not 0 <= check <= 1:
        raise InputError(f"--check is a share of the rows, 0 to 1, got {check:g}")
    check_budget(proof_seconds)
    use = _devices(devices)
    chosen = checked(spec.read_spec, data, flags)
    cells = list(chosen.cells())
    processes = _processes(limit_processes, use, len(cells) * chosen.values["inits"])
    _check_out(out, resume)
    started = time.perf_counter()
    problems, notes = chosen.problems()
    X, y = _arrays(problems, chosen)
    count, rows = chosen.values["inits"], store.rows_of(chosen.values["inits"])
    client = checked(cluster.connect, scheduler) if scheduler else None
    attributes = (_machine_of_workers(client) if client else machine()) | provenance(
        chosen.values["seed"], chosen.values["dtype"], seconds_per_flow
    )
    create = {"inits": count, "width": chosen.width, "axes": chosen.axes, "attributes": attributes}
    checked(store.create, out, X, y, chosen.values, **create)
    announce(notes)
    with contextlib.ExitStack() as held:
        in_place = checked(held.enter_context, store.writing(out))
        done = checked(store.verdicts, out)
        if (done >= 0).any():
            say(f"{out} holds {int((done >= 0).sum())} of {done.size} initialisations; continuing")
            changed = differences(store.open_store(out).attrs, attributes)
            if changed and (done == store.PENDING).any():
                say(f"warning: begun with {changed}: rows from here on may differ from what those give by rounding")
        if retry:
            say(f"{store.forget_result(out, int(result_code(RESULTS.max_seconds_reached)))} rows are tried again")
            done = checked(store.verdicts, out)
        progress = held.enter_context(Progress(done.size, done))
        left = [np.flatnonzero(done[tuple(cell.where.values())] == store.PENDING) for cell in cells]
        flows = [Flows(c.problem, c.law, c.width, own) for c, own in zip(cells, left, strict=True)]
        options = {name: chosen.values[name] for name in ("seed", "dtype", *spec.ENDS) if name in chosen.values}
        options |= {"rows": rows, "inits": count, "budget": proof_seconds}
        if seconds_per_flow is not None:
            options["seconds_per_flow"] = seconds_per_flow
        if client:
            found = _on_cluster(client, flows, **options)
        else:
            local = {"devices": use, "processes": processes, "watch": progress.watch, "wait": WAIT}
            found = sweep_grid(flows, **options, **local)
        for k, records in found:
            now = time.perf_counter()
            checked(in_place)
            store.append(out, records, cells[k].where, now - started)
            started = now
            progress.advance(records)
    dataset = store.open_store(out)
    summary = sweep_summary(dataset, out)
    say(f"wrote {out} and {_picture(dataset, summary, out)}")
    share = (CHECKED if summary["done"] >= CHECKED_FROM else 0.0) if check is None else check
    if share:
        summary["check"] = _checked(dataset, cells, share, {k: v for k, v in options.items() if k != "inits"}, use)
    output.emit(summary, json, tables.print_sweep)


def _checked(dataset, cells, share: float, options: dict, devices) -> dict:
    """What `recheck` finds about this sweep."""
    import numpy as np

    from gflow.checking import recheck
    from gflow.sweep import Flows

    say("flows of some rows are run again, at a tenth of the tolerance (--check 0 leaves this out)")
    flows = [Flows(c.problem, c.law, c.width, np.arange(0)) for c in cells]
    names = ("verdict", "result", "objective")
    said = [{name: dataset[name].isel(c.where).values for name in names} for c in cells]
    return recheck(flows, said, share, devices=devices, **options)


def report(
    store_path: Annotated[str, typer.Argument(metavar="STORE")],
    out: Annotated[
        Path | None, typer.Option(help="write a page, index.html, into this folder in place of the figure")
    ] = None,
    flows: Annotated[int | None, typer.Option(help="with --out: how many flows to integrate and draw [4]")] = None,
    proof_seconds: ProofSeconds = 30.0,
    json: Json = False,
) -> None:
    """Table and figure of a finished or running sweep, of a grid its phase diagram; or a page with all of it."""
    from gflow import store
    from gflow.cli import output, reports, tables
    from gflow.summary import sweep_summary

    if flows is not None and (out is None or flows < 0):
        raise InputError("--flows is about the page: give --out too" if out is None else f"--flows {flows}: 0 or more")
    if out is not None:
        reports.check_page(out, store_path)
    dataset = checked(store.open_store, store_path)
    summary = sweep_summary(dataset, store_path)
    reports.check_rows(summary, store_path)
    if out is None:
        wrote = _picture(dataset, summary, store_path)
    else:
        wrote = reports.write_page(
            dataset, summary, store_path, out, reports.FLOWS if flows is None else flows, proof_seconds
        )
    say(f"wrote {wrote}")
    output.emit(summary, json, tables.print_sweep)


def verify(
    store_path: Annotated[str, typer.Argument(metavar="STORE")],
    sample: Annotated[int, typer.Option(help="how many certificates to recompute")] = 32,
    seed: Annotated[int, typer.Option(help="which ones")] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="mark the rows of damaged chunks as pending, for sweep to compute again")
    ] = False,
    json: Json = False,
) -> None:
    """Whether a store is whole, and whether certificates recomputed from its weights agree; exit status 1 if not."""
    from gflow import store
    from gflow.cli import output, reports, tables
    from gflow.verification import verify as verified

    if sample < 0:
        raise InputError(f"--sample must be at least 0, got {sample}")
    found = checked(verified, store_path, sample, seed)
    if repair and found["damaged"]:
        with store.writing(store_path):
            rows = checked(store.forget, store_path, found["damaged"])
        found["repaired"] = rows
        say(f"{rows} rows are pending now; the command in the store's attributes computes them again")
    if found["sound"] and not found["whole"]:
        found["onward"] = reports.onward(store.open_store(store_path), store_path)
    output.emit(found, json, tables.print_verified)
    if not found["whole"]:
        raise typer.Exit(1)


def _machine_of_workers(client) -> dict:
    """{versions, device} of the workers, which must agree."""
    from gflow import cluster

    if not client.scheduler_info()["workers"]:
        say("the scheduler has no workers yet; waiting for the first")
    first, *others = cluster.of_workers(client, machine)
    for other in others:
        if differences(other, first):
            raise InputError(f"workers differ, and their rows would by rounding: {differences(other, first)}")
    return first


def _on_cluster(client, flows, **options):
    from gflow import cluster

    try:
        yield from cluster.sweep_on(client, flows, **options)
    except cluster.WorkersLost as error:
        raise InputError(str(error)) from None


def _check_out(out: str, resume: bool) -> None:
    from gflow import store

    place = store.local(out)
    if place is None:
        return
    if not place.name:
        raise InputError("--out needs the name of a store, for instance --out sweep.zarr")
    if place.is_file():
        raise InputError(f"{out} is a file; choose another --out")
    if resume and not place.exists():
        raise InputError(f"there is no store at {out} to resume; leave --resume out to begin one")
    check_folder(place)


def _devices(wanted: int | None):
    """The local devices to use, a CPU once for every core."""
    from gflow.sweep import lane_devices

    present = lane_devices()
    if wanted is not None and not 1 <= wanted <= len(present):
        raise InputError(f"--devices must be between 1 and {len(present)}, got {wanted}")
    return present[:wanted]


def _processes(wanted: int | None, devices, inits: int) -> int:
    """How many processes find limits: by default one a core, and few where flows are few.

    Beside flows on the same cores too: finding limits is Python most of the time, and one interpreter uses one core.
    """
    from gflow.sweep import cores

    if wanted is not None and not 0 <= wanted <= MOST_PROCESSES:
        raise InputError(f"--limit-processes must be between 0 and {MOST_PROCESSES}, got {wanted}")
    if wanted is not None:
        return wanted
    if devices[0].platform == "cpu":
        return min(cores(), inits // WORTH["cpu"], MOST_PROCESSES)
    return min(cores() - 1, inits // WORTH["gpu"], MOST_PROCESSES)


def _arrays(problems, chosen):
    import numpy as np

    X, y = np.stack([p.X for p in problems]), np.stack([p.y for p in problems])
    return (X, y) if "data_seed" in chosen.axes else (X[0], y[0])


def _picture(dataset, summary: dict, path: str) -> Path:
    from gflow import plots, store

    place = store.local(path) or Path(str(path).rstrip("/").rpartition("/")[2])
    picture = place.with_name(place.name + ".png")
    figure = plots.phase_diagram(summary) if summary["axes"] else plots.sweep_figure(dataset, summary["limits"])
    plots.save(figure, picture)
    return picture
