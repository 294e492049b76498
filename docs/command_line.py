"""docs/reference/command-line.md from the commands themselves: `python docs/command_line.py` writes it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from gflow.cli.main import app

PAGE = Path(__file__).parent / "reference" / "command-line.md"
HEAD = """# Command line

Made by `python docs/command_line.py` from the commands: what stands here is what `gflow COMMAND --help` prints.

DATA is a built-in name with parameters (`gaussian:n=10,d=5,seed=0`, `xor`, `iris`, `digits:3,8`; `gflow data` lists
them), a `.csv` or a `.npz`: see [your own data](../how-to/your-data.md). Samples are numbered from 0 in results, rows
of a file from 1 in messages about it.

| exit status | |
|---|---|
| 0 | success, also of a flow that ends unfitted or at its step limit: `result` says so |
| 1 | failure; `GFLOW_TRACEBACK=1` shows where |
| 2 | bad input; one line says what to do |
| 130 | interrupted |

What XLA compiled is kept in `~/.cache/gflow/xla`; `JAX_COMPILATION_CACHE_DIR` puts it elsewhere. What is printed and
stored is explained under [terms](../terms.md).
"""


def page() -> str:
    """All commands, in the order of `gflow --help`."""
    return HEAD + "".join(map(_section, app.registered_commands))


def _section(command: CommandInfo) -> str:
    function = command.callback
    assert function is not None
    hints = get_type_hints(function, include_extras=True)
    usage, rows = ["gflow", command.name or function.__name__], []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *about = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        if not about:  # the context
            continue
        (info,) = about
        if isinstance(info, ArgumentInfo):
            label = info.metavar or name.upper()
            usage.append(label)
            rows += [f"| `{label}` | | {_text(info.help)} |"] if info.help else []
        elif not info.hidden:
            rows.append(_row(name, kind, parameter.default, info))
    about = " ".join((command.help or inspect.getdoc(function) or "").split())
    table = "\n| option | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
    return (
        f"\n## {usage[1]}\n\n{_text(about)}\n\n```text\n{' '.join([*usage, '[OPTIONS]' if rows else ''])}\n```\n{table}"
    )


def _row(name: str, kind: Any, default: Any, info: OptionInfo) -> str:
    """Flags with what they take, the default, the help; a default in brackets at the end of the help counts as one."""
    takes = "" if kind is bool else " " + {int: "N", float: "X", Path: "FILE"}.get(_plain(kind), "TEXT")
    flags = "<br>".join(f"`{flag}{takes}`" for flag in _flags(name, info))
    text = info.help or ""
    said = re.search(r" \[([^:\]][^\]]*)\]$", text) if default is None else None
    if said:
        text, default = text[: said.start()], said[1]
    elif default is inspect.Parameter.empty:
        default = "required"
    elif kind is bool or default is None:
        default = ""
    return f"| {flags} | {_text(f'{default:g}' if isinstance(default, float) else str(default))} | {_text(text)} |"


def _flags(name: str, info: OptionInfo) -> list[str]:
    """As they are typed; in an annotation the first one takes the place of a default."""
    given = [flag for flag in (info.default, *(info.param_decls or ())) if isinstance(flag, str)]
    return given or [f"--{name.replace('_', '-')}"]


def _plain(kind: Any) -> Any:
    """The type itself of `type | None`."""
    return next((one for one in get_args(kind) if one is not type(None)), kind)


def _text(text: str | None) -> str:
    """Prose for a table of Markdown: every sign stands for itself."""
    return re.sub(r"([|<>*_\[\]])", r"\\\1", text or "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")
