"""How the API reference reads gflow: docstrings are prose with formulas in ASCII, modules of Equinox are dataclasses.

`lambda^T (X u)_+`, `P*` and the like mean nothing to Markdown, so its signs are escaped outside `code` and indented
blocks. The fields of an `eqx.Module` are the parameters of its constructor, which nothing in the source spells out; so
are those of a named tuple and of what is derived from diffrax.
"""

from __future__ import annotations

import ast
import re

import griffe

SIGNS = re.compile(r"([\\*_\[\]>#{}])")


class Plain(griffe.Extension):
    """Escapes docstrings, and writes constructors down."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Called once for every object that is read."""
        if obj.docstring is not None and isinstance(obj.docstring.value, str):
            obj.docstring.value = escaped(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_) -> None:
        """Called at the end: bases can be looked up now."""
        for module in _modules(pkg):
            for found in module.classes.values():
                if not found.is_alias and "__init__" not in found.members and _is_module(found):
                    _write_constructor(found)


def escaped(text: str) -> str:
    """Prose for Markdown: nothing in it is a mark, except `code` and blocks that are indented by four."""
    lines, block, empty = [], False, True
    for line in text.splitlines():
        # an indented block begins after an empty line and ends with the indentation
        block = line.startswith("    ") and (block or empty) if line.strip() else block
        empty = not line.strip()
        lines.append(line if block else "".join(_outside(part) for part in re.split(r"(`[^`]*`)", line)))
    return "\n".join(lines)


def _outside(part: str) -> str:
    if part.startswith("`") and part.endswith("`") and len(part) > 1:
        return part
    return SIGNS.sub(r"\\\1", part).replace("<", "&lt;")


def _modules(module: griffe.Module):
    yield module
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _modules(inner)


def _is_module(found: griffe.Class) -> bool:
    if any(re.match(r"(eqx\.)?Module$|NamedTuple$|diffrax\.Abstract", str(base)) for base in found.bases):
        return True
    return any(_is_module(base) for base in found.resolved_bases if isinstance(base, griffe.Class))


def _fields(found: griffe.Class) -> dict[str, griffe.Parameter]:
    """Name -> parameter, those of the bases first, as in a dataclass."""
    fields: dict[str, griffe.Parameter] = {}
    for base in found.resolved_bases:
        if isinstance(base, griffe.Class):
            fields |= _fields(base)
    for name, member in found.members.items():
        if not member.is_attribute or member.is_alias or member.annotation is None:
            continue
        if "instance-attribute" not in member.labels or "AbstractVar" in str(member.annotation):
            continue
        kind = griffe.ParameterKind.positional_or_keyword
        fields[name] = griffe.Parameter(name, annotation=member.annotation, kind=kind, default=_default(member.value))
    return fields


def _default(value) -> str | None:
    """What a field is if it is left out; None if it has to be given."""
    if value is None:
        return None
    text = str(value)
    if "field(" not in text:
        return text
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return given.get("default")


def _write_constructor(found: griffe.Class) -> None:
    fields = list(_fields(found).values())
    if not fields:
        return
    own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    found.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(own, *fields)))
