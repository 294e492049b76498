"""`python -m benchmarks [NAME ...]`: the tables of what was measured, from benchmarks/results; runs nothing."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def short(value) -> str:
    """A figure as a reader wants it."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(v)}" for key, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(short, value[:6])) + (", ..." if len(value) > 6 else "")
    return str(value)


def figure(line: dict):
    """What a line has measured: lines that compare have no target, and no `measured`, but a rate or times."""
    named = [{key: line[key]} for key in ("flows_per_s", "seconds_to") if key in line]
    return line.get("measured", named[0] if named else None)


def table(path: Path) -> Table:
    """One file: where it ran, then a line for each claim."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    where, claims = lines[0], lines[1:]
    versions = ", ".join(f"{k} {v}" for k, v in where.get("versions", {}).items())
    made = Table("claim", "target", "measured", "met", title=f"{path.stem}: {where.get('device', '?')}, {versions}")
    for line in claims:
        met = {True: "yes", False: "MISSED"}.get(line.get("met"), "")
        made.add_row(line.get("claim", "?"), short(line.get("target")), short(figure(line)), met)
    return made


def main(names: list[str]) -> None:
    present = {path.stem: path for path in sorted(RESULTS.glob("*.jsonl"))}
    unknown = [name for name in names if name not in present]
    if unknown:
        sys.exit(f"no results {', '.join(unknown)}; there are {', '.join(present)}")
    for name in names or present:
        Console().print(table(present[name]))


if __name__ == "__main__":
    main(sys.argv[1:])
