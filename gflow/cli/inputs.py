"""What the commands take from their user, each refused in one line before anything is computed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gflow.cli.progress import say


class InputError(ValueError):
    """Bad input: exit status 2."""


def checked(function, *arguments, **options):
    """Call it; what it refuses is the user's input."""
    try:
        return function(*arguments, **options)
    except (ValueError, ImportError) as error:
        raise InputError(str(error)) from None
    except MemoryError as error:
        raise InputError(f"this is too large for the memory of this machine: {error}") from None


def read_activation(text: str):
    """The activation of this name."""
    from gflow.activations import activation_named

    try:
        return activation_named(text)
    except ValueError:
        raise InputError(
            f"--activation must be relu or leaky-relu:ALPHA with 0 <= ALPHA < 1 (run, solve --beta: gated-relu); "
            f"got {text!r}"
        ) from None


def read_problem(
    data: str,
    loss: str,
    bias: bool,
    standardize: bool,
    dtype: str,
    weight_decay: float = 0.0,
    activation: str = "relu",
    classes: bool = False,
    index_column: bool = False,
):
    """(problem, notes): the data of a command line, and what was done to them or is to be feared of them.

    `classes`: whether the command takes more than two, as vector output. `index_column`: as in `data.load`.
    """
    import gflow
    from gflow.cli import data as reader
    from gflow.losses import TRAINED
    from gflow.rays import barely_separable, never_separable

    if loss not in TRAINED:
        raise InputError(f"--loss must be one of {', '.join(TRAINED)}; got {loss!r}")
    if dtype != "float64":
        raise InputError(f"--dtype {dtype}: a certificate needs float64; leave --dtype out")
    dataset, notes = checked(reader.load, data, real=loss == "squared", index_column=index_column)
    dataset, more = checked(reader.prepare, dataset, standardize, bias)
    acts = read_activation(activation)
    if dataset.y.ndim == 2 and loss == "squared":
        raise InputError(f"{data}: --loss squared takes numbers as labels, these are {dataset.y.shape[1]} classes")
    if dataset.y.ndim == 2 and not classes:
        raise InputError(
            f"{data} has {dataset.y.shape[1]} label values; keep two classes here (run, sweep, certify and solve take "
            "more, without gates, frozen layers and --beta)"
        )
    problem = checked(
        gflow.Problem, dataset.X, dataset.y, loss=TRAINED[loss](), activation=acts, weight_decay=weight_decay
    )
    if problem.outputs and problem.lower_slope > 0:
        raise InputError("a leaky ReLU is certified for one output, two classes or numbers, only")
    for function, what in (
        (never_separable, "no network of this kind can separate these data: {}; none will be GLOBAL"),
        (barely_separable, "no network that float64 can compute separates these data: {}"),
    ):
        reasons = function(dataset.X, dataset.y) if problem.directional else []
        if reasons:
            shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
            more.append("warning: " + what.format(shown))
    if problem.of_margins and problem.outputs is None and len(set(problem.y.tolist())) == 1:
        more.append(f"warning: all labels are {problem.y[0]:+.0f}: there is nothing to separate")
    more.append(f"data: {problem.shape[0]} samples, {problem.shape[1]} columns")
    return problem, notes + more


def announce(notes: list[str]) -> None:
    """Say what was done to the data, once all of the input has been accepted."""
    for note in notes:
        say(note)


def check_width(width: int) -> None:
    """A number of neurons that makes sense."""
    if width < 1:
        raise InputError(f"--width must be at least 1, got {width}")


def check_frozen(problem, until_s: float | None, until_t: float | None) -> None:
    """What a flow of the first layer alone exists for."""
    if problem.outputs is not None:
        raise InputError("--freeze-output is for two classes: vector output moves both layers")
    if not problem.directional and until_s is None and until_t is None:
        raise InputError(
            "--freeze-output with --loss squared or --weight-decay ends at a time: give --until-s or --until-t"
        )


def check_far(problem, dtype: str, q_min: float | None, **horizons) -> None:
    """What a flow to large margins exists for."""
    from gflow.legs import end_of

    if q_min is None:
        return
    given = [f"--{name.replace('_', '-')}" for name, value in horizons.items() if value]
    if given:
        raise InputError(f"--q-min says where a flow of both layers ends: leave {', '.join(given)} out")
    try:
        end_of(problem, dtype, q_min)
    except ValueError as error:
        raise InputError(f"--q-min: {error}") from None


