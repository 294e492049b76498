"""What a sweep is made of: a grid of data seeds, losses, laws, widths and scales, from flags or a .toml file."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gflow.cli.inputs import InputError, check_key, check_width, checked, read_problem
from gflow.cli.named import initial_law
from gflow.cli.text import read_text

AXES = ("data_seed", "loss", "law", "width", "scale")
"""What a grid may run over, outermost first."""

DEFAULTS = {"data_seed": None, "loss": "logistic", "law": "gaussian", "width": 50, "scale": 1e-3}
DEFAULTS |= {"inits": 256, "seed": 0, "bias": False, "standardize": False, "dtype": "float64"}
DEFAULTS |= {"weight_decay": 0.0, "activation": "relu"}

ENDS = ("q_min", "max_steps")
"""Known, and in the values only if the flows of every cell end there."""

OPTIONAL = (*ENDS, "index_column")
"""Known, and in the values only if given."""

KINDS = {"data_seed": int, "loss": str, "law": str, "width": int, "scale": float}

OTHER_KINDS = {"inits": int, "seed": int, "bias": bool, "standardize": bool, "weight_decay": float, "q_min": float}
OTHER_KINDS |= {"max_steps": int, "index_column": bool}

MOST_CELLS = 100_000


@dataclasses.dataclass(frozen=True)
class Cell:
    """One point of the grid: `where` axis -> position, and what is run there."""

    where: dict[str, int]
    problem: Any
    law: Any
    width: int


@dataclasses.dataclass(frozen=True)
class Spec:
    """`values`: what determines the results, axis -> one value or the list of its values."""

    values: dict[str, Any]

    @property
    def axes(self) -> dict[str, list]:
        """The axes of the grid: those that were given as a list."""
        return {name: self.values[name] for name in AXES if isinstance(self.values[name], list)}

    @property
    def width(self) -> int:
        """The largest width."""
        return max(_listed(self.values["width"]))

    def problems(self) -> tuple[list, list[str]]:
        """One problem per data seed (one if there is no such axis), with the first loss, and the notes on the data."""
        read = [self._read(seed, _listed(self.values["loss"])[0]) for seed in _listed(self.values["data_seed"])]
        if len({problem.shape for problem, _ in read}) > 1:
            raise InputError("data sets of different seeds have different shapes; sweep them one by one")
        return [problem for problem, _ in read], read[0][1]

    def cells(self) -> Iterator[Cell]:
        """All cells, in the order in which they are run."""
        listed = [_listed(self.values[name]) for name in AXES]
        read = functools.cache(lambda seed, loss: self._read(seed, loss)[0])
        for at in itertools.product(*(range(len(v)) for v in listed)):
            seed, loss, law, width, scale = (v[k] for v, k in zip(listed, at, strict=True))
            where = {name: k for name, k in zip(AXES, at, strict=True) if name in self.axes}
            yield Cell(where, read(seed, loss), initial_law(law, scale), width)

    def _read(self, seed, loss: str):
        v = self.values
        return read_problem(
            seeded(v["data"], seed), loss, v["bias"], v["standardize"], "float64", v["weight_decay"], v["activation"],
            classes=True, index_column=v.get("index_column", False),
        )  # fmt: skip


def read_spec(data: str, flags: dict[str, Any]) -> Spec:
    """The spec of a command line. `flags`: those that were given; DATA may be a .toml file with the same names.

    Raises InputError for whatever makes no sense, before anything is computed.
    """
    given = {"data": data}
    if data.endswith(".toml"):
        given = _from_file(data)
    given |= {name: _parsed(name, text) if name in KINDS else text for name, text in flags.items() if text is not None}
    spec = Spec({**DEFAULTS, **given})
    ends = _check(spec)
    # written down even where it is the default, which may change; of a grid in which it differs every cell has its own
    return spec if len(ends) > 1 or None in ends else Spec({**spec.values, "q_min": ends.pop()})


def _from_file(path: str) -> dict[str, Any]:
    import tomllib

    try:
        content = tomllib.loads(checked(read_text, Path(path), "a .toml"))
    except RecursionError:
        raise InputError(f"{path} cannot be read as a sweep: its lists are nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} cannot be read as a sweep: {error}") from None
    unknown = set(content) - {"data", *DEFAULTS, *OPTIONAL}
    if unknown or "data" not in content:
        names = ", ".join(["data", *DEFAULTS, *OPTIONAL])
        what = f"does not know {', '.join(sorted(unknown))}" if unknown else "needs data"
        raise InputError(f"{path}: a sweep {what}; it may say {names}")
    for name, value in content.items():
        kind = KINDS.get(name, OTHER_KINDS.get(name, str))
        listed = value if isinstance(value, list) and name in KINDS else [value]
        if not listed or not all(type(v) in ((int, float) if kind is float else (kind,)) for v in listed):
            grid = ", or a list of it for a grid" if name in KINDS else ""
            raise InputError(f"{path}: {name} must be {kind.__name__}{grid}; got {value!r}")
        if kind is float:
            numbers = list(map(float, listed))  # pyright: ignore
            content[name] = numbers if isinstance(value, list) else numbers[0]
    return content


def _parsed(name: str, text: str):
    """A value, or a list of them from "4,8,16" or "2..16"."""
    kind = KINDS[name]
    try:
        if kind is int and ".." in text:
            first, last = map(int, text.split(".."))
            values = list(range(first, last + 1))
        else:
            values = [kind(part) for part in text.split(",")]
    except ValueError:
        ranges = " or a range such as 2..16" if kind is int else ""
        raise InputError(f"--{name.replace('_', '-')}: {text!r} is no {kind.__name__}, list{ranges}") from None
    if not values:
        raise InputError(f"--{name.replace('_', '-')}: {text} holds no number; the smaller one comes first")
    return values if len(values) > 1 else values[0]


def _check(spec: Spec) -> set[float | None]:
    """Where the flows of its cells end (`end_of`). Raises InputError for what makes no sense."""
    from gflow.legs import end_of

    values, count, ends = spec.values, 1, set()
    if values["data_seed"] is not None and Path(values["data"]).suffix:
        raise InputError(f"--data-seed is about built-in data sets, and {values['data']} is a file: leave it out")
    for name, listed in spec.axes.items():
        if not listed or len(set(listed)) < len(listed):
            raise InputError(f"--{name.replace('_', '-')}: the values of a grid must differ; got {listed}")
        count *= len(listed)
    if count > MOST_CELLS:
        raise InputError(f"the grid has {count} cells, more than {MOST_CELLS}")
    if not isinstance(values["inits"], int) or values["inits"] < 1:
        raise InputError(f"--inits must be at least 1, got {values['inits']}")
    if values.get("max_steps", 1) < 1:
        raise InputError(f"--max-steps must be at least 1, got {values['max_steps']}")
    check_key(values["seed"], values["inits"] - 1)
    if values["dtype"] not in ("float64", "float32"):
        raise InputError(f"--dtype must be float64 or float32 (of the flows), got {values['dtype']!r}")
    for width in _listed(values["width"]):
        check_width(width)
    laws = {law: initial_law(law, scale) for law in _listed(values["law"]) for scale in _listed(values["scale"])}
    unbalanced = [name for name, law in laws.items() if not law.balanced]
    for seed, loss in itertools.product(_listed(values["data_seed"])[:1], _listed(values["loss"])):
        problem, _ = spec._read(seed, loss)
        ends.add(checked(end_of, problem, values["dtype"], values.get("q_min")))
        if problem.outputs is not None and unbalanced:
            raise InputError(f"--init {unbalanced[0]}: flows with an output for each of several classes start balanced")
    return ends


def seeded(data: str, seed: int | None) -> str:
    """The data set with this seed; seed None leaves it as it is."""
    if seed is None:
        return data
    name, _, parameters = data.partition(":")
    kept = [p for p in parameters.split(",") if p and not p.startswith("seed=")]
    return f"{name}:{','.join([*kept, f'seed={seed}'])}"


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]
