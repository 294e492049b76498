"""docs/results.md from benchmarks/results: `python benchmarks/results_page.py` writes it, `--check` only compares.

A figure counts as one of older code if a file that it measures has changed since the commit of its line, by `git log`
and in the working tree. In a clone without that history the page keeps the marks that it has.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from claims import TABLES, Claim, Line, Table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
OLDER = " (older code)"
HEAD = """# Results

One line for each claim: its target, what was measured, where and when, and by which command. The page is made by
`python benchmarks/results_page.py` from the lines of `benchmarks/results`; nothing in it is written by hand. Missed
targets are listed like the others.

- **Date**: the day of the measurement. *no commit*: the line does not say on which code it was measured; the day is the
  one on which it was recorded in the repository.
- **older code**: a file that the claim is about has changed since the measurement. The figure may be another one now.
- **Reached**: "–" where nothing was promised, as for other programs that were measured for comparison.

Times are those of a machine with two CPU cores unless it is named. The speed of such a machine varies by a third
within hours, and machines differ by a factor of two: compare ratios within one run only. What was tried, what it gained
and what did not work is told in the [notes](notes/index.md); what is known to fail in [limitations](limitations.md).
Cases A, C and D are defined in `tests/cases.py`.
"""


def lines_of(table: Table) -> list[Line]:
    """What the table's file holds, without its headers."""
    text = (ROOT / "benchmarks" / "results" / f"{table.file}.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "claim" in line]


def page(marks: bool = True) -> str:
    """The whole page; without `marks`: as if no file had changed since."""
    return HEAD + "".join(_section(table, marks) for table in TABLES)


def without_marks(text: str) -> str:
    """A page without what only the history knows."""
    return text.replace(OLDER, "")


@functools.cache
def history() -> bool:
    """Does this clone know when files changed?"""
    return _git("rev-parse", "--is-shallow-repository") == "false"


def _section(table: Table, marks: bool) -> str:
    lines = lines_of(table)
    taken: set[str] = set()
    rows = []
    for claim in table.claims:
        found = [line for line in lines if re.fullmatch(claim.lines, line["claim"])]
        if not found:
            raise LookupError(f"no line of {table.file}.jsonl is {claim.lines!r}")
        taken |= {line["claim"] for line in found}
        rows.append(_row(claim, found, marks))
    if table.peers is not None:
        for line in lines:
            if line["claim"] not in taken:
                rows.append(_row(_peer(line, table), [line], marks))
    heads = "| claim | target | measured | reached | date | machine |\n|---|---|---|---|---|---|\n"
    return f"\n## {table.title}\n\n`{table.command}`\n\n{heads}" + "\n".join(rows) + "\n"


def _peer(line: Line, table: Table) -> Claim:
    """A line that compares: gflow's own as it measures the code, other programs as nothing here changes them."""
    own = "gflow" in line["claim"]
    return Claim(line["claim"], "–", "", ("gflow",) if own else (), lambda lines: table.peers(lines[0]))  # pyright: ignore


def _row(claim: Claim, lines: list[Line], marks: bool) -> str:
    reached = claim.reached(lines)
    said = "–" if reached is None or claim.target == "–" else "reached" if reached else "**missed**"
    older = OLDER if marks and any(_older(line, claim.measures) for line in lines) else ""
    dates = sorted({_date(line) for line in lines})
    date = "; ".join(dates)
    machine = ", ".join(sorted({_machine(line) for line in lines}))
    cells = (claim.text, claim.target, claim.shown(lines), said, date + older, machine)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _date(line: Line) -> str:
    return line["date"] if "date" in line else f"{line['recorded']['date']}, no commit"


def _machine(line: Line) -> str:
    found = re.fullmatch(r"cpu x(\d+) (\w+)", line["device"])
    return f"{found[1]} CPU cores, {found[2]}" if found else line["device"]


def _older(line: Line, paths: tuple[str, ...]) -> bool:
    """Has one of the files changed since? A line without a commit that this clone knows counts as older."""
    if not paths:
        return False
    commit = line.get("commit") or line.get("recorded", {}).get("commit")
    if commit is None or commit.endswith("+"):
        return True
    return _changed(commit, paths)


@functools.cache
def _changed(commit: str, paths: tuple[str, ...]) -> bool:
    """Do the files differ from those of `commit`, in the working tree?"""
    done = subprocess.run(["git", "diff", "--quiet", commit, "--", *paths], cwd=ROOT, capture_output=True)
    return done.returncode != 0


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def main(arguments: list[str]) -> None:
    made = page() if history() else None
    if made is None:
        sys.exit(
            "this clone has no history (git fetch --unshallow): the page cannot say which figures are of older code"
        )
    if arguments == ["--check"]:
        sys.exit(None if made == PAGE.read_text(encoding="utf-8") else "docs/results.md is not what the lines make")
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
