"""Command lines and .toml files that repeat what a store holds."""

from __future__ import annotations

import json
import shlex

from gflow.cli.spec import AXES, DEFAULTS, seeded

FLAGS = ("inits", "width", "law", "scale", "loss", "data_seed", "seed", "weight_decay", "activation", "dtype")
FLAGS += ("q_min", "max_steps")
"""Options with a value, in the order in which they are written."""

SWITCHES = ("bias", "standardize", "index_column")

ALWAYS = ("inits", "width", "law", "scale", "loss", "seed")
"""Written even where they are the defaults, which may change."""


def sweep_command(values: dict, path: str) -> tuple[str, str]:
    """(command, content of spec.toml) of the sweep with these `values` into the store `path`.

    A grid with an axis of a single value exists in a file only; otherwise the content is empty.
    """
    if any(isinstance(values[name], list) and len(values[name]) == 1 for name in AXES):
        kept = {k: v for k, v in values.items() if v != DEFAULTS.get(k) or k in ALWAYS}
        # JSON's strings, numbers, lists and truth values are TOML's
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in kept.items()]
        return shlex.join(["gflow", "sweep", "spec.toml", "--out", path]), "\n".join(lines)
    return shlex.join(["gflow", "sweep", str(values["data"]), *_options(values, FLAGS), "--out", path]), ""


def run_command(values: dict, cell: dict, index: int) -> str:
    """The `gflow run` that is row `index` of a cell; `cell`: axis -> value."""
    one = {**values, **{name: cell[name] for name in AXES if name in cell}}
    data = seeded(str(one["data"]), one["data_seed"])
    flags = [name for name in FLAGS if name not in ("inits", "data_seed", "dtype")]
    return shlex.join(["gflow", "run", data, *_options(one, flags), "--index", str(index)])


def _options(values: dict, flags) -> list[str]:
    words = []
    for name in flags:
        value = values.get(name)
        if name in ALWAYS or value != DEFAULTS.get(name):
            flag = "--init" if name == "law" else f"--{name.replace('_', '-')}"
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words + [f"--{name.replace('_', '-')}" for name in SWITCHES if values.get(name)]
