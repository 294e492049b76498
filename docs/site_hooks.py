"""Hooks of `mkdocs build`: formulas become MathML, notebooks become pages, and docs/figures.py becomes a gallery.

MathML is drawn by the browser: the site loads no script or font from elsewhere.
"""

from __future__ import annotations

import ast
import html
import json
import logging
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

log = logging.getLogger("mkdocs.gflow")

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"

FIGURES = Path(__file__).parent / "figures.py"

FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.DOTALL)

TYPOGRAPHY = (
    # bars and slashes are set like relations otherwise
    (r'<mo(?: stretchy="false")?>&#x0007C;</mo>', '<mo lspace="0" rspace="0" stretchy="false">|</mo>'),
    (r"<mo>&#x0002F;</mo>", '<mo lspace="0" rspace="0">/</mo>'),
    # log x, not logx
    (r"<mi>(log|cos|exp)</mi>(?=<m(?:i|n|sub|sup|row|frac)\b)", r'<mi>\1</mi><mspace width="0.17em"></mspace>'),
    # browsers know no variants of characters
    (r'<mn mathvariant="bold">1</mn>', "<mn>&#x1D7CF;</mn>"),
)

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What a terminal is told between the characters of a table."""

LONGEST = 40
"""Lines of text that one output of a notebook shows."""


def on_page_content(text: str, **_) -> str:
    """Every formula of the page as MathML."""
    return FORMULA.sub(lambda m: mathml(m.group(2), False) if m.group(3) is None else mathml(m.group(3), True), text)


def mathml(formula: str, block: bool) -> str:
    """A formula of LaTeX, as it stands in HTML."""
    latex = re.sub(r"\\(mathbb|mathbf|mathcal) (\w)", r"\\\1{\2}", html.unescape(formula))
    latex = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", latex)
    found = convert(latex, display="block" if block else "inline")
    for pattern, better in TYPOGRAPHY:
        found = re.sub(pattern, better, found)
    if "\\" in found or "<mi>&</mi>" in found:
        log.warning("no MathML for all of %s", latex)
    return found


def on_config(config):
    """The notebooks, in the order of their names, stand below the tutorial."""
    (section,) = (entry["Tutorial"] for entry in config.nav if "Tutorial" in entry)
    section += [f"notebooks/{path.stem}.md" for path in notebooks()]
    return config


def on_files(files, config):
    """One page notebooks/NAME.md for every notebook, as it was saved: nothing is run."""
    for path in notebooks():
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page_of(path)))
    files.append(File.generated(config, "gallery.md", content=gallery()))
    return files


def gallery() -> str:
    """Every figure of docs/figures.py above the function that draws it, in the order of the file."""
    source = FIGURES.read_text(encoding="utf-8")
    parts = [
        "# Gallery\n\nEvery figure with the lines that made it, from `docs/figures.py`; `python docs/figures.py NAME` "
        "draws it again. `flow_of`, `save` and `swept` are short helpers of that file: a flow with its limit, a file, "
        "a sweep. The functions of `gflow.plots` are in the [reference](reference/figures.md)."
    ]
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        text = ast.get_source_segment(source, node) or ""
        for name in re.findall(r'save\(figure, "(\w+)"\)', text) + re.findall(r'ASSETS / "(\w+\.gif)"', text):
            image = name if name.endswith(".gif") else f"{name}.png"
            about = " ".join((ast.get_docstring(node) or "").split())
            title = node.name.replace("_", " ").capitalize()
            parts.append(f"## {title}\n\n{about}\n\n![{title}](assets/{image})\n\n```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def notebooks() -> list[Path]:
    """Those that are there."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def page_of(path: Path) -> str:
    """A notebook as Markdown: text, code and what the code printed and drew."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            # links of the repository, ../docs/x.md and y.ipynb, as they are in the site
            parts.append(re.sub(r"\]\(([\w.-]+)\.ipynb", r"](\1.md", source.replace("](../docs/", "](../")))
        elif cell["cell_type"] == "code" and source.strip():
            parts.append(f"```python\n{source}\n```")
            parts += [shown for output in cell["outputs"] if (shown := _shown(output))]
    return "\n\n".join(parts) + "\n"


def _shown(output: dict) -> str:
    if output["output_type"] == "error":
        return _as_text(f"{output['ename']}: {output['evalue']}")
    if output["output_type"] == "stream":
        return _as_text(_joined(output["text"])) if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{"".join(_joined(data["image/png"]).split())}">'
    if "image/svg+xml" in data:
        return _joined(data["image/svg+xml"])
    if "text/markdown" in data:
        return _joined(data["text/markdown"])
    if "text/html" in data:
        return f"<div>{' '.join(_joined(data['text/html']).split())}</div>"
    return _as_text(_joined(data.get("text/plain", "")))


def _as_text(text: str) -> str:
    lines = COLOUR.sub("", text).rstrip().splitlines()
    if len(lines) > LONGEST:
        lines = [*lines[:LONGEST], "..."]
    return "````text\n" + "\n".join(lines) + "\n````" if lines else ""


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
