"""Figures as inline SVG: in the colours of the page, ids of their own, parts that tell their numbers when asked."""

from __future__ import annotations

import contextlib
import io
import re
from typing import NamedTuple
from xml.etree import ElementTree

INK = "#010203"
"""Text and axes are drawn in this colour, which becomes that of the page's text."""

LONGEST = 24
"""Letters of a tick label: longer ones would leave no room for the axes."""

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"

COLOURS = {INK: "currentColor", "#000000": "currentColor"}
COLOURS |= {"#0072b2": "var(--plus)", "#d55e00": "var(--minus)", "#009e73": "var(--global)"}
COLOURS |= {"#666666": "var(--neutral)", "#999999": "var(--grey)", "#bbbbbb": "var(--pale)"}
COLOURS |= {"#cccccc": "var(--paler)", "#dddddd": "var(--palest)"}
"""What the colours of gflow.plots are on a page that may be light or dark."""


class Drawn(NamedTuple):
    """`svg`: markup; `caption`: plain text."""

    svg: str
    caption: str


class Tips:
    """Texts of the parts of one figure that can be hovered over and focused, in the order of the arrow keys."""

    def __init__(self):
        self.texts: list[str] = []
        self.rings: set[int] = set()

    def mark(self, artist, text: str) -> None:
        """This artist tells `text`."""
        artist.set_gid(f"tip{len(self.texts)}")
        self.texts.append(text)

    def ring(self, ax, x: float, y: float, text: str, size: float = 9.0) -> None:
        """The point (x, y) tells `text`; a ring of this size (points) is seen around it when asked."""
        (ring,) = ax.plot([x], [y], "o", ms=size, mfc="none", mec=INK, mew=1.5, zorder=9, scalex=False, scaley=False)
        self.rings.add(len(self.texts))
        self.mark(ring, text)


@contextlib.contextmanager
def drawing():
    """Figures made inside are those of a page: nothing behind them, text and axes in INK."""
    import matplotlib

    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    options: dict = {**dict.fromkeys(names, INK), "figure.facecolor": "none", "axes.facecolor": "none"}
    # text that stays text is searched, copied and read out
    options |= {"svg.fonttype": "none", "svg.hashsalt": "gflow", "font.size": 10}
    with matplotlib.rc_context(options):
        yield


def plain(text: str) -> str:
    """Text of a store as matplotlib may draw it: short, no mathematics, nothing that XML cannot hold."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return (text if len(text) <= LONGEST else text[: LONGEST - 3] + "...").replace("$", r"\$")


def inline(figure, name: str, label: str, tips: Tips | None = None) -> str:
    """The figure as <svg> for the body of a page, where `name` is its own. `label`: what it shows, in words."""
    file = io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(file.getvalue())
    _drop(root)
    referenced = set(re.findall(r'#([\w.-]+)[")]', ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        _adapt(element, name, referenced, tips)
    for size in ("width", "height"):
        del root.attrib[size]
    # parts that take the focus must not be inside an image
    root.attrib |= {"role": "group" if tips and tips.texts else "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _drop(root) -> None:
    """Remove what is of a file of its own: metadata, and a style sheet that would hold for the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (SVG + "metadata", SVG + "style"):
                parent.remove(child)


def _adapt(element, name: str, referenced: set[str], tips: Tips | None) -> None:
    attributes = element.attrib
    own = attributes.pop("id", "")
    if own in referenced:
        attributes["id"] = f"{name}-{own}"
    if XLINK in attributes:
        attributes["href"] = re.sub("^#", f"#{name}-", attributes.pop(XLINK))
    for key in ("style", "clip-path", "fill", "stroke"):
        if key in attributes:
            text = attributes[key].replace("url(#", f"url(#{name}-")
            text = re.sub(r"#[0-9a-f]{6}\b", lambda found: COLOURS.get(found[0], found[0]), text)
            attributes[key] = re.sub(r"font-family: [^;]*", "font-family: inherit", text)
    number = re.fullmatch(r"tip(\d+)", own)
    if tips and number:
        k = int(number[1])
        attributes |= {"data-tip": tips.texts[k], "aria-label": tips.texts[k], "role": "img"}
        # one stop of the tab key per figure; arrow keys go on from there
        attributes |= {"tabindex": "0" if k == 0 else "-1", "class": "ring" if k in tips.rings else "part"}
