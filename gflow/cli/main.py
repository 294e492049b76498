"""`gflow run | certify | solve | data`, and the sweeps of `sweeps.py`."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gflow.cli import sweeps, work
from gflow.cli.ended import ended
from gflow.cli.environment import configure, plain_warnings
from gflow.cli.gated import check_gated
from gflow.cli.given import certified, descended
from gflow.cli.inputs import (
    InputError,
    announce,
    check_budget,
    check_far,
    check_file,
    check_frozen,
    check_key,
    check_steps,
    check_width,
    checked,
    read_problem,
    read_weights,
)
from gflow.cli.named import initial_law
from gflow.cli.options import (
    Activation,
    Bias,
    Data,
    Dtype,
    IndexColumn,
    Init,
    Json,
    LossName,
    ProofSeconds,
    QMin,
    Scale,
    Seed,
    Standardize,
    WeightDecay,
    Width,
)
from gflow.cli.progress import say
from gflow.cli.solved import solved
from gflow.cli.work import Interrupted

INTERRUPTED = 130

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Gradient flow of two-layer ReLU networks, integrated to its limit and certified by convex duality.",
)  # fmt: skip


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    if version:
        import gflow

        typer.echo(gflow.__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    context: typer.Context,
    data: Data,
    width: Width = 50,
    scale: Scale = 1e-3,
    init: Init = "gaussian",
    loss: LossName = "logistic",
    weight_decay: WeightDecay = 0.0,
    activation: Activation = "relu",
    seed: Seed = 0,
    index: Annotated[int, typer.Option(help="which initialisation of this seed, as in a sweep")] = 0,
    weights: Annotated[
        Path | None,
        typer.Option(help="first weights, in place of --width, --scale and --seed: .npz with W1 (d, m), w2 (m,)"),
    ] = None,
    freeze_output: Annotated[
        bool, typer.Option("--freeze-output", help="hold the second layer fixed: the first one moves alone")
    ] = False,
    until_s: Annotated[float | None, typer.Option(help="stop at this scaled time s")] = None,
    until_t: Annotated[float | None, typer.Option(help="stop at this physical time t")] = None,
    q_min: QMin = None,
    rtol: Annotated[
        float | None,
        typer.Option(help="tolerance of the integrator [1e-3, with --q-min 3e-3, up to a horizon 1e-4]"),
    ] = None,
    max_steps: Annotated[int, typer.Option(help="step budget")] = 100_000,
    proof_seconds: ProofSeconds = 30.0,
    optimizer: Annotated[
        str | None,
        typer.Option(help="descend instead: sgd, momentum, nesterov, normalised-sgd, adam, rmsprop [:lr=..,batch=..]"),
    ] = None,
    steps: Annotated[int, typer.Option(help="steps of --optimizer")] = 10_000,
    out: Annotated[Path | None, typer.Option(help="write the trajectory to this .npz")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a figure (.png, .pdf, .svg)")] = None,
    bias: Bias = False,
    standardize: Standardize = False,
    index_column: IndexColumn = False,
    dtype: Dtype = "float64",
    json: Json = False,
) -> None:
    """One flow to its certified limit."""

    import gflow
    from gflow.flow.controller import PIController
    from gflow.flow.solve import check_arguments
    from gflow.legs import RTOL

    given = [k for k in ("width", "scale", "init", "seed", "index") if _is_given(context, k)]
    if weights and given:
        raise InputError(f"--weights are the first network: leave {', '.join(f'--{k}' for k in given)} out")
    fixed = activation == "gated-relu"
    acts = "relu" if fixed else activation
    problem, notes = read_problem(
        data, loss, bias, standardize, dtype, weight_decay, acts, classes=not fixed, index_column=index_column
    )
    if fixed:
        check_gated(problem, optimizer=optimizer, freeze_output=freeze_output, plot=plot, q_min=q_min)
    check_steps(rtol, max_steps)
    check_budget(proof_seconds)
    check_file(out, (".npz",), data, weights)
    check_file(plot, (".png", ".pdf", ".svg"), data, weights)
    check_key(seed, index)
    check_width(width)
    law = initial_law(init, scale)
    network = read_weights(weights, problem) if weights else checked(law, gflow.key_of(seed, index), problem, width)
    if optimizer is not None:
        _check_no_flow(context)
        return descended(problem, network, optimizer, steps, gflow.key_of(seed, index), notes, json, proof_seconds)
    checked(check_arguments, problem, network, until_s, until_t)
    if freeze_output:
        check_frozen(problem, until_s, until_t)
    check_far(problem, dtype, q_min, until_s=until_s, until_t=until_t, freeze_output=freeze_output)
    announce(notes)
    options: dict = {"max_steps": max_steps, "saves": 64 if out or plot else 1}
    horizons = {"until_s": until_s, "until_t": until_t}
    timed = until_s is not None or until_t is not None
    if timed or fixed or freeze_output:
        options["controller"] = PIController((1e-4 if timed else RTOL) if rtol is None else rtol)
    elif rtol is not None:
        options["controller"] = PIController(rtol)
    if not (timed or fixed or freeze_output):
        options["q_min"] = q_min
    elif not fixed:
        options |= horizons | {"chart": gflow.FrozenOutput if freeze_output else None}
    else:
        options |= horizons
    ended(problem, network, options, fixed=fixed, out=out, plot=plot, seconds=proof_seconds, json=json)


def _check_no_flow(context: typer.Context) -> None:
    """Raise InputError for options that say how a flow is integrated or shown."""
    names = ("freeze_output", "until_s", "until_t", "q_min", "rtol", "max_steps", "out", "plot")
    given = ", ".join("--" + k.replace("_", "-") for k in names if _is_given(context, k))
    if given:
        raise InputError(f"--optimizer is no flow: leave {given} out")


@app.command()
def certify(
    data: Data,
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS.npz", help="W1 (d, m) and w2 (m,)")],
    loss: LossName = "logistic",
    weight_decay: WeightDecay = 0.0,
    activation: Activation = "relu",
    bias: Bias = False,
    standardize: Standardize = False,
    index_column: IndexColumn = False,
    dtype: Dtype = "float64",
    proof_seconds: ProofSeconds = 30.0,
    json: Json = False,
) -> None:
    """What is proved about a trained two-layer network."""
    problem, notes = read_problem(
        data, loss, bias, standardize, dtype, weight_decay, activation, classes=True, index_column=index_column
    )
    network = read_weights(weights, problem)
    check_budget(proof_seconds)
    announce(notes)
    certified(problem, network, {}, proof_seconds, json)


@app.command()
def solve(
    data: Data,
    masks: Annotated[str, typer.Option(help="all, or how many directions to sample")] = "all",
    beta: Annotated[
        float | None, typer.Option(help="weight decay: the penalised program, loss + beta/2 |theta|^2")
    ] = None,
    loss: Annotated[
        str, typer.Option(help="with --beta: logistic, exponential or squared; squared alone: the least norm")
    ] = "logistic",
    activation: Activation = "relu",
    rtol: Annotated[float, typer.Option(help="relative gap to reach")] = 1e-9,
    proof_seconds: ProofSeconds = 30.0,
    bias: Bias = False,
    standardize: Standardize = False,
    index_column: IndexColumn = False,
    json: Json = False,
) -> None:
    """The convex program itself, max-margin, least norm or with weight decay: its optimum, proved from both sides."""
    if masks != "all" and not (masks.isdecimal() and int(masks) > 0):
        raise InputError(f"--masks must be all or a positive number, got {masks!r}")
    if not 0 < rtol < 1:
        raise InputError(f"--rtol must be between 0 and 1, got {rtol}")
    if beta is not None and not 0 < beta < float("inf"):
        raise InputError(f"--beta must be a positive number, got {beta}")
    gated = activation == "gated-relu"
    if gated and beta is None:
        raise InputError("--activation gated-relu is about weight decay: give --beta too")
    if beta is None and loss == "exponential":
        raise InputError(
            "--loss exponential is about weight decay: give --beta too (the max-margin program has no loss)"
        )
    plain = beta is None and not gated
    act = "relu" if gated else activation
    problem, notes = read_problem(
        data, loss, bias, standardize, "float64", activation=act, classes=plain, index_column=index_column
    )
    check_budget(proof_seconds)
    announce(notes)
    solved(problem, masks=masks, beta=beta, gated=gated, squared=loss == "squared", rtol=rtol, seconds=proof_seconds,
           json=json)  # fmt: skip


@app.command(name="data")
def data_(name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None) -> None:
    """The built-in data sets, or one of them as CSV."""
    import inspect

    import numpy as np

    from gflow import datasets
    from gflow.cli import data as reader

    if name is None:
        for entry in datasets.__all__:
            function = getattr(datasets, entry)
            parameters = ",".join(f"{p.name}={p.default}" for p in inspect.signature(function).parameters.values())
            label = entry.replace("_", "-") + (f":{parameters}" if parameters else "")
            typer.echo(f"{label:44s} {(function.__doc__ or '').splitlines()[0]}")
        return
    dataset = checked(reader.built_in, name)
    features = dataset.features or tuple(f"x{j + 1}" for j in range(dataset.X.shape[1]))
    typer.echo(",".join([*(f.replace(",", " ") for f in features), "label"]))
    labels = dataset.y if dataset.y.ndim == 1 else np.argmax(dataset.y, axis=1)
    for row, label in zip(dataset.X, labels, strict=True):
        typer.echo(",".join([*map(repr, row.tolist()), f"{int(label):d}"]))


for command in (sweeps.sweep, sweeps.report, sweeps.verify):
    app.command()(command)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 on success, 2 with one line on bad input, 1 on failure, 130 when interrupted."""
    configure()
    try:
        # typer turns an interrupt into an exit status and, outside standalone mode, returns it
        with plain_warnings():
            status = app(args=arguments, prog_name="gflow", standalone_mode=False)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except InputError as error:
        say("gflow: error: " + " ".join(str(error).split()))
        return 2
    except Interrupted:
        return INTERRUPTED
    except (typer.Abort, KeyboardInterrupt):
        sweeping = (sys.argv[1:] if arguments is None else arguments)[:1] == ["sweep"]
        say("gflow: interrupted" + ("; the same command continues an unfinished store" if sweeping else ""))
        return INTERRUPTED
    except Exception as error:
        # usage errors of the command line itself, whether typer depends on click or carries its own copy
        if hasattr(error, "format_message"):
            say("gflow: error: " + " ".join(error.format_message().split()))  # pyright: ignore
            return 2
        if os.environ.get("GFLOW_TRACEBACK"):
            raise
        text = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text += "; make room, the same command continues an unfinished store"
        say(f"gflow: failed: {type(error).__name__}: {text} (GFLOW_TRACEBACK=1 shows where)")
        return 1


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def program() -> None:
    """`gflow` as a process of its own: main, and its status as that of the process."""
    status = main()
    if status == INTERRUPTED or any(thread.is_alive() for thread in work.left_alone):
        # XLA may be in the midst of a compilation, and tearing the interpreter down around it ends in a crash
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    program()