def check_steps(rtol: float | None, max_steps: int) -> None:
    """Tolerance, None for the usual one, and step budget of an integration."""
    if rtol is not None and not 0 < rtol < 1:
        raise InputError(f"--rtol must be between 0 and 1, got {rtol}")
    if max_steps < 1:
        raise InputError(f"--max-steps must be at least 1, got {max_steps}")


def check_budget(seconds: float) -> None:
    """Seconds of a proof."""
    if not seconds >= 0:
        raise InputError(f"--proof-seconds must be 0 or more, got {seconds}")


def check_key(seed: int, index: int) -> None:
    """Seeds and numbers of initialisations that fit a key."""
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed must be between 0 and 2^63 - 1, got {seed}")
    if not 0 <= index < 2**32:
        raise InputError(f"initialisations are numbered from 0 to 2^32 - 1, got {index}")


def read_weights(path: Path, problem):
    """The network in an .npz with W1 (d, m) and w2 (m,), or W2 (m, K), for this problem."""
    import jax.numpy as jnp

    import gflow
    from gflow.cli import data as reader

    held = checked(reader.names_in, path)
    if "W1" in held and ("W2" in held) != ("w2" in held) and ("W2" in held) != (problem.outputs is not None):
        kind = "2 classes: w2 (m,)" if problem.outputs is None else f"{problem.outputs} classes: W2 (m, K)"
        raise InputError(f"{path} holds {', '.join(held)}, but the data have {kind}")
    if problem.outputs is not None:
        arrays = checked(reader.read_npz, path, ("W1", "W2"))
        _check_real(path, arrays)
        network = gflow.VectorTwoLayer(*(jnp.asarray(arrays[name], float) for name in ("W1", "W2")))
        checked(problem.check, network)
        return network
    arrays = checked(reader.read_npz, path, ("W1", "w2"))
    W1, w2 = arrays["W1"], arrays["w2"]
    if W1.ndim == 3 and w2.ndim == 2:
        raise InputError(f"{path} holds the weights of {len(W1)} saved times; keep one, for instance W1[-1] and w2[-1]")
    if W1.ndim == 2 and w2.size and w2.shape in ((1, W1.shape[0]), (W1.shape[0],)) and w2.shape != W1.shape[1:]:
        raise InputError(f"{path}: W1 {W1.shape} and w2 {w2.shape} look like PyTorch's; save W1.T and w2.ravel()")
    if W1.ndim != 2 or w2.shape != W1.shape[1:] or w2.size == 0:
        raise InputError(f"{path}: W1 must be (d, m) and w2 (m,) with m >= 1; got W1 {W1.shape} and w2 {w2.shape}")
    _check_real(path, arrays)
    if W1.shape[0] != problem.shape[1]:
        transposed = "; transpose it?" if W1.shape[1] == problem.shape[1] else ""
        raise InputError(
            f"{path}: W1 has {W1.shape[0]} rows, but the data have d = {problem.shape[1]} columns (--bias adds one)"
            f"{transposed}"
        )
    return gflow.TwoLayer(jnp.asarray(W1, float), jnp.asarray(w2, float))


def _check_real(path: Path, arrays) -> None:
    import numpy as np

    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array) or not np.all(np.isfinite(array)):
            raise InputError(f"{path}: {name} must hold finite real numbers")


def check_file(path: Path | None, suffixes: tuple[str, ...], *inputs) -> None:
    """Refuse, before anything is computed, a file that cannot be written or that is an input."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the file must end in {' or '.join(suffixes)}")
    check_folder(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder")
    if path.exists() and any(other and Path(other).exists() and path.samefile(other) for other in inputs):
        raise InputError(f"{path} is an input of this command and would be overwritten")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{path} cannot be written")


def check_folder(path: Path) -> None:
    """Refuse a file in a folder that is missing or closed."""
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist")
    if path.exists():
        return
    try:  # permissions do not tell: a file system may refuse
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"the folder {path.parent} cannot be written to ({error.strerror}); choose another") from None
