"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="built-in name (see gflow data), .csv with label last, or .npz with X, y")
]
Width = Annotated[int, typer.Option(help="number of neurons m")]
Scale = Annotated[float, typer.Option(help="scale of the first weights")]
LossName = Annotated[str, typer.Option("--loss", help="logistic, exponential, or squared (labels are real numbers)")]
WeightDecay = Annotated[float, typer.Option("--weight-decay", help="beta of loss + beta/2 |theta|^2")]
Activation = Annotated[
    str, typer.Option("--activation", help="relu, leaky-relu:ALPHA with 0 <= ALPHA < 1, or gated-relu")
]
Init = Annotated[
    str, typer.Option(help="law of the first weights, NAME[:key=value,...], e.g. sphere, dominated:ratio=2")
]
Seed = Annotated[int, typer.Option(help="initialisation i depends on (seed, i) alone")]
Bias = Annotated[bool, typer.Option("--bias", help="append a constant column")]
IndexColumn = Annotated[
    bool, typer.Option("--index-column", help="the first column of a .csv is an index: leave it out")
]
Standardize = Annotated[bool, typer.Option("--standardize", help="scale columns to mean 0, variance 1")]
Json = Annotated[bool, typer.Option("--json", help="print exactly one JSON object")]
Dtype = Annotated[str, typer.Option(help="float64; certificates exist in float64 only")]
ProofSeconds = Annotated[
    float,
    typer.Option(
        "--proof-seconds",
        envvar="GFLOW_PROOF_SECONDS",
        help="seconds for the proof, whose interval by then is the answer; inf: no limit",
    ),
]
QMin = Annotated[
    float | None,
    typer.Option(
        "--q-min",
        help="smallest margin at which flows stop, 1e3 to 1e8; their limits are guessed from there [flows are followed "
        "to infinity]",
    ),
]
